// Builds, checks, and runs every test; ends with the skipped ones by name and one line of counts.
import { spawn, spawnSync } from 'node:child_process';
import { createReadStream, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const work = mkdtempSync(join(tmpdir(), 'anka-test-'));
const bin = (name) => join(root, 'node_modules/.bin', name);

/** Runs one step; ends everything when it fails. */
function step(what, file, args) {
  console.log(`\n== ${what}`);
  const run = spawnSync(file, args, { cwd: root, stdio: 'inherit' });
  if (run.status !== 0) {
    console.log(`\n${what} failed`);
    process.exit(run.status ?? 1);
  }
}

step('build', process.execPath, ['scripts/build.mjs']);
step('types', bin('tsc'), ['-p', '.']);
step('lint', bin('biome'), ['check', '--error-on-warnings', '.']);
step('dead code', bin('knip'), []);

const counts = { passed: 0, failed: 0, skipped: 0 };
const skipped = [];
let status = 0;

/**
 * Runs one project's tests, or those of some folders, and notes how they ended. `output`: a file for what it prints.
 */
function suite(name, project, folders, env, output) {
  console.log(`\n== tests: ${name}`);
  const report = join(work, `${name}.json`);
  const args = ['run', '--project', project, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...folders];
  const out = output ? openSync(output, 'w') : 'inherit';
  const run = spawn(bin('vitest'), args, { cwd: root, stdio: ['inherit', out, out], env: { ...process.env, ...env } });
  return new Promise((resolve) => {
    run.on('close', (code) => {
      if (code !== 0) status = code ?? 1;
      note(name, report);
      resolve();
    });
  });
}

function note(name, report) {
  try {
    const result = JSON.parse(readFileSync(report, 'utf8'));
    counts.passed += result.numPassedTests;
    counts.failed += result.numFailedTests;
    for (const file of result.testResults) {
      for (const t of file.assertionResults) {
        if (t.status === 'passed' || t.status === 'failed') continue;
        counts.skipped++;
        skipped.push(t.fullName);
      }
    }
  } catch (cause) {
    console.log(`no report of ${name}: ${cause.message}`);
    status ||= 1;
  }
}

// any bytes into a port: ten million frames, or what a slow machine does in two minutes
await suite('unit', 'unit', [], { ANKA_FUZZ_FRAMES: '10000000', ANKA_FUZZ_SECONDS: '120', ...process.env });
// the others mostly wait, for guests that boot and for what must not come: two at a time, each with worlds of its own
const second = join(work, 'world.log');
await Promise.all([
  suite('guests and commands', 'world', ['test/vm', 'test/cli'], {}),
  suite('networks', 'world', ['test/contract', 'test/kernel'], { ANKA_TEST_WORLD: `${process.env.ANKA_TEST_WORLD ?? ''}n` }, second),
]);
console.log('\n== what the tests of networks printed');
await new Promise((resolve) => createReadStream(second).on('end', resolve).pipe(process.stdout, { end: false }));
rmSync(work, { recursive: true, force: true });
for (const s of skipped) console.log(`skipped: ${s}`);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(status || (counts.passed === 0 ? 1 : 0));
