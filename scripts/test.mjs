// Builds, checks, and runs every test; prints the slowest files, the skipped tests by name, and, last, what failed and
// one line of counts: where only the end of a long output is kept, the failures are in it.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const SLOWEST = 12;
/** Lines kept of each failure's message. */
const MESSAGE_LINES = 12;
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

const work = mkdtempSync(join(tmpdir(), 'anka-test-'));
const counts = { passed: 0, failed: 0, skipped: 0 };
const skipped = [];
const failures = [];
const files = [];
let status = 0;

/** Runs one project's tests and adds their outcome to the counts. */
function suite(project) {
  console.log(`\n== tests: ${project}`);
  const report = join(work, `${project}.json`);
  const args = ['vitest', 'run', '--project', project, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const run = spawnSync('npx', args, { cwd: root, stdio: 'inherit' });
  status ||= run.status ?? 1;
  try {
    const result = JSON.parse(readFileSync(report, 'utf8'));
    counts.passed += result.numPassedTests;
    counts.failed += result.numFailedTests;
    for (const file of result.testResults) {
      files.push({ name: relative(root, file.name), seconds: (file.endTime - file.startTime) / 1000 });
      const failed = file.assertionResults.filter((t) => t.status === 'failed');
      for (const t of failed) failures.push({ name: `${relative(root, file.name)}: ${t.fullName}`, message: t.failureMessages.join('\n') });
      if (file.status === 'failed' && failed.length === 0) failures.push({ name: relative(root, file.name), message: file.message });
      for (const t of file.assertionResults) if (t.status !== 'passed' && t.status !== 'failed') skipped.push(t.fullName);
    }
  } catch (cause) {
    console.log(`no report of ${project}: ${cause.message}`);
    status ||= 1;
  }
}

for (const project of ['unit', 'world']) suite(project);
rmSync(work, { recursive: true, force: true });

console.log('\n== slowest files (seconds)');
for (const f of files.sort((a, b) => b.seconds - a.seconds).slice(0, SLOWEST)) console.log(`${f.seconds.toFixed(0).padStart(6)}  ${f.name}`);
console.log();
for (const name of skipped) console.log(`skipped: ${name}`);
counts.skipped = skipped.length;
for (const { name, message } of failures) {
  const lines = message.split('\n').slice(0, MESSAGE_LINES);
  console.log(`\nfailed: ${name}\n${lines.map((line) => `  ${line}`).join('\n')}`);
}
console.log(`all of it took ${Math.round((Date.now() - started) / 1000)} s`);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(status || (counts.passed === 0 ? 1 : 0));
