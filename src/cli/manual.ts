/**
 * The manual pages, in mdoc(7), made of the command tree: `anka.1`, one page for each command, and the daemon's. Pure:
 * from tree to text.
 */
import type { Command, Option } from 'commander';
import { SETTINGS } from '../lib/settings.ts';
import { examplesOf } from './tree.ts';

/** When the texts of the pages last changed in substance. */
const DATE = 'November 25, 2026';

/** Statuses that a command ends with, beside 0. */
const STATUSES: [string, string][] = [
  ['0', 'Done.'],
  ['2', 'Wrong usage.'],
  ['3', 'No such VM.'],
  ['18', 'The name is taken.'],
  ['125', 'run: the guest was not reached in time, or was lost.'],
];

/** Text that no macro or escape of roff is seen in. */
function esc(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replace(/^([.'])/gm, '\\&$1')
    .replaceAll('-', '\\-')
    .replaceAll('"', '\\(dq');
}

/** One argument of a macro: nothing in it may be taken for another macro or for punctuation. */
function arg(text: string): string {
  return `"\\&${esc(text)}"`;
}

/** Sentences each on a line of its own, and no line above 80 characters, as mdoc wants it. */
function prose(text: string): string {
  return text
    .replace(/([.!?:]) (?=[A-Z`(])/g, '$1\n')
    .replace(/(.{1,72})(?: |$)/gm, '$1\n')
    .split('\n')
    .filter((l) => l !== '')
    .map(esc)
    .join('\n');
}

/** Words that lead to a command, without the program's name: `network reset`. */
function words(command: Command): string[] {
  const found: string[] = [];
  for (let c: Command | null = command; c?.parent; c = c.parent) found.unshift(c.name());
  return found;
}

function flags(o: Option): string {
  const value = /<([^>]+)>/.exec(o.flags)?.[1];
  return `Fl ${[o.short, o.long]
    .filter((f) => f !== undefined && f !== null)
    .map((f) => arg((f as string).slice(1)))
    .join(' , Fl ')}${value ? ` Ar ${arg(value)}` : ''}`;
}

function synopsisOption(o: Option): string {
  const value = /<([^>]+)>/.exec(o.flags)?.[1];
  return `.Op Fl ${arg((o.short ?? o.long ?? '').slice(1))}${value ? ` Ar ${arg(value)}` : ''}`;
}

function synopsis(command: Command, lead: string[]): string {
  const operands = command.registeredArguments.map((a) => {
    const name = `Ar ${arg(a.name().toUpperCase())}${a.variadic ? ' ...' : ''}`;
    return a.required ? `.${name}` : `.Op ${name}`;
  });
  return ['.Nm anka', ...lead.map((w) => (/^[A-Z]+$/.test(w) ? `.Ar ${w}` : `.Cm ${w}`)), ...command.options.map(synopsisOption), ...operands].join('\n');
}

function optionList(command: Command): string[] {
  if (command.options.length === 0) return [];
  return ['.Bl -tag -width Ds', ...command.options.flatMap((o) => [`.It ${flags(o)}`, prose(o.description)]), '.El'];
}

function exampleList(lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['.Sh EXAMPLES', '.Bd -literal', ...lines.map((l) => esc(l)), '.Ed'];
}

function head(title: string, section: string, name: string, description: string): string[] {
  return [`.Dd ${DATE}`, `.Dt ${title.toUpperCase()} ${section}`, '.Os', '.Sh NAME', `.Nm ${name}`, `.Nd ${esc(description.replace(/\.$/, ''))}`];
}

/** Commands below one that do something by themselves. */
function leaves(command: Command): Command[] {
  return command.commands.length === 0 ? [command] : command.commands.flatMap(leaves);
}

function leafSection(command: Command, lead: string[]): string[] {
  return [`.Ss anka ${lead.join(' ')}`, synopsis(command, lead), '.Pp', prose(command.description()), ...optionList(command)];
}

/** The page of one command of the top level. `inner` are the verbs behind `modify VM`. */
function commandPage(command: Command, inner: Command): string {
  const name = command.name();
  const page = `anka-${name}`;
  const below = name === 'modify' ? leaves(inner).map((c) => ({ c, lead: ['modify', 'VM', ...words(c)] })) : [];
  if (name !== 'modify' && command.commands.length > 0) below.push(...leaves(command).map((c) => ({ c, lead: words(c) })));
  const plain = below.length === 0;
  const alias = command.aliases();
  const lines = [
    ...head(page, '1', page, command.description()),
    '.Sh SYNOPSIS',
    ...(plain
      ? [synopsis(command, [name])]
      : [...below.map(({ lead }) => ['.Nm anka', ...lead.map((w) => (w === 'VM' ? '.Ar VM' : `.Cm ${w}`)), '.Ar ...'].join('\n'))]),
    '.Sh DESCRIPTION',
    prose(command.description()),
    ...(alias.length > 0 ? ['.Pp', `Also written${alias.map((a) => `\n.Cm ${a} .`).join('')}`] : []),
    ...(plain ? optionList(command) : below.flatMap(({ c, lead }) => leafSection(c, lead))),
    ...(name === 'config' ? settingList() : []),
    '.Sh EXIT STATUS',
    '0 when done, 2 for wrong usage, else the code of the error; see',
    '.Xr anka 1 .',
    ...exampleList([...examplesOf(command), ...below.flatMap(({ c }) => examplesOf(c))].filter((l, i, all) => all.indexOf(l) === i)),
    '.Sh SEE ALSO',
    '.Xr anka 1',
  ];
  return finish(lines);
}

function settingList(): string[] {
  return [
    '.Ss Settings',
    '.Bl -tag -width Ds',
    ...SETTINGS.flatMap((s) => [`.It Cm ${arg(s.key)}`, `${prose(s.description)}${s.default === '' ? '' : `\nDefault: ${esc(s.default)}.`}`]),
    '.El',
  ];
}

function mainPage(root: Command): string {
  return finish([
    ...head('anka', '1', 'anka', root.description()),
    '.Sh SYNOPSIS',
    '.Nm',
    '.Op Fl j',
    '.Op Fl \\-debug',
    '.Ar COMMAND',
    '.Op Ar ...',
    '.Sh DESCRIPTION',
    prose(root.description()),
    'Each VM has one network card, whose cable joins it to a network:',
    '.Cm shared',
    '(NAT and DHCP),',
    '.Cm host',
    '(this host only),',
    '.Cm bridge',
    '(a node of an Ethernet network) or',
    '.Cm disconnected .',
    ...optionList(root),
    '.Sh COMMANDS',
    'Each has a page of its own, and',
    '.Fl \\-help .',
    '.Bl -tag -width Ds',
    ...root.commands.flatMap((c) => [`.It Xr anka-${c.name()} 1`, prose(c.description())]),
    '.El',
    '.Sh ENVIRONMENT',
    'Every setting of',
    '.Xr anka-config 1',
    'is overridden for one call by the variable',
    '.Ev ANKA_KEY .',
    '.Bl -tag -width Ds',
    '.It Ev ANKA_MACHINE_READABLE',
    'When 1, the same as',
    '.Fl j .',
    '.It Ev ANKA_HOME',
    'Folder of all state and sockets, in place of those below.',
    '.El',
    '.Sh FILES',
    '.Bl -tag -width Ds',
    '.It Pa /var/lib/anka',
    'State of the daemon that root started: database, disks, leases, log.',
    '.It Pa /run/anka',
    'Its sockets.',
    '.El',
    '.Sh EXIT STATUS',
    '.Bl -tag -width Ds',
    ...STATUSES.flatMap(([code, text]) => [`.It ${code}`, prose(text)]),
    '.El',
    '.Sh SEE ALSO',
    ...root.commands
      .map((c) => c.name())
      .sort()
      .map((n) => `.Xr anka-${n} 1 ,`),
    '.Xr ankad 8',
  ]);
}

function daemonPage(): string {
  return finish([
    ...head('ankad', '8', 'ankad', 'the daemon behind anka'),
    '.Sh SYNOPSIS',
    '.Nm',
    '.Op Fl \\-foreground',
    '.Op Fl \\-help',
    '.Op Fl \\-version',
    '.Sh DESCRIPTION',
    'Keeps virtual machines and their networks as',
    '.Xr anka 1',
    'asks for.',
    'The first command starts it; on servers, a systemd unit does.',
    'It may be ended or killed at any moment: VMs and networks go on,',
    'and the next start adopts them.',
    '.Bl -tag -width Ds',
    '.It Fl \\-foreground',
    'Stay in this terminal, and log to it.',
    '.El',
    '.Sh SIGNALS',
    '.Dv SIGTERM',
    'and',
    '.Dv SIGINT',
    'end the daemon; VMs and networks go on.',
    '.Sh SEE ALSO',
    '.Xr anka 1 ,',
    '.Xr anka-daemon 1',
  ]);
}

function finish(lines: readonly string[]): string {
  return `${lines.filter((l) => l !== '').join('\n')}\n`;
}

/** All pages by file name. `root` is the whole tree, `inner` what follows `modify VM`. */
export function manualPages(root: Command, inner: Command): Map<string, string> {
  const pages = new Map<string, string>([
    ['anka.1', mainPage(root)],
    ['ankad.8', daemonPage()],
  ]);
  for (const c of root.commands) pages.set(`anka-${c.name()}.1`, commandPage(c, inner));
  return pages;
}
