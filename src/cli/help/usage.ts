/**
 * Usage errors in the wording of click (Python): a usage line, where to find help, and one sentence with the nearest
 * match.
 */
import type { Command, CommanderError } from 'commander';
import { nearest } from '../../lib/settings.ts';

/** The words that lead to a command: `anka modify VM set`. */
function commandPath(command: Command): string {
  const words: string[] = [];
  for (let c: Command | null = command; c; c = c.parent) words.unshift(c.name());
  return words.join(' ');
}

/** `anka clone [OPTIONS] VM NAME`. */
export function usageLine(command: Command): string {
  return `${commandPath(command)} ${command.usage()}`;
}

/** The whole message for standard error. */
export function usageText(command: Command, sentence: string): string {
  return `Usage: ${usageLine(command)}\nTry '${commandPath(command)} --help' for help.\n\nError: ${sentence}\n`;
}

function noSuchCommand(command: Command, word: string): string {
  const near = nearest(
    word,
    command.commands.flatMap((c) => [c.name(), ...c.aliases()]),
  );
  return `No such command '${word}'.${near ? ` Did you mean '${near}'?` : ''}`;
}

function noSuchOption(command: Command, word: string): string {
  const near = nearest(
    word,
    command.options
      .flatMap((o) => [o.long ?? '', o.short ?? ''])
      .concat('--help')
      .filter((o) => o !== ''),
  );
  return `No such option: ${word}.${near && near !== word ? ` Did you mean ${near}?` : ''}`;
}

/** The sentence for words that no operand takes. */
export function extraArguments(words: readonly string[]): string {
  return `Got unexpected extra argument${words.length > 1 ? 's' : ''} (${words.join(' ')}).`;
}

/** What commander rejected, in one sentence. */
export function sentence(command: Command, error: CommanderError): string {
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? '';
  switch (error.code) {
    case 'commander.unknownCommand':
      return noSuchCommand(command, quoted);
    case 'commander.unknownOption':
      return noSuchOption(command, quoted);
    case 'commander.missingArgument':
      return `Missing argument '${quoted.toUpperCase()}${command.registeredArguments.find((a) => a.name() === quoted)?.variadic ? '...' : ''}'.`;
    case 'commander.optionMissingArgument':
      return `Option '${quoted.split(/[ ,]+/)[0]}' requires an argument.`;
    case 'commander.excessArguments':
      if (command.commands.length > 0) return noSuchCommand(command, command.args[0] ?? '');
      return extraArguments(command.args.slice(command.registeredArguments.length));
    default:
      return error.message.replace(/^error: /, '');
  }
}
