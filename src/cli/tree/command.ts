/** How commands are declared: one call gives a command its operands, texts and usage line. */
import { Command, Option } from 'commander';
import { usageLine } from '../help/usage.ts';
import type { Session } from '../session.ts';

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
  /** Of another version of Anka only (docs/clients.md). */
  hidden?: true;
}

/** Usage of a command that has subcommands. */
export const GROUP_USAGE = '[OPTIONS] COMMAND [ARGS]...';

const HIDDEN = new WeakSet<Command>();
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
  if (d.hidden) HIDDEN.add(command);
  parent.addCommand(command, { hidden: d.hidden ?? false });
  return command;
}

function addExamples(command: Command, lines: readonly string[]): void {
  EXAMPLES.set(command, lines);
  command.addHelpText('after', `\nExamples:\n${lines.map((l) => `  ${l}`).join('\n')}`);
}

/**
 * Takes options that other versions of Anka have and that mean nothing here: they are not in the help, and one line on
 * standard error says why they do nothing. `flags` as in commander, such as `-u, --update-addons`.
 */
export function acceptUnused(command: Command, s: Session, options: readonly [flags: string, why: string][]): Command {
  const reasons = new Map<string, string>();
  for (const [flags, why] of options) {
    const option = new Option(flags, 'Accepted without effect.').hideHelp();
    command.addOption(option);
    if (!reasons.has(option.attributeName())) reasons.set(option.attributeName(), `${flags.split(' ')[0]?.replace(',', '')} has no effect: ${why}`);
  }
  return command.hook('preAction', () => {
    for (const [name, note] of reasons) if (command.getOptionValueSource(name) === 'cli') s.out.remark(note);
  });
}

/** Takes options that other versions of Anka have and that ask for what is done anyway. They are not in the help. */
export function acceptGiven(command: Command, flags: readonly string[]): Command {
  for (const f of flags) command.addOption(new Option(f, 'Accepted: it is done anyway.').hideHelp());
  return command;
}

/** The commands that help, completion and manual pages show. */
export const visibleCommands = (command: Command): Command[] => command.commands.filter((c) => !HIDDEN.has(c));

/** The options that help, completion and manual pages show. */
export const visibleOptions = (command: Command): Option[] => command.options.filter((o) => !o.hidden);

/** Parser of an option that may be repeated; `before` is no list where the option has a negative form, too. */
export const collect = (value: string, before: unknown): string[] => [...(Array.isArray(before) ? before : []), value];
