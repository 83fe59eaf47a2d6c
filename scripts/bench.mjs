// Installs missing packages, builds, and runs the benchmarks with the same options (--help lists them).
import { spawnSync } from 'node:child_process';
import { delimiter } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
// where scripts/bench-peers.sh unpacks today's releases of other programs
const PATH = [`${root}.cache/bench-peers/bin`, process.env['PATH']].join(delimiter);
const step = (file, args) => {
  const run = spawnSync(file, args, { cwd: root, stdio: 'inherit', env: { ...process.env, PATH } });
  if (run.status !== 0) process.exit(run.status ?? 1);
};
if (!process.argv.includes('--help')) {
  step('bash', ['scripts/setup.sh', '--bench']);
  step(process.execPath, ['scripts/build.mjs']);
}
step(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...process.argv.slice(2)]);
