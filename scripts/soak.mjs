// Long runs of what `npm test` does briefly: random bytes, crashes, connections; and chaos. Each prints its extent.
//   npm run soak                  all of them but chaos, at full length (about an hour)
//   npm run soak -- --short       with a minute of chaos, at a length that CI can afford (some minutes)
//   npm run soak -- --only crash  one of them
//   npm run soak -- --chaos       test/chaos: ten minutes on both engines; --seed N, --seconds N
import { spawn } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { printFailures, runVitest } from './vitest-report.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const TEXT = { type: 'string' };
const { values } = parseArgs({
  options: { short: { type: 'boolean' }, only: TEXT, chaos: { type: 'boolean' }, seed: TEXT, seconds: TEXT, help: { type: 'boolean', short: 'h' } },
});
const seed = values.seed ?? String(randomInt(1, 2 ** 31));

/** `env`: the test's extent, full and short. Null: only in full, as `npm test` has enough of it. */
const SOAKS = {
  port: {
    file: 'test/fuzz/port.test.ts',
    project: 'unit',
    seed: 'ANKA_FUZZ_SEED',
    env: { ANKA_FUZZ_FRAMES: ['100000000', '10000000'], ANKA_FUZZ_SECONDS: ['1200', '45'] },
  },
  services: { file: 'test/fuzz/services.test.ts', project: 'unit', env: { ANKA_FUZZ_TALKS: ['50000', '3000'] } },
  dns: { file: 'test/conformance/dns-load.test.ts', project: 'world', env: { ANKA_DNS_SECONDS: ['600', null] } },
  crash: { file: 'test/vm/crash.test.ts', project: 'world', seed: 'ANKA_CRASH_SEED', env: { ANKA_CRASH_ROUNDS: ['500', null] } },
  walk: { file: 'test/cli/walk.test.ts', project: 'world', env: { ANKA_WALK: ['full', null] } },
  commands: { file: 'test/vm/guest-commands.test.ts', project: 'world', name: 'at once', env: { ANKA_SOAK_COMMANDS: ['30', '30'] } },
  connections: { file: 'test/contract/tcp-path.test.ts', project: 'world', name: '10,000 half-open', env: { ANKA_SOAK_CONNECTIONS: ['1000000', '50000'] } },
};

/** Of a short run, which is to give the same result for the same code. */
const SHORT_CHAOS_SEED = '1';

/**
 * Runs chaos on both engines at the same time; each line of output begins with the engine. Returns the failures, with
 * the lines from `FAILED` on.
 */
async function chaos() {
  const chaosSeed = values.short ? (values.seed ?? SHORT_CHAOS_SEED) : seed;
  const seconds = values.seconds ?? (values.short ? '60' : '600');
  console.log(`\n== soak chaos: seed=${chaosSeed} seconds=${seconds}`);
  const engine = (name) =>
    new Promise((resolve) => {
      const args = ['--import', 'tsx', 'test/chaos/main.ts', '--engine', name, '--seed', chaosSeed, '--seconds', seconds];
      const run = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
      const failure = [];
      createInterface({ input: run.stdout }).on('line', (line) => {
        if (failure.length > 0 || line.includes('FAILED')) failure.push(line);
        console.log(`${name.padEnd(6)} ${line}`);
      });
      run.on('close', (status) => resolve(status === 0 || status === SKIPPED ? [] : [{ name: `chaos, ${name} engine`, message: failure.join('\n') }]));
    });
  return (await Promise.all(['kernel', 'user'].map(engine))).flat();
}

/** Exit status of a run that this machine cannot do. */
const SKIPPED = 77;
const known = [...Object.keys(SOAKS), 'chaos'];
const chosen = values.chaos ? 'chaos' : values.only;
const inShort = (name) => Object.values(SOAKS[name].env).every(([, short]) => short !== null);
const usual = values.short ? [...Object.keys(SOAKS).filter(inShort), 'chaos'] : Object.keys(SOAKS);
const names = chosen ? [chosen] : usual;
if (values.help || names.some((n) => !known.includes(n))) {
  console.log(`usage: npm run soak -- [--short] [--only ${known.join('|')} | --chaos] [--seed N] [--seconds N (chaos)]`);
  process.exit(values.help ? 0 : 2);
}

/** Runs one of the tests; returns what failed. */
function soak(name) {
  const { env: extent, ...test } = SOAKS[name];
  const env = Object.fromEntries(Object.entries(extent).map(([key, [full, short]]) => [key, process.env[key] ?? (values.short ? (short ?? full) : full)]));
  if (test.seed) env[test.seed] = process.env[test.seed] ?? seed;
  const listed = Object.entries(env).map(([k, v]) => `${k}=${v}`);
  console.log(`\n== soak ${name}: ${listed.join(' ')}`);
  const args = ['--project', test.project, test.file, ...(test.name ? ['-t', test.name] : [])];
  const { failures } = runVitest(root, args, { ...process.env, ...env });
  return failures.map((f) => ({ ...f, name: `soak ${name} (${listed.join(' ')}), ${f.name}` }));
}

const failures = [];
let failed = 0;
for (const name of names) {
  const found = name === 'chaos' ? await chaos() : soak(name);
  failures.push(...found);
  if (found.length > 0) failed++;
}
printFailures(failures);
console.log(`soaks: ${names.length - failed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
