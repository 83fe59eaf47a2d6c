/** How long a guest takes until it can be used, in a namespace of its own. */
import { Anka } from '../test/world/anka.ts';
import { debianGuest, tinyGuest } from '../test/world/images.ts';
import { World } from '../test/world/world.ts';
import { spread, table } from './stats.ts';

const clock = (): number => Number(process.hrtime.bigint() / 1000n) / 1000;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const t = clock();
  await work();
  return clock() - t;
}

async function guestTimes(w: World, image: string, label: string, memory: string, quick: boolean): Promise<string[][]> {
  const anka = new Anka(w, image);
  const times = { create: [] as number[], lease: [] as number[], ssh: [] as number[] };
  for (let r = 0; r < (quick ? 1 : 3); r++) {
    times.create.push(await timed(() => anka.ok(`create -m ${memory} -d 4G vm`)));
    const t = clock();
    await anka.ok('start vm');
    await anka.address('vm');
    times.lease.push(clock() - t);
    await anka.ok('run vm true');
    times.ssh.push(clock() - t);
    await anka.ok('delete --yes vm');
  }
  await anka.ok('network reset');
  await anka.ok('daemon stop');
  return [
    [`create, warm (${label})`, `${spread(times.create, 0)} ms`],
    [`start until the guest has its lease (${label})`, `${spread(times.lease, 0)} ms`],
    [`start until ssh is usable (${label})`, `${spread(times.ssh, 0)} ms`],
  ];
}

/** Prints the table, and returns the rows. */
export async function benchTimes(quick: boolean): Promise<object> {
  const w = new World('bt-');
  try {
    const rows = await guestTimes(w, tinyGuest(), 'tiny guest', '128M', quick);
    if (!quick) rows.push(...(await guestTimes(w, await debianGuest(), 'Debian guest', '1G', quick)));
    console.log(`\n${table(['', 'median (range)'], rows)}`);
    return Object.fromEntries(rows);
  } finally {
    w.close();
  }
}
