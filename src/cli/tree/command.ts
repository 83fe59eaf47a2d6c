/** How commands are declared: one call gives a command its operands, texts and usage line. */
import { Command } from 'commander';
import { usageLine } from '../help/usage.ts';

export interface Declaration {
  /** Imperative sentence; it stands alone in the list of commands. */
  summary: string;
  /** More sentences, for the command's own help and man page. */
  details?: string;
  /** Lines of the help before the examples. */
  listing?: string;
  examples: readonly string[];
  /** Overrides the usage that is derived from the operands. */
  usage?: string;
}

/** Usage of a command that has subcommands. */
export const GROUP_USAGE = '[OPTIONS] COMMAND [ARGS]...';

const EXAMPLES = new WeakMap<Command, readonly string[]>();

/** The examples in a command's help. */
export function examplesOf(command: Command): readonly string[] {
  return EXAMPLES.get(command) ?? [];
}

/** A bare command. Its help uses the wording of click (Python), which users of Anka know. */
export function newCommand(name: string): Command {
  return new Command(name)
    .usage(GROUP_USAGE)
    .helpOption('--help', 'Show this message and exit.')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {}, writeErr: () => {} })
    .allowExcessArguments(false)
    .configureHelp({
      sortSubcommands: false,
      helpWidth: 100,
      styleTitle: (title) => title,
      commandUsage: usageLine,
      subcommandTerm: (c) => [c.name(), ...c.aliases()].join(', '),
    });
}

/** Adds a command to `parent`. `spec` is its name and its operands: `clone <VM> <NAME>`. */
export function declare(parent: Command, spec: string, d: Declaration): Command {
  const [name, ...operands] = spec.split(' ');
  const derived = ['[OPTIONS]', ...operands.map((o) => o.replace(/^<(.*)>$/, '$1'))].join(' ');
  const command = newCommand(name as string)
    .summary(d.summary)
    .description(d.details === undefined ? d.summary : `${d.summary} ${d.details}`)
    .usage(d.usage ?? derived);
  for (const o of operands) command.argument(o);
  if (d.listing !== undefined) command.addHelpText('after', `\n${d.listing}`);
  addExamples(command, d.examples);
  parent.addCommand(command);
  return command;
}

function addExamples(command: Command, lines: readonly string[]): void {
  EXAMPLES.set(command, lines);
  command.addHelpText('after', `\nExamples:\n${lines.map((l) => `  ${l}`).join('\n')}`);
}
