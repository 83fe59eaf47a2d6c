/**
 * The chaos run (docs/architecture.md, Tests): two real guests under traffic, while a seeded script breaks what is
 * around them. One engine per run; `npm run soak -- --chaos` starts both.
 *
 *     main.ts --engine kernel|user [--seed N] [--seconds N] [--phase N] [--keep-going]
 *
 * Theory of operation: phase by phase, until the time is over. A phase does a few actions, holds them for a while, and
 * takes them back; then everything has to work again, and nothing else may be wrong. At the end the VMs are deleted,
 * and nothing may be left. `--phase` runs one phase only, `--keep-going` goes on after a failure. Exit status 1 on a
 * failure, 77 where it cannot run.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { missing } from '../world/world.ts';
import { actionsOf } from './actions/all.ts';
import { heal, learnFindings } from './checks.ts';
import { leftovers, memory, violations } from './invariants.ts';
import { type Phase, planPhase, type Undo } from './plan.ts';
import { type Engine, Site } from './site.ts';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { engine: text, seed: text, seconds: text, phase: text, 'keep-going': { type: 'boolean' } } });
const engine = (values.engine ?? 'kernel') as Engine;
const seed = Number(values.seed ?? randomInt(1, 2 ** 31));
const seconds = Number(values.seconds ?? 600);
const only = values.phase === undefined ? null : Number(values.phase);

const began = performance.now();
const since = (): number => (performance.now() - began) / 1000;
const log = (line: string): void => console.log(`${since().toFixed(1).padStart(7)} s  ${line}`);

/** Does a phase's actions and takes them back. */
async function disturb(site: Site, phase: Phase): Promise<void> {
  const undos: [name: string, undo: Undo][] = [];
  for (const { action, random, pause } of phase.steps) {
    log(`phase ${phase.number}: ${action.name}`);
    const undo = await action.act(site, random);
    if (undo) undos.push([action.name, undo]);
    await sleep(pause);
  }
  await sleep(phase.hold);
  for (const [name, undo] of undos.reverse()) {
    log(`phase ${phase.number}: over: ${name}`);
    await undo();
  }
  await site.settled();
}

/** Runs the phases; returns how many. Throws at the first that does not heal, or that violates something. */
async function run(site: Site): Promise<{ phases: number; slowest: number; largest: number }> {
  const actions = actionsOf(engine);
  let number = only ?? 1;
  let slowest = 0;
  let largest = 0;
  let failed = 0;
  const end = since() + seconds;
  for (; since() < end && (only === null || number === only); number++) {
    const phase = planPhase(seed, number, actions);
    try {
      await disturb(site, phase);
      const ms = await heal(site, log);
      slowest = Math.max(slowest, ms);
      largest = Math.max(largest, ...memory(site).map(([, bytes]) => bytes));
      log(`phase ${number}: everything works after ${(ms / 1000).toFixed(1)} s`);
      const wrong = violations(site);
      if (wrong.length > 0) throw new Error(wrong.join('\n'));
    } catch (cause) {
      const what = `phase ${number} (${phase.steps.map((s) => s.action.name).join('; ')}): ${(cause as Error).message}`;
      log(`FAILED: ${what}\nreplay: --engine ${engine} --seed ${seed} --phase ${number}`);
      if (!values['keep-going']) throw new Error('a phase failed', { cause });
      failed++;
    }
  }
  if (failed > 0) throw new Error(`${failed} phases failed`);
  return { phases: number - (only ?? 1), slowest, largest };
}

async function main(): Promise<void> {
  const why = missing('root', 'netns', 'tun', 'qemu', 'cc');
  if (why !== null) {
    console.log(`chaos, ${engine} engine: skipped, ${why}`);
    process.exit(77);
  }
  console.log(`chaos, ${engine} engine: seed ${seed}, ${seconds} s, ${new Date().toISOString()}`);
  const site = new Site(engine);
  let failure: Error | null = null;
  try {
    await site.begin();
    log(`everything works after ${((await heal(site, log)) / 1000).toFixed(1)} s`);
    await learnFindings(site);
    const { phases, slowest, largest } = await run(site);
    log(`${phases} phases; the slowest healed in ${(slowest / 1000).toFixed(1)} s; at most ${Math.round(largest / 1e6)} MB in one process`);
    for (const [i, counts] of (await site.traffic()).entries()) log(`successes from ${['outside', 'the host'][i]}: ${JSON.stringify(counts)}`);
    const left = await leftovers(site);
    if (left.length > 0) throw new Error(`left after all VMs were deleted:\n${left.join('\n')}`);
    log('nothing is left');
  } catch (cause) {
    failure = cause as Error;
    log(`FAILED: ${failure.message}`);
  }
  if (failure && process.env['ANKA_CHAOS_KEEP']) return log(`kept: ${site.world.dir}`);
  site.close();
  process.exit(failure ? 1 : 0);
}

await main();
