/** Times of commands, and the daemon's memory and CPU time, in a namespace of its own. */
import { fileURLToPath } from 'node:url';
import { Anka } from '../test/world/anka.ts';
import { debianGuest, tinyGuest } from '../test/world/images.ts';
import { World } from '../test/world/world.ts';
import { cpu, resident } from './cost.ts';
import { spread, table } from './stats.ts';

const clock = (): number => Number(process.hrtime.bigint() / 1000n) / 1000;

async function timed(work: () => Promise<unknown>): Promise<number> {
  const t = clock();
  await work();
  return clock() - t;
}

async function rounds(count: number, work: (n: number) => Promise<unknown>): Promise<number[]> {
  const all: number[] = [];
  for (let i = 0; i < count; i++) all.push(await timed(() => work(i)));
  return all;
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
    const anka = new Anka(w, tinyGuest());
    for (let i = 0; i < 100; i++) {
      process.stderr.write(`\r\x1b[Kcreating VM ${i + 1} of 100`);
      await anka.ok(`create -m 128M -d 1G vm${i}`);
    }
    process.stderr.write('\r\x1b[K');
    await anka.ok('start vm0');
    await anka.address('vm0');
    const count = quick ? 5 : 20;
    // includes the few milliseconds that it takes to enter the namespace
    const direct = (line: string): Promise<number[]> =>
      rounds(count, () =>
        w.host.ask(`ANKA_HOME=${anka.home} exec ${process.execPath} ${fileURLToPath(new URL('../dist/cli/main.js', import.meta.url))} ${line}`),
      );
    rows.push(['list with 100 VMs, the whole command', `${spread(await direct('list'), 0)} ms`]);
    rows.push(['show of a running VM, the whole command', `${spread(await direct('show vm0'), 0)} ms`]);
    rows.push(['version (nothing but start-up)', `${spread(await direct('version'), 0)} ms`]);
    const pid = anka.daemonPid() as number;
    rows.push(['memory of the daemon with 100 VMs', `${resident([pid]).toFixed(0)} MiB`]);
    const [before, began] = [cpu([pid]), clock()];
    await new Promise((resolve) => setTimeout(resolve, quick ? 5000 : 20_000));
    rows.push(['CPU of the daemon, idle, one VM running', `${(((cpu([pid]) - before) / (clock() - began)) * 1e5).toFixed(2)} %`]);
    await anka.end();
    console.log(`\n${table(['', 'median (range)'], rows)}`);
    return Object.fromEntries(rows);
  } finally {
    w.close();
  }
}
