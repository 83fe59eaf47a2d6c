/** Declares `anka modify VM …`: the outer command, and the tree of commands that follow the VM's name. */
import { type Command, Option } from 'commander';
import type { CardOptions } from '../commands/modify/network-card.ts';
import type { Session } from '../session.ts';
import { acceptGiven, acceptUnused, declare, GROUP_USAGE, newCommand, visibleCommands } from './command.ts';

const card = () => import('../commands/modify/network-card.ts');
const rule = () => import('../commands/modify/port-forwarding.ts');
const mounts = () => import('../commands/mount.ts');
const properties = () => import('../commands/modify/properties.ts');

/** The commands that may follow `modify VM`. */
export const MODIFY_COMMANDS = ['set', 'add', 'delete', 'network', 'port', 'ram', 'cpu', 'name', 'disk', 'label', 'display', 'mount'];

/** The outer command. It only takes the VM's name; its help lists the inner commands too. */
export function addModifyCommand(root: Command): void {
  const inner = leaves(modifyTree(null, 'VM')).map(({ words, summary }) => `  ${words.padEnd(24)}${summary}`);
  declare(root, 'modify <VM> <COMMAND...>', {
    summary: 'Change a VM: network card, port forwarding, shared directories, memory, CPU cores, disk size, labels, name.',
    usage: 'VM COMMAND [ARGS]...',
    listing: `Commands:\n${inner.join('\n')}`,
    examples: [
      'anka modify vm1 add port-forwarding -g 22 ssh',
      'anka modify vm1 set network-card 0 -t bridge -b en0',
      'anka modify vm1 set network-card -t host',
      'anka modify vm1 delete network-card 0',
      'anka modify vm1 port web 80:8080',
    ],
  })
    .passThroughOptions()
    .allowUnknownOption();
}

function leaves(command: Command, prefix = ''): { words: string; summary: string }[] {
  return visibleCommands(command).flatMap((c) => {
    const words = `${prefix}${c.name()}`;
    return c.commands.length > 0 ? leaves(c, `${words} `) : [{ words, summary: c.summary() }];
  });
}

/** What follows `anka modify VM`. The session is null where only the texts are read. */
export function modifyTree(session: Session | null, vm: string): Command {
  const s = session as Session;
  const root = newCommand(`anka modify ${vm}`).description(`Change ${vm}.`);
  addSet(root, s, vm);
  addAdd(root, s, vm);
  addDelete(root, s, vm);
  addOldSyntax(root, s, vm);
  declare(root, 'mount <DIR...>', {
    summary: 'Share a directory of the host with the guest, from now on at each start.',
    details: "DIR[:NAME][:ro] appears in the guest as /media/NAME. 'anka unmount' ends it.",
    examples: [`anka modify ${vm} mount /srv/data`, `anka modify ${vm} mount /srv/data:input:ro`],
  })
    .option('--ro', 'Do not let the guest change anything.')
    .action(async (dirs, o) => (await mounts()).mountAtStart(s, vm, dirs, o));
  return root;
}

function addSet(root: Command, s: Session, vm: string): void {
  const set = declare(root, 'set', {
    summary: 'Set properties of the VM or of its network card.',
    usage: GROUP_USAGE,
    examples: [`anka modify ${vm} set network-card -t host`, `anka modify ${vm} set ram 2G`],
  });
  const setCard = cardOptions(
    s,
    declare(set, 'network-card [INDEX]', {
      summary: 'Change the network card, also while the VM is running.',
      examples: [
        `anka modify ${vm} set network-card 0 -t bridge -b en0`,
        `anka modify ${vm} set network-card -t host 0`,
        `anka modify ${vm} set network-card --ip 192.168.64.50`,
        `echo 'block local' | anka modify ${vm} set network-card -f -`,
      ],
    }),
  );
  setCard.action(async (index, o) => (await card()).setCard(s, vm, index, givenOptions(setCard, o)));
  addSizes(set, s, vm, 'set ');
}

/** ram, cpu, disk, name, after `prefix`. Without `set`, as Anka 3.x spells them, they are hidden. */
function addSizes(parent: Command, s: Session, vm: string, prefix: '' | 'set '): void {
  const spelling = prefix === '' ? ({ hidden: true } as const) : {};
  const example = (words: string): string[] => [`anka modify ${vm} ${prefix}${words}`];
  declare(parent, 'ram <SIZE>', { summary: 'Set the memory size.', examples: example('ram 2G'), ...spelling }).action(async (size) =>
    (await properties()).setProperties(s, vm, { ram_size: size }),
  );
  const cpu = declare(parent, 'cpu [N]', { summary: 'Set the number of CPU cores.', examples: example('cpu 4'), ...spelling });
  cpu.addOption(new Option('-c, --cores <N>', 'The same as N.').hideHelp());
  acceptUnused(cpu, s, [
    ['--htt', 'guests have no hyper-threading'],
    ['--no-htt', 'guests have no hyper-threading'],
    ['-f, --frequency <HZ>', 'guests have the frequency of the host'],
  ]).action(async (n, o) => (await properties()).setCpuCount(s, vm, n ?? o.cores));
  declare(parent, 'name <NAME>', { summary: 'Rename the VM.', examples: example('name build'), ...spelling }).action(async (name) =>
    (await properties()).setProperties(s, vm, { name }),
  );
  const disk = declare(parent, 'disk [INDEX]', {
    summary: 'Grow the disk of a stopped VM; the built-in guest uses the space from its next start.',
    examples: example('disk -s 120G'),
    ...spelling,
  })
    .alias('hard-drive')
    .option('-s, --size <SIZE>', 'Set the virtual size; not below the present one.');
  disk.addOption(new Option('-f, --file <FILE>', 'Attach another image.').hideHelp());
  acceptUnused(disk, s, [
    ['-c, --controller <MODEL>', 'disks are virtio-blk'],
    ['--rw', 'disks are writable'],
  ]);
  disk.addOption(new Option('--ro', 'Make it read-only.').hideHelp());
  disk.action(async (index, o) => (await properties()).setDisk(s, vm, index, o));
  const variables = declare(parent, 'custom-variable <NAME> <VALUE>', {
    summary: 'Accepted without effect: guests have no Apple firmware.',
    examples: example('custom-variable hw.serial 1'),
    hidden: true,
  });
  variables.action(async (name) => (await properties()).ignored(s, vm, `custom-variable ${name} has no effect: guests have no Apple firmware`));
  const display = declare(parent, 'display', { summary: 'Accepted without effect: guests have no display.', examples: example('display -c pg'), hidden: true });
  acceptGiven(display, [
    '-n, --count <N>',
    '--headless',
    '-p, --password <PASSWORD>',
    '--vnc <ADDRESS>',
    '--no-vnc',
    '-d, --dpi <N>',
    '-r, --resolution <SIZE>',
    '-f, --fps <N>',
    '-c, --controller <MODEL>',
    '--host-gpu-location <LOCATION>',
    '--host-gpu-name <NAME>',
    '--features <MASK>',
  ]).action(async () => (await properties()).ignored(s, vm, 'display has no effect: guests have a serial console only'));
}

function addAdd(root: Command, s: Session, vm: string): void {
  const add = declare(root, 'add', {
    summary: 'Add a port forwarding rule or the network card.',
    usage: GROUP_USAGE,
    examples: [`anka modify ${vm} add port-forwarding -g 22 ssh`, `anka modify ${vm} add network-card`],
  });
  const addRule = ruleOptions(
    declare(add, 'port-forwarding <NAME> [PORTS]', {
      summary: 'Forward a port of the host to the guest.',
      details: 'PORTS is guest[:host-ip][:host-port], instead of the options.',
      examples: [`anka modify ${vm} add port-forwarding -g 22 ssh`, `anka modify ${vm} add port-forwarding -g 53 -p 5353 --protocol udp dns`],
    }).alias('port'),
  );
  oldRuleOptions(addRule).action(async (name, ports, o) => (await rule()).port(s, vm, { ...o, name, ports }));
  const addCard = cardOptions(
    s,
    declare(add, 'network-card [INDEX]', {
      summary: 'Add a network card to a VM that has none.',
      examples: [`anka modify ${vm} add network-card`, `anka modify ${vm} add network-card -t host`],
    }).alias('network'),
  );
  declare(add, 'disk', { summary: 'Not supported: a VM has one disk.', examples: [`anka modify ${vm} add disk -s 1G`], hidden: true })
    .alias('hard-drive')
    .allowUnknownOption()
    .allowExcessArguments()
    .action(async () => (await properties()).oneDisk(vm));
  addLabelCommand(add, s, vm, 'add ');
  addCard.action(async (index, o) => (await card()).addCard(s, vm, index, givenOptions(addCard, o)));
}

function addDelete(root: Command, s: Session, vm: string): void {
  const group = declare(root, 'delete', {
    summary: 'Delete the network card or a port forwarding rule.',
    usage: GROUP_USAGE,
    examples: [`anka modify ${vm} delete network-card 0`, `anka modify ${vm} delete port-forwarding ssh`],
  });
  declare(group, 'network-card [INDEX]', {
    summary: 'Delete the network card.',
    examples: [`anka modify ${vm} delete network-card 0`],
  })
    .alias('network')
    .action(async (index) => (await card()).deleteCard(s, vm, index));
  declare(group, 'port-forwarding [NAME...]', {
    summary: 'Delete port forwarding rules.',
    examples: [`anka modify ${vm} delete port-forwarding ssh`, `anka modify ${vm} delete port-forwarding --all`],
  })
    .alias('port')
    .option('-a, --all', 'Delete all rules.')
    .action(async (names, o) => (await rule()).deleteRules(s, vm, names, o.all ?? false));
  declare(group, 'label [NAME...]', { summary: 'Delete labels.', examples: [`anka modify ${vm} delete label team`] })
    .option('-a, --all', 'Delete all labels.')
    .action(async (names, o) => (await properties()).deleteLabels(s, vm, names, o.all ?? false));
  declare(group, 'mount [MOUNT...]', { summary: 'Stop sharing directories; the same as anka unmount.', examples: [`anka modify ${vm} delete mount data`] })
    .option('-a, --all', 'Stop sharing all.')
    .action(async (names, o) => (await mounts()).unmount(s, vm, names, o));
  declare(group, 'disk [INDEX]', { summary: 'Not supported: a VM has one disk.', examples: [`anka modify ${vm} delete disk 1`], hidden: true })
    .alias('hard-drive')
    .action(async () => (await properties()).oneDisk(vm));
}

/** The commands as Anka 3.x spells them (B31). */
function addOldSyntax(root: Command, s: Session, vm: string): void {
  addSizes(root, s, vm, '');
  addLabelCommand(root, s, vm, '');
  const network = cardOptions(
    s,
    declare(root, 'network [INDEX]', {
      summary: "Change the network card (3.x syntax of 'set network-card').",
      examples: [`anka modify ${vm} network --mode host`, `anka modify ${vm} network -t bridge -b en0`, `anka modify ${vm} network -f rules`],
    }).option('--mode <TYPE>', 'Set the network type; the same as --type.'),
  );
  network.action(async (index, o) => (await card()).setCard(s, vm, index, givenOptions(network, o)));
  const port = ruleOptions(
    declare(root, 'port <NAME> [PORTS]', {
      summary: "Add a port forwarding rule (3.x syntax of 'add port-forwarding').",
      details: 'PORTS is guest[:host-ip][:host-port]; an IPv6 address is in brackets, as in 80:[::1]:8080.',
      examples: [`anka modify ${vm} port web 80:8080`, `anka modify ${vm} port ssh -g 22`, `anka modify ${vm} port ssh --delete`],
    })
      .option('-d, --delete', 'Delete the rule.')
      .option('--set-name <NAME>', 'Rename the rule.'),
  ).addOption(new Option('-r, --reverse', 'Forward from the guest.').hideHelp());
  port.action(async (name, ports, o) => (await rule()).port(s, vm, { ...o, name, ports }));
}

/** Labels; the command is hidden where Anka 3.x alone has it. */
function addLabelCommand(parent: Command, s: Session, vm: string, prefix: '' | 'add '): void {
  const command = declare(parent, 'label <NAME> [VALUE]', {
    summary: "Attach a label to the VM; 'anka show VM label' prints them.",
    examples: [`anka modify ${vm} ${prefix}label team network`],
    ...(prefix === '' ? { hidden: true } : {}),
  });
  command.addOption(new Option('-d, --delete', 'Delete the label.').hideHelp()).addOption(new Option('--set-name', 'Rename the label to VALUE.').hideHelp());
  command.action(async (name, value, o) => (await properties()).setLabel(s, vm, name, value, o));
}

/** Options of rules that Anka 3.x has with `add`, too. */
function oldRuleOptions(command: Command): Command {
  return command
    .addOption(new Option('-d, --delete', 'Delete the rule.').hideHelp())
    .addOption(new Option('--set-name <NAME>', 'Rename the rule.').hideHelp())
    .addOption(new Option('-r, --reverse', 'Forward from the guest.').hideHelp());
}

function cardOptions(s: Session, command: Command): Command {
  acceptUnused(command, s, [
    ['--direct-mac', 'MAC addresses are translated'],
    ['--no-direct-mac', 'MAC addresses are translated'],
    ['--bond <N>', 'a card has one link'],
  ]);
  command.addOption(new Option('--guest-ip <ADDRESS>', 'The same as --ip.').hideHelp());
  return command
    .option('-t, --type <TYPE>', 'Set the network type: shared (or its alias nat), host, bridge or disconnected.')
    .option('-b, --bridge <IFACE>', 'Bridge to this interface of the host (type bridge); auto chooses one.')
    .option('-m, --mac <MAC>', 'Set a custom MAC address in the guest; on the network it is translated. auto removes it.')
    .option('-n, --no-mac', 'Remove the custom MAC address.')
    .option('-c, --controller <MODEL>', 'Set the card model: virtio-net (or its alias anet) or e1000.')
    .option('--local', 'Let the VM reach other VMs and the host (the default).')
    .option('--no-local', 'Isolate the VM from other VMs and from the host; port forwarding, anka run and ssh from the host still work.')
    .option('--ip <ADDRESS>', 'Reserve ADDRESS for the VM in DHCP; auto removes the reservation.')
    .option('-v, --vlan <ID>', 'Tag frames with this VLAN ID (type bridge); none or 0 removes the tag.')
    .option('-f, --filter <FILE>', 'Filter packets by the rules in FILE; - is standard input, off removes the filter.');
}

function ruleOptions(command: Command): Command {
  return command
    .option('-g, --guest-port <PORT>', 'Forward to this port of the guest.')
    .option('-p, --host-port <PORT>', 'Listen on this port of the host; 0 or omitted: the lowest free port.')
    .option('-l, --host-ip <ADDRESS>', 'Listen on this address of the host (default: 0.0.0.0; :: is every IPv6 address).')
    .addOption(new Option('--protocol <PROTOCOL>', 'Forward tcp or udp (default: tcp).'));
}

/**
 * The options on the command line. commander sets `mac` and `local` to true by default, as `--no-mac` and `--no-local`
 * exist.
 */
function givenOptions(command: Command, o: CardOptions & { mac?: unknown; local?: boolean }): CardOptions {
  const { mac, local, ...rest } = o;
  return {
    ...rest,
    ...(command.getOptionValueSource('mac') === 'cli' ? { mac: mac as string | false } : {}),
    ...(command.getOptionValueSource('local') === 'cli' && local !== undefined ? { isolated: !local } : {}),
  };
}
