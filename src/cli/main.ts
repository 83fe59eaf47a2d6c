#!/usr/bin/env node
/**
 * `anka`: reads the command line, runs one command, and ends with its status: 0, 2 for wrong usage, else the error's
 * code.
 *
 * Limits: `-j` and `--debug` may stand anywhere, but not behind the VM of `run` and `ssh`, where every word is the
 * guest's.
 */
import { type Command, CommanderError } from 'commander';
import { AnkaError } from '../lib/errors.ts';
import { Output } from './output.ts';
import { createSession, type Session } from './session.ts';
import { buildTree, modifyTree } from './tree.ts';
import { sentence, usageText } from './usage.ts';

const VERBS = ['set', 'add', 'delete', 'network', 'port'];

/** Takes the flags out that may stand anywhere. */
export function takeGlobalFlags(argv: readonly string[]): { rest: string[]; machine: boolean; debug: boolean } {
  const rest: string[] = [];
  let machine = false;
  let debug = false;
  let operands = 0;
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    const guestWords = (rest[0] === 'run' || rest[0] === 'ssh') && operands >= 2;
    if (word === '--' || guestWords) {
      rest.push(...argv.slice(i));
      break;
    }
    if (word === '-j' || word === '--machine-readable') machine = true;
    else if (word === '--debug') debug = true;
    else {
      if (!word.startsWith('-')) operands++;
      rest.push(word);
    }
  }
  return { rest, machine, debug };
}

/** The command that commander was in when it gave up: the deepest one named by the words. */
function deepest(root: Command, words: readonly string[]): Command {
  let at = root;
  for (const w of words) {
    if (w.startsWith('-')) continue;
    const next = at.commands.find((c) => c.name() === w || c.aliases().includes(w));
    if (!next) break;
    at = next;
  }
  return at;
}

/** Parses and runs one stage; usage errors come back as `usage` errors with the whole click-like text. */
async function runTree(root: Command, words: readonly string[], s: Session): Promise<void> {
  const command = deepest(root, words);
  try {
    if (
      command.commands.length > 0 &&
      !words.some((w) => w === '--help') &&
      command === deepest(root, words) &&
      words.filter((w) => !w.startsWith('-')).length === depth(root, command)
    ) {
      const unknown = words.find((w) => w.startsWith('-'));
      if (!unknown) {
        if (words.length === 0 && root.name() === 'anka') return s.out.done({}, root.helpInformation().trimEnd());
        throw new UsageError(command, 'Missing command.');
      }
    }
    await root.parseAsync([...words], { from: 'user' });
  } catch (cause) {
    if (cause instanceof CommanderError) {
      if (cause.code === 'commander.helpDisplayed' || cause.code === 'commander.help') return;
      throw new UsageError(command, sentence(command, cause));
    }
    if (cause instanceof AnkaError && cause.kind === 'usage') throw new UsageError(command, cause.message);
    throw cause;
  }
}

function depth(root: Command, command: Command): number {
  let n = 0;
  for (let c: Command | null = command; c && c !== root; c = c.parent) n++;
  return n;
}

class UsageError extends AnkaError {
  readonly text: string;
  constructor(command: Command, message: string) {
    super('usage', message);
    this.text = usageText(command, message);
  }
}

async function main(): Promise<void> {
  const { rest, machine, debug } = takeGlobalFlags(process.argv.slice(2));
  if (debug) process.env['ANKA_DEBUG'] = '1';
  const out = new Output(machine || process.env['ANKA_MACHINE_READABLE'] === '1');
  const s = createSession(out);
  try {
    const root = buildTree(s);
    const [command, vm, ...words] = rest;
    if (command === 'modify' && vm !== undefined && vm !== '--help') {
      if (VERBS.includes(vm) && !VERBS.includes(words[0] ?? '')) {
        throw new UsageError(
          root.commands.find((c) => c.name() === 'modify') as Command,
          `Missing argument 'VM': write 'anka modify VM ${[vm, ...words].join(' ')}', with the VM's name or UUID.`,
        );
      }
      await runTree(modifyTree(s, vm), words, s);
    } else if (command === '--version') await runTree(root, ['version'], s);
    else if (command === 'help') await runTree(root, [...rest.slice(1), '--help'], s);
    else await runTree(root, rest, s);
  } catch (cause) {
    if (cause instanceof UsageError && !out.machine) {
      process.stderr.write(cause.text);
      process.exitCode = cause.code;
    } else process.exitCode = out.failed(cause);
  }
}

process.stdout.on('error', (e: NodeJS.ErrnoException) => {
  if (e.code === 'EPIPE') process.exit(0); // the reader has enough
  throw e;
});
await main();
