// Builds, checks, and runs every test; ends with the skipped ones by name and one line of counts.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
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
for (const project of ['unit', 'world']) {
  console.log(`\n== tests: ${project}`);
  const report = join(work, `${project}.json`);
  const run = spawnSync(bin('vitest'), ['run', '--project', project, '--reporter=default', '--reporter=json', `--outputFile.json=${report}`], {
    cwd: root,
    stdio: 'inherit',
    // any bytes into a port: ten million frames, or what a slow machine does in two minutes
    env: { ANKA_FUZZ_FRAMES: '10000000', ANKA_FUZZ_SECONDS: '120', ...process.env },
  });
  if (run.status !== 0) status = run.status ?? 1;
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
    console.log(`no report of ${project}: ${cause.message}`);
    status ||= 1;
  }
}
rmSync(work, { recursive: true, force: true });
for (const s of skipped) console.log(`skipped: ${s}`);
console.log(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(status || (counts.passed === 0 ? 1 : 0));
