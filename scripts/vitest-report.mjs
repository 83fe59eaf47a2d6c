// Runs vitest and reads its report; prints failures where they are found: at the end of the output.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

/** Lines kept of each failure's message. */
const MESSAGE_LINES = 12;

/**
 * Runs `vitest run ARGS` in `root`. `failures` are {name, message}, `skipped` names, `files` {name, seconds}. `status`
 * is not 0 if a test failed, or vitest itself, which then is a failure too.
 */
export function runVitest(root, args, env = process.env) {
  const work = mkdtempSync(join(tmpdir(), 'anka-test-'));
  const report = join(work, 'report.json');
  const outcome = { status: 0, passed: 0, failures: [], skipped: [], files: [] };
  try {
    const words = ['vitest', 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`, ...args];
    outcome.status = spawnSync('npx', words, { cwd: root, stdio: 'inherit', env }).status ?? 1;
    for (const file of JSON.parse(readFileSync(report, 'utf8')).testResults) addFile(outcome, file, relative(root, file.name));
  } catch (cause) {
    outcome.status ||= 1;
    outcome.failures.push({ name: `vitest ${args.join(' ')}`, message: `no report: ${cause.message}` });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  if (outcome.status !== 0 && outcome.failures.length === 0)
    outcome.failures.push({ name: `vitest ${args.join(' ')}`, message: 'an error outside the tests: see above' });
  return outcome;
}

function addFile(outcome, file, name) {
  outcome.files.push({ name, seconds: (file.endTime - file.startTime) / 1000 });
  const failed = file.assertionResults.filter((t) => t.status === 'failed');
  for (const t of failed) outcome.failures.push({ name: `${name}: ${t.fullName}`, message: t.failureMessages.join('\n') });
  if (file.status === 'failed' && failed.length === 0) outcome.failures.push({ name, message: file.message });
  for (const t of file.assertionResults) {
    if (t.status === 'passed') outcome.passed++;
    else if (t.status !== 'failed') outcome.skipped.push(t.fullName);
  }
}

/** Prints each failure with the beginning of its message. */
export function printFailures(failures) {
  for (const { name, message } of failures) {
    const lines = message.split('\n').slice(0, MESSAGE_LINES);
    console.log(`\nfailed: ${name}\n${lines.map((line) => `  ${line}`).join('\n')}`);
  }
}
