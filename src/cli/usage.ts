/** Wrong usage in click's words: a usage line, where to find help, and one sentence with the nearest match. */
import type { Command, CommanderError } from 'commander';
import { nearest } from '../lib/settings.ts';

/** `anka modify VM set`: the words that lead to a command. */
function path(command: Command): string {
  const words: string[] = [];
  for (let c: Command | null = command; c; c = c.parent) words.unshift(c.name());
  return words.join(' ');
}

function usageLine(command: Command): string {
  const operands = command.registeredArguments.map(
    (a) => `${a.required ? '' : '['}${a.name().toUpperCase()}${a.variadic ? '...' : ''}${a.required ? '' : ']'}`,
  );
  return `Usage: ${path(command)} [OPTIONS]${command.commands.length > 0 ? ' COMMAND [ARGS]...' : ''}${operands.map((o) => ` ${o}`).join('')}`;
}

/** The whole message for standard error. */
export function usageText(command: Command, sentence: string): string {
  return `${usageLine(command)}\nTry '${path(command)} --help' for help.\n\nError: ${sentence}\n`;
}

/** What commander found wrong, in one sentence. */
export function sentence(command: Command, error: CommanderError): string {
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? '';
  switch (error.code) {
    case 'commander.unknownCommand': {
      const near = nearest(
        quoted,
        command.commands.flatMap((c) => [c.name(), ...c.aliases()]),
      );
      return `No such command '${quoted}'.${near ? ` Did you mean '${near}'?` : ''}`;
    }
    case 'commander.unknownOption': {
      const near = nearest(
        quoted,
        command.options
          .flatMap((o) => [o.long ?? '', o.short ?? ''])
          .concat('--help')
          .filter((o) => o !== ''),
      );
      return `No such option: ${quoted}${near && near !== quoted ? ` Did you mean ${near}?` : ''}`;
    }
    case 'commander.missingArgument':
      return `Missing argument '${quoted.toUpperCase()}${command.registeredArguments.find((a) => a.name() === quoted)?.variadic ? '...' : ''}'.`;
    case 'commander.optionMissingArgument': {
      const option = /'([^']+)'/.exec(error.message)?.[1]?.split(/[ ,]+/)[0] ?? '';
      return `Option '${option}' requires an argument.`;
    }
    case 'commander.excessArguments': {
      const extra = command.args.slice(command.registeredArguments.length);
      if (command.commands.length > 0) {
        const near = nearest(
          command.args[0] ?? '',
          command.commands.map((c) => c.name()),
        );
        return `No such command '${command.args[0]}'.${near ? ` Did you mean '${near}'?` : ''}`;
      }
      return `Got unexpected extra argument${extra.length > 1 ? 's' : ''} (${extra.join(' ')})`;
    }
    default:
      return error.message.replace(/^error: /, '');
  }
}
