// Long runs of what `npm test` does briefly: random bytes, crashes, connections. Each prints its seed and its extent.
//   npm run soak                  all of them, at full length (about an hour)
//   npm run soak -- --short       at a length that CI can afford (some minutes)
//   npm run soak -- --only crash  one of them
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const root = fileURLToPath(new URL('..', import.meta.url));
const seed = String(randomInt(1, 2 ** 31));

/** `env`: the test's extent, full and short. */
const SOAKS = {
  port: {
    file: 'test/fuzz/port.test.ts',
    project: 'unit',
    seed: 'ANKA_FUZZ_SEED',
    env: { ANKA_FUZZ_FRAMES: ['100000000', '10000000'], ANKA_FUZZ_SECONDS: ['1200', '45'] },
  },
  services: { file: 'test/fuzz/services.test.ts', project: 'unit', env: { ANKA_FUZZ_TALKS: ['50000', '3000'] } },
  crash: { file: 'test/vm/crash.test.ts', project: 'world', seed: 'ANKA_CRASH_SEED', env: { ANKA_CRASH_ROUNDS: ['500', '60'] } },
  connections: { file: 'test/contract/tcp-path.test.ts', project: 'world', name: '10,000 half-open', env: { ANKA_SOAK_CONNECTIONS: ['1000000', '100000'] } },
};

const { values } = parseArgs({ options: { short: { type: 'boolean' }, only: { type: 'string' }, help: { type: 'boolean', short: 'h' } } });
const names = values.only ? [values.only] : Object.keys(SOAKS);
if (values.help || names.some((n) => !SOAKS[n])) {
  console.log(`usage: npm run soak -- [--short] [--only ${Object.keys(SOAKS).join('|')}]`);
  process.exit(values.help ? 0 : 2);
}

const outcome = { passed: 0, failed: 0 };
for (const name of names) {
  const soak = SOAKS[name];
  const env = Object.fromEntries(Object.entries(soak.env).map(([key, [full, short]]) => [key, process.env[key] ?? (values.short ? short : full)]));
  if (soak.seed) env[soak.seed] = process.env[soak.seed] ?? seed;
  console.log(
    `\n== soak ${name}: ${Object.entries(env)
      .map(([k, v]) => `${k}=${v}`)
      .join(' ')}`,
  );
  const args = ['vitest', 'run', '--project', soak.project, soak.file, ...(soak.name ? ['-t', soak.name] : [])];
  const run = spawnSync('npx', args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } });
  if (run.status === 0) outcome.passed++;
  else outcome.failed++;
}
console.log(`soaks: ${outcome.passed} passed, ${outcome.failed} failed`);
process.exit(outcome.failed === 0 ? 0 : 1);
