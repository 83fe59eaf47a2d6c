/**
 * Parses a command line and runs its command.
 *
 * Limits: `-j`, `--debug` and `--log-level` may stand anywhere, except after the VM of `run` and `ssh`: from there on
 * every word belongs to the guest's command.
 */
import { type Command, CommanderError } from 'commander';
import { AnkaError } from '../lib/errors.ts';
import { sentence, usageText } from './help/usage.ts';
import type { Session } from './session.ts';
import { MODIFY_COMMANDS, modifyTree } from './tree/modify.ts';
import { buildTree } from './tree/tree.ts';

/** A usage error with the whole text for standard error. */
export class UsageError extends AnkaError {
  readonly text: string;
  constructor(command: Command, message: string) {
    super('usage', message);
    this.text = usageText(command, message);
  }
}

/** Options of `run` and `ssh` that take a value, by their last letter or long name. */
const GUEST_VALUE_OPTIONS = /^(-[A-Za-z]*[wDefv]|--(workdir|env|env-file|volume|timeout))$/;

/** Removes the flags that may stand anywhere. */
export function takeGlobalFlags(argv: readonly string[]): { words: string[]; machine: boolean; debug: boolean } {
  const words: string[] = [];
  let machine = false;
  let debug = false;
  let operands = 0;
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i] as string;
    const reachesGuest = words[0] === 'run' || words[0] === 'ssh';
    if (word === '--' || (reachesGuest && operands >= 2)) {
      words.push(...argv.slice(i));
      break;
    }
    if (word === '-j' || word === '--machine-readable') machine = true;
    else if (word === '--debug') debug = true;
    else if (word === '--log-level' || word.startsWith('--log-level=')) debug ||= (word === '--log-level' ? argv[++i] : word.slice(12)) === 'debug';
    else {
      if (!word.startsWith('-')) operands++;
      words.push(word);
      if (reachesGuest && GUEST_VALUE_OPTIONS.test(word) && i + 1 < argv.length) words.push(argv[++i] as string);
    }
  }
  return { words, machine, debug };
}

/** The innermost command that the words name, and how many words lead to it. */
function innermost(root: Command, words: readonly string[]): { command: Command; depth: number } {
  let command = root;
  let depth = 0;
  for (const w of words) {
    if (w.startsWith('-')) continue;
    const next = command.commands.find((c) => c.name() === w || c.aliases().includes(w));
    if (!next) break;
    command = next;
    depth++;
  }
  return { command, depth };
}

/** Parses and runs one stage. Throws a UsageError for what is wrong with the words. */
async function runStage(root: Command, words: readonly string[], s: Session): Promise<void> {
  const { command, depth } = innermost(root, words);
  const isBareGroup = command.commands.length > 0 && words.length === depth;
  if (isBareGroup && root.name() === 'anka' && words.length === 0) return s.out.done({}, root.helpInformation().trimEnd());
  if (isBareGroup) throw new UsageError(command, 'Missing command.');
  try {
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

/** Runs the command that the words name. */
export async function runCommandLine(s: Session, words: readonly string[]): Promise<void> {
  const root = buildTree(s);
  const [command, vm, ...rest] = words;
  if (command === '--version') return runStage(root, ['version'], s);
  if (command === 'help') return runStage(root, [...words.slice(1), '--help'], s);
  if (command !== 'modify' || vm === undefined || vm === '--help') return runStage(root, words, s);
  if (MODIFY_COMMANDS.includes(vm) && !MODIFY_COMMANDS.includes(rest[0] ?? '')) {
    const modify = root.commands.find((c) => c.name() === 'modify') as Command;
    throw new UsageError(modify, `Missing argument 'VM': use 'anka modify VM ${[vm, ...rest].join(' ')}', where VM is a name or UUID.`);
  }
  return runStage(modifyTree(s, vm), rest, s);
}
