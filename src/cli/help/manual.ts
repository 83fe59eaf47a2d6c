/** The man pages in mdoc(7), generated from the command tree: `anka.1`, one page per command, and `ankad.8`. */
import type { Command, Option } from 'commander';
import { SETTINGS } from '../../lib/settings.ts';
import { examplesOf, visibleCommands, visibleOptions } from '../tree/command.ts';

/** Date of the last change to the texts, which mdoc wants on every page. */
const DATE = 'November 29, 2026';

/** Exit statuses in `anka.1`. */
const EXIT_STATUSES: [string, string][] = [
  ['0', 'Success.'],
  ['2', 'Usage error.'],
  ['3', 'No such VM.'],
  ['18', 'The name is already in use.'],
  [
    '125',
    'The connection to the guest was lost: the VM stopped, was suspended or was moved to another network. anka run: or the guest was not reached in time.',
  ],
  ['141', 'anka run, anka ssh, anka daemon run: nobody reads the output any more.'],
  ['128 + N', 'anka run, anka ssh: signal N ended the command in the guest.'],
];

/** Escapes text for roff. */
function escapeRoff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replace(/^([.'])/gm, '\\&$1')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq');
}

/** One argument of a macro; `\\&` keeps it from being parsed as a macro or as punctuation. */
function argument(text: string): string {
  return `"\\&${escapeRoff(text)}"`;
}

/** One sentence per line, and lines of at most 80 characters, as mandoc's lint demands. */
function prose(text: string): string {
  return text
    .replace(/([.!?:]) (?=[A-Z`(])/g, '$1\n')
    .replace(/(.{1,72})(?: |$)/gm, '$1\n')
    .split('\n')
    .filter((l) => l !== '')
    .map(escapeRoff)
    .join('\n');
}

/** The words that lead to a command, without the program's name: `network reset`. */
function words(command: Command): string[] {
  const found: string[] = [];
  for (let c: Command | null = command; c?.parent; c = c.parent) found.unshift(c.name());
  return found;
}

function flags(o: Option): string {
  const value = /<([^>]+)>/.exec(o.flags)?.[1];
  return `Fl ${[o.short, o.long]
    .filter((f) => f !== undefined && f !== null)
    .map((f) => argument((f as string).slice(1)))
    .join(' , Fl ')}${value ? ` Ar ${argument(value)}` : ''}`;
}

function synopsisOption(o: Option): string {
  const value = /<([^>]+)>/.exec(o.flags)?.[1];
  return `.Op Fl ${argument((o.short ?? o.long ?? '').slice(1))}${value ? ` Ar ${argument(value)}` : ''}`;
}

function synopsis(command: Command, lead: string[]): string {
  const operands = command.registeredArguments.map((a) => {
    const name = `Ar ${argument(a.name().toUpperCase())}${a.variadic ? ' ...' : ''}`;
    return a.required ? `.${name}` : `.Op ${name}`;
  });
  return ['.Nm anka', ...lead.map((w) => (/^[A-Z]+$/.test(w) ? `.Ar ${w}` : `.Cm ${w}`)), ...visibleOptions(command).map(synopsisOption), ...operands].join(
    '\n',
  );
}

function optionList(command: Command): string[] {
  if (visibleOptions(command).length === 0) return [];
  return ['.Bl -tag -width Ds', ...visibleOptions(command).flatMap((o) => [`.It ${flags(o)}`, prose(o.description)]), '.El'];
}

function exampleList(lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['.Sh EXAMPLES', '.Bd -literal', ...lines.map((l) => escapeRoff(l)), '.Ed'];
}

/** The start of a page. A man page's one-line description has neither capital nor full stop. */
function head(name: string, section: string, summary: string): string[] {
  const description = summary.replace(/\.$/, '').replace(/^[A-Z](?=[a-z])/, (c) => c.toLowerCase());
  return [`.Dd ${DATE}`, `.Dt ${name.toUpperCase()} ${section}`, '.Os', '.Sh NAME', `.Nm ${name}`, `.Nd ${escapeRoff(description)}`];
}

/** The commands under one that have no commands of their own. */
function leaves(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : visibleCommands(command).flatMap(leaves);
}

function leafSection(command: Command, lead: string[]): string[] {
  return [`.Ss anka ${lead.join(' ')}`, synopsis(command, lead), '.Pp', prose(command.description()), ...optionList(command)];
}

interface Leaf {
  command: Command;
  /** The words that lead to it. */
  words: string[];
}

/** The page of a top-level command. `inner` is the tree behind `modify VM`. */
function commandPage(command: Command, inner: Command): string {
  const name = command.name();
  const page = `anka-${name}`;
  const subcommands: Leaf[] = [];
  if (name === 'modify') subcommands.push(...leaves(inner).map((c) => ({ command: c, words: ['modify', 'VM', ...words(c)] })));
  else if (command.commands.length > 0) subcommands.push(...leaves(command).map((c) => ({ command: c, words: words(c) })));
  const examples = [command, ...subcommands.map((s) => s.command)].flatMap(examplesOf);
  return finish([
    ...head(page, '1', command.summary()),
    '.Sh SYNOPSIS',
    ...(subcommands.length === 0 ? [synopsis(command, [name])] : subcommands.map(shortSynopsis)),
    '.Sh DESCRIPTION',
    prose(command.description()),
    ...command.aliases().flatMap((alias) => ['.Pp', 'Alias:', `.Cm ${alias} .`]),
    ...(subcommands.length === 0 ? optionList(command) : subcommands.flatMap((s) => leafSection(s.command, s.words))),
    ...(name === 'config' ? settingList() : []),
    '.Sh EXIT STATUS',
    '0 on success, 2 for a usage error, otherwise the code of the error; see',
    '.Xr anka 1 .',
    ...exampleList([...new Set(examples)]),
    '.Sh SEE ALSO',
    '.Xr anka 1',
  ]);
}

function shortSynopsis(leaf: Leaf): string {
  return ['.Nm anka', ...leaf.words.map((w) => (w === 'VM' ? '.Ar VM' : `.Cm ${w}`)), '.Ar ...'].join('\n');
}

function settingList(): string[] {
  return [
    '.Ss Settings',
    '.Bl -tag -width Ds',
    ...SETTINGS.flatMap((s) => [`.It Cm ${argument(s.key)}`, `${prose(s.description)}${s.default === '' ? '' : `\nDefault: ${escapeRoff(s.default)}.`}`]),
    '.El',
  ];
}

const ENVIRONMENT_AND_FILES = [
  '.Sh ENVIRONMENT',
  'The variable',
  '.Ev ANKA_KEY',
  'overrides the setting KEY of',
  '.Xr anka-config 1',
  'for one command.',
  '.Bl -tag -width Ds',
  '.It Ev ANKA_MACHINE_READABLE',
  '1 has the same effect as',
  '.Fl j .',
  '.It Ev ANKA_HOME',
  'Directory for all state and sockets, instead of those below.',
  '.El',
  '.Sh FILES',
  '.Bl -tag -width Ds',
  '.It Pa /var/lib/anka',
  'State of the daemon of root: database, disks, leases, log.',
  '.It Pa /run/anka',
  'Its sockets.',
  '.It Pa ~/.local/share/anka',
  'State of the daemon of another user, or',
  '.Pa anka',
  'in',
  '.Ev XDG_DATA_HOME .',
  'Its sockets are in the directory',
  '.Pa run',
  'there, or below',
  '.Pa /tmp/anka-UID',
  'if their paths would be too long.',
  '.El',
];

function mainPage(root: Command): string {
  return finish([
    ...head('anka', '1', root.description()),
    '.Sh SYNOPSIS',
    '.Nm',
    '.Op Fl j',
    '.Op Fl \\-debug',
    '.Ar COMMAND',
    '.Op Ar ...',
    '.Sh DESCRIPTION',
    prose(root.description()),
    'Each VM has one network card, which is connected to a network:',
    '.Cm shared',
    '(NAT and DHCP),',
    '.Cm host',
    '(this host and its VMs only) or',
    '.Cm bridge',
    '(the Ethernet network of an interface of the host).',
    'A',
    '.Cm disconnected',
    'card has no link.',
    ...optionList(root),
    '.Sh COMMANDS',
    'Each command has its own man page, and the option',
    '.Fl \\-help .',
    '.Bl -tag -width Ds',
    ...visibleCommands(root).flatMap((c) => [`.It Xr anka-${c.name()} 1`, prose(c.summary())]),
    '.El',
    ...ENVIRONMENT_AND_FILES,
    '.Sh EXIT STATUS',
    '.Bl -tag -width Ds',
    ...EXIT_STATUSES.flatMap(([code, text]) => [`.It ${code}`, prose(text)]),
    '.El',
    '.Sh SEE ALSO',
    ...visibleCommands(root)
      .map((c) => c.name())
      .sort()
      .map((n) => `.Xr anka-${n} 1 ,`),
    '.Xr ankad 8',
  ]);
}

function daemonPage(): string {
  return finish([
    ...head('ankad', '8', 'daemon of anka'),
    '.Sh SYNOPSIS',
    '.Nm',
    '.Op Fl \\-foreground',
    '.Op Fl \\-help',
    '.Op Fl \\-version',
    '.Sh DESCRIPTION',
    'Runs the virtual machines and networks that',
    '.Xr anka 1',
    'manages.',
    'The first command starts it; on servers, a systemd unit does.',
    'It may be stopped or killed at any time: VMs and networks keep running,',
    'and the next daemon adopts them.',
    '.Bl -tag -width Ds',
    '.It Fl \\-foreground',
    'Run in the foreground, and log to standard output.',
    '.El',
    '.Sh SIGNALS',
    '.Dv SIGTERM',
    'and',
    '.Dv SIGINT',
    'stop the daemon; VMs and networks keep running.',
    'So does',
    '.Dv SIGHUP',
    'where it runs in the foreground of a terminal.',
    'Otherwise',
    '.Dv SIGHUP ,',
    '.Dv SIGUSR1',
    'and',
    '.Dv SIGUSR2',
    'do nothing.',
    '.Sh SEE ALSO',
    '.Xr anka 1 ,',
    '.Xr anka-daemon 1',
  ]);
}

function finish(lines: readonly string[]): string {
  return `${lines.filter((l) => l !== '').join('\n')}\n`;
}

/** All pages, by file name. `root` is the whole tree, `inner` the tree behind `modify VM`. */
export function manualPages(root: Command, inner: Command): Map<string, string> {
  const pages = new Map<string, string>([
    ['anka.1', mainPage(root)],
    ['ankad.8', daemonPage()],
  ]);
  for (const c of visibleCommands(root)) pages.set(`anka-${c.name()}.1`, commandPage(c, inner));
  return pages;
}
