#!/usr/bin/env node
/** `anka`: runs one command and exits with its status: 0, 2 for a usage error, otherwise the error's code. */
import '../host/no-debugger.ts';
import { AnkaError } from '../lib/errors.ts';
import { Output } from './output/output.ts';
import { runCommandLine, takeGlobalFlags, UsageError } from './parse.ts';
import { createSession } from './session.ts';

/** Whether the command has ended. */
let ended = false;

async function main(): Promise<void> {
  const { words, machine, debug } = takeGlobalFlags(process.argv.slice(2));
  if (debug || process.env['ANKA_LOG_LEVEL'] === 'debug') process.env['ANKA_DEBUG'] = '1';
  const out = new Output(machine || process.env['ANKA_MACHINE_READABLE'] === '1');
  try {
    await runCommandLine(createSession(out), words);
  } catch (cause) {
    if (cause instanceof UsageError && !out.machine) {
      process.stderr.write(cause.text);
      process.exitCode = cause.code;
    } else process.exitCode = out.failed(cause);
  }
  ended = true;
}

process.stdout.on('error', (e: NodeJS.ErrnoException) => {
  if (e.code === 'EPIPE') process.exit(); // the reader closed the pipe: no error, as with `anka list | head -1`
  process.exit(new Output(false).failed(new AnkaError(e.code === 'ENOSPC' ? 'diskFull' : 'badValue', `cannot write standard output: ${e.message}`)));
});
process.stderr.on('error', () => {}); // nobody reads messages any more, or their disk is full: the command continues
// nothing is left that could complete it: without this, it would exit as if it had succeeded
process.once('beforeExit', () => {
  if (!ended) process.exitCode = new Output(false).failed(new AnkaError('internal', 'the command was not completed; run it again'));
});
void main();
