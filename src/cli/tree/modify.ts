/** Declares `anka modify VM …`: the outer command, and the tree of commands that follow the VM's name. */
import { type Command, Option } from 'commander';
import type { CardOptions } from '../commands/modify/network-card.ts';
import type { RuleOptions } from '../commands/modify/port-forwarding.ts';
import type { Session } from '../session.ts';
import { declare, GROUP_USAGE, newCommand } from './command.ts';

const card = () => import('../commands/modify/network-card.ts');
const rule = () => import('../commands/modify/port-forwarding.ts');
const properties = () => import('../commands/modify/properties.ts');

/** The commands that may follow `modify VM`. */
export const MODIFY_COMMANDS = ['set', 'add', 'delete', 'network', 'port'];

/** The outer command. It only takes the VM's name; its help lists the inner commands too. */
export function addModifyCommand(root: Command): void {
  const inner = leaves(modifyTree(null, 'VM')).map(({ words, summary }) => `  ${words.padEnd(24)}${summary}`);
  declare(root, 'modify <VM> <COMMAND...>', {
    summary: 'Change a VM: network card, port forwarding, memory, CPU cores, name.',
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
  return command.commands.flatMap((c) => {
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
  return root;
}

function addSet(root: Command, s: Session, vm: string): void {
  const set = declare(root, 'set', {
    summary: 'Set properties of the VM or of its network card.',
    usage: GROUP_USAGE,
    examples: [`anka modify ${vm} set network-card -t host`, `anka modify ${vm} set ram 2G`],
  });
  const setCard = cardOptions(
    declare(set, 'network-card [INDEX]', {
      summary: 'Change the network card, also while the VM is running.',
      examples: [
        `anka modify ${vm} set network-card 0 -t bridge -b en0`,
        `anka modify ${vm} set network-card -t host 0`,
        `anka modify ${vm} set network-card --ip 192.168.64.50`,
      ],
    }),
  );
  setCard.action(async (index, o) => (await card()).setCard(s, vm, index, givenOptions(setCard, o)));
  declare(set, 'ram <SIZE>', { summary: 'Set the memory size.', examples: [`anka modify ${vm} set ram 2G`] }).action(async (size) =>
    (await properties()).setProperties(s, vm, { ram_size: size }),
  );
  declare(set, 'cpu <N>', { summary: 'Set the number of CPU cores.', examples: [`anka modify ${vm} set cpu 4`] }).action(async (n) =>
    (await properties()).setCpuCount(s, vm, n),
  );
  declare(set, 'name <NAME>', { summary: 'Rename the VM.', examples: [`anka modify ${vm} set name build`] }).action(async (name) =>
    (await properties()).setProperties(s, vm, { name }),
  );
}

function addAdd(root: Command, s: Session, vm: string): void {
  const add = declare(root, 'add', {
    summary: 'Add a port forwarding rule or the network card.',
    usage: GROUP_USAGE,
    examples: [`anka modify ${vm} add port-forwarding -g 22 ssh`, `anka modify ${vm} add network-card`],
  });
  ruleOptions(
    declare(add, 'port-forwarding <NAME>', {
      summary: 'Forward a port of the host to the guest.',
      examples: [`anka modify ${vm} add port-forwarding -g 22 ssh`, `anka modify ${vm} add port-forwarding -g 53 -p 5353 --protocol udp dns`],
    }),
  ).action(async (name, o: RuleOptions) => (await rule()).addRule(s, vm, name, o));
  const addCard = cardOptions(
    declare(add, 'network-card [INDEX]', {
      summary: 'Add a network card to a VM that has none.',
      examples: [`anka modify ${vm} add network-card`, `anka modify ${vm} add network-card -t host`],
    }),
  );
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
  }).action(async (index) => (await card()).deleteCard(s, vm, index));
  const deleteRule = async (name: string): Promise<void> => (await rule()).deleteRule(s, vm, name);
  declare(group, 'port-forwarding <NAME>', {
    summary: 'Delete a port forwarding rule.',
    examples: [`anka modify ${vm} delete port-forwarding ssh`],
  }).action(deleteRule);
  declare(group, 'port <NAME>', {
    summary: "Delete a port forwarding rule (3.x syntax of 'delete port-forwarding').",
    examples: [`anka modify ${vm} delete port ssh`],
  }).action(deleteRule);
}

/** The commands as Anka 3.x spells them (B31). */
function addOldSyntax(root: Command, s: Session, vm: string): void {
  const network = cardOptions(
    declare(root, 'network [INDEX]', {
      summary: "Change the network card (3.x syntax of 'set network-card').",
      examples: [`anka modify ${vm} network --mode host`, `anka modify ${vm} network -t bridge -b en0`],
    }).option('--mode <TYPE>', 'Set the network type; the same as --type.'),
  );
  network.action(async (index, o) => (await card()).setCard(s, vm, index, givenOptions(network, o)));
  ruleOptions(
    declare(root, 'port <NAME> [PORTS]', {
      summary: "Add a port forwarding rule (3.x syntax of 'add port-forwarding').",
      details: 'PORTS is guest[:host-ip][:host-port]; an IPv6 address is in brackets, as in 80:[::1]:8080.',
      examples: [`anka modify ${vm} port web 80:8080`, `anka modify ${vm} port ssh -g 22`, `anka modify ${vm} port ssh --delete`],
    }).option('-d, --delete', 'Delete the rule.'),
  ).action(async (name, ports, o: RuleOptions & { delete?: boolean }) => (await rule()).port(s, vm, { ...o, name, ports }));
}

function cardOptions(command: Command): Command {
  return command
    .option('-t, --type <TYPE>', 'Set the network type: shared, host, bridge or disconnected.')
    .option('-b, --bridge <IFACE>', 'Bridge to this interface of the host (type bridge).')
    .option('-m, --mac <MAC>', 'Set a custom MAC address in the guest; on the network it is translated.')
    .option('-n, --no-mac', 'Remove the custom MAC address.')
    .option('-c, --controller <MODEL>', 'Set the card model: virtio-net (or its alias anet) or e1000.')
    .option('--local', 'Let the VM reach other VMs and the host (the default).')
    .option('--no-local', 'Isolate the VM from other VMs and from the host; port forwarding still works.')
    .option('--ip <ADDRESS>', 'Reserve ADDRESS for the VM in DHCP; auto removes the reservation.')
    .option('-v, --vlan <ID>', 'Tag frames with this VLAN ID (type bridge); none removes the tag.');
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
