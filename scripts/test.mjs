// Builds, checks, and runs every test; prints the slowest files, the skipped tests by name, and, last, what failed and
// one line of counts: where only the end of a long output is kept, the failures are in it.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { printFailures, runVitest } from './vitest-report.mjs';

const SLOWEST = 12;
const root = fileURLToPath(new URL('..', import.meta.url));

/** Runs one step, and then prints its output. True when it succeeded. */
function step(what, file, args) {
  const run = spawn(file, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [run.stdout, run.stderr]) stream.on('data', (d) => (output += d));
  return new Promise((resolve) => {
    run.on('close', (status) => {
      console.log(`\n== ${what}${status === 0 ? '' : ': failed'}`);
      process.stdout.write(output);
      resolve(status === 0);
    });
  });
}

const started = Date.now();
const steps = [
  step('build', process.execPath, ['scripts/build.mjs']),
  step('types', 'npx', ['tsc', '-p', '.']),
  step('lint', 'npm', ['run', '--silent', 'lint']),
];
if ((await Promise.all(steps)).includes(false)) process.exit(1);

const runs = ['unit', 'world'].map((project) => {
  console.log(`\n== tests: ${project}`);
  return runVitest(root, ['--project', project]);
});
const [passed, failures, skipped, files] = ['passed', 'failures', 'skipped', 'files'].map((what) => runs.flatMap((run) => run[what]));

console.log('\n== slowest files (seconds)');
for (const f of files.sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST)) console.log(`${f.seconds.toFixed(0).padStart(6)}  ${f.name}`);
console.log();
for (const name of skipped) console.log(`skipped: ${name}`);
printFailures(failures);
console.log(`all of it took ${Math.round((Date.now() - started) / 1000)} s`);
const total = passed.reduce((a, b) => a + b, 0);
console.log(`${total} passed, ${failures.length} failed, ${skipped.length} skipped`);
process.exit(failures.length > 0 || total === 0 ? 1 : 0);
