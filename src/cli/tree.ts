/**
 * The command tree: every command, option and help text. Help, completion and man pages are made of it.
 *
 * `modify VM …` has two stages, as its verbs come after the VM's name: the outer command takes the name, the inner tree
 * (`modifyTree`) the rest. What a command does is loaded when it runs, so that start-up stays fast.
 */
import { Command, Option } from 'commander';
import type { CardOptions, RuleOptions } from './commands/modify.ts';
import { EXAMPLES as MORE_EXAMPLES } from './examples.ts';
import type { Session } from './session.ts';

const vms = () => import('./commands/vms.ts');
const modify = () => import('./commands/modify.ts');
const guest = () => import('./commands/guest.ts');
const capture = () => import('./commands/capture.ts');
const host = () => import('./commands/host.ts');

const EXAMPLES = new WeakMap<Command, readonly string[]>();

/** The examples that a command's help shows. */
export function examplesOf(command: Command): readonly string[] {
  return EXAMPLES.get(command) ?? [];
}

function examples(command: Command, ...lines: string[]): Command {
  EXAMPLES.set(command, lines);
  return command.addHelpText('after', `\nExamples:\n${lines.map((l) => `  ${l}`).join('\n')}`);
}

/** Gives every command below the examples that stand apart. */
function addExamples(command: Command, words: string, vm = ''): void {
  for (const c of command.commands) {
    const path = `${words} ${c.name()}`.trim();
    const lines = MORE_EXAMPLES[path];
    if (lines) examples(c, ...lines.map((l) => (vm === '' ? l : l.replace(' VM ', ` ${vm} `))));
    addExamples(c, path, vm);
  }
}

/** A command with the texts in click's wording, which users of Anka know. */
function plain(name: string): Command {
  return new Command(name)
    .helpOption('--help', 'Show this message and exit.')
    .helpCommand(false)
    .exitOverride()
    .configureOutput({ outputError: () => {}, writeErr: () => {} })
    .allowExcessArguments(false)
    .configureHelp({ sortSubcommands: false, helpWidth: 100, styleTitle: (t) => t });
}

function sub(parent: Command, spec: string, description: string): Command {
  const [name, ...operands] = spec.split(' ');
  const command = plain(name as string).description(description);
  for (const o of operands) command.argument(o);
  parent.addCommand(command);
  return command;
}

/** The whole tree, bound to a session. */
export function buildTree(s: Session): Command {
  const root = plain('anka')
    .description('Runs virtual machines with networks that simply work.')
    .usage('[OPTIONS] COMMAND [ARGS]...')
    .option('-j, --machine-readable', 'Print one line of JSON (also by ANKA_MACHINE_READABLE=1).')
    .option('--debug', 'Show every program that is run, and where errors come from.')
    .enablePositionalOptions();
  addVmCommands(root, s);
  addGuestCommands(root, s);
  addInsightCommands(root, s);
  addExplain(root, s);
  addModify(root);
  addHostCommands(root, s);
  addExamples(root, '');
  return root;
}

function addVmCommands(root: Command, s: Session): void {
  examples(
    sub(root, 'create <NAME>', 'Make a VM: a Debian guest with user anka, password admin, and ssh.')
      .option('-m, --ram-size <SIZE>', 'Memory (default: 4G).')
      .option('-c, --cpu-count <N>', 'CPU cores (default: 2).')
      .option('-d, --disk-size <SIZE>', 'Disk, thin (default: 80G).')
      .option('-a, --app <PATH>', 'Boot this disk image (qcow2, raw or cloud image) instead of the built-in guest.')
      .action(async (name, o) => (await vms()).create(s, name, o)),
    'anka create vm1',
    'anka create -m 2G -c 4 -d 20G build',
    'anka create --app ~/debian-12-generic.qcow2 cloud',
  );
  sub(root, 'list', 'List all VMs.')
    .alias('ls')
    .action(async () => (await vms()).list(s));
  examples(
    sub(root, 'show <VM> [PROPERTY...]', 'Show a VM as it is now: state, address, rules.').action(async (vm, words) => (await vms()).show(s, vm, words)),
    'anka show vm1',
    'anka show vm1 ip',
    'anka show vm1 network ip',
  );
  sub(root, 'describe <VM>', 'Show the stored configuration of a VM.').action(async (vm) => (await vms()).describe(s, vm));
  examples(
    sub(root, 'start [VM...]', 'Start or resume VMs.')
      .option('-a, --all', 'All VMs that do not run.')
      .action(async (names, o) => (await vms()).start(s, names, o)),
    'anka start vm1 vm2',
    'ANKA_BRIDGE_NAME=en0 anka start vm1',
  );
  sub(root, 'stop [VM...]', 'Power VMs off.')
    .option('-f, --force', 'End them at once, without asking the guest.')
    .option('-a, --all', 'All that run or are suspended.')
    .action(async (names, o) => (await vms()).stop(s, names, o));
  sub(root, 'suspend [VM...]', 'Save the memory of VMs and end them; start resumes.')
    .option('-a, --all', 'All that run.')
    .action(async (names, o) => (await vms()).suspend(s, names, o));
  sub(root, 'reboot [VM...]', 'Restart guests.')
    .option('-f, --force', 'Reset, without asking the guest.')
    .option('-a, --all', 'All that run.')
    .action(async (names, o) => (await vms()).reboot(s, names, o));
  examples(
    sub(root, 'clone <VM> <NAME>', 'Copy a VM, with its card and rules.').action(async (vm, name) => (await vms()).clone(s, vm, name)),
    'anka clone vm1 vm2',
  );
  sub(root, 'delete [VM...]', 'Delete VMs and their disks.')
    .option('--yes', 'Do not ask.')
    .option('-a, --all', 'All VMs.')
    .action(async (names, o) => (await vms()).remove(s, names, o));
}

function addGuestCommands(root: Command, s: Session): void {
  examples(
    sub(root, 'run <VM> <COMMAND...>', 'Run a command in a guest as user anka; its status is the status, 125 when the guest is lost.')
      .option('-N, --wait-network', 'Wait until address, route and names work.')
      .option('--wait-time <SECONDS>', 'How long to wait for the guest (default: 300).')
      .passThroughOptions()
      .action(async (vm, words, o) => (await guest()).run(s, vm, words, o)),
    'anka run vm1 uname -a',
    "anka run -N vm1 sh -c 'curl -s http://example.com | wc -c'",
    'tar c dir | anka run vm1 tar x',
  );
  sub(root, 'ssh <VM> [COMMAND...]', 'Open a shell in a guest as user anka.')
    .passThroughOptions()
    .action(async (vm, words) => (await guest()).ssh(s, vm, words));
  examples(
    sub(root, 'cp <PATH...>', 'Copy files into or out of a guest, whose side is written VM:PATH.')
      .option('-r, --recursive', 'Folders too.')
      .action(async (paths, o) => (await guest()).cp(s, paths, o)),
    'anka cp notes.txt vm1:',
    'anka cp -r vm1:/var/log logs',
  );
  sub(root, 'console <VM>', "Open a guest's serial console; Ctrl-] leaves.").action(async (vm) => (await guest()).console_(s, vm));
  examples(
    sub(root, 'nc <HOST> <PORT>', 'Join standard input and output to a port of a VM.').action(async (vm, port) => (await guest()).nc(s, vm, port)),
    "ssh -o ProxyCommand='anka nc %h %p' anka@vm1",
  );
}

function addInsightCommands(root: Command, s: Session): void {
  examples(
    sub(root, 'capture <VM> [FILTER...]', "Write the frames of a VM's card as pcapng; FILTER is in tcpdump's syntax.")
      .option('--side <SIDE>', 'inside: as the guest sees its MAC address (the default); outside: as the network does.')
      .option('-w, --write <FILE>', 'Write into FILE; - or absent: to standard output, which must be no terminal.')
      .action(async (vm, words, o) => (await capture()).capture(s, vm, words, o)),
    'anka capture vm1 -w vm1.pcapng',
    'anka capture vm1 | tshark -r -',
    'anka capture --side outside -w arp.pcapng vm1 arp or icmp',
  );
}

/** Words of `anka explain`: taken apart by the command itself, as `from` and `to` are words, not options. */
function addExplain(root: Command, s: Session): void {
  examples(
    sub(root, 'explain <VM> <PACKET...>', 'Say what happens to a packet, and by which rule.')
      .usage('VM [from ADDR[:PORT]] to ADDR[:PORT] [tcp|udp|icmp|other]')
      .action(async (vm, words) => (await import('./commands/explain.ts')).explain(s, vm, words)),
    'anka explain vm1 to 198.51.100.1:443',
    'anka explain vm1 to 192.168.64.1:53 udp',
    'anka explain vm1 to vm2 icmp',
    'anka explain vm1 from 203.0.113.9 to vm1:22            # comes from outside',
    'anka explain vm1 from 203.0.113.9 to 10.9.0.2:10001    # comes to a port of the host',
    'anka explain vm1 from 192.168.64.77 to 198.51.100.1    # another source than its own',
    'anka -j explain vm1 to 255.255.255.255:67 udp',
  );
}

/** The outer stage; its help shows the inner one too. */
function addModify(root: Command): void {
  const command = plain('modify')
    .description('Change a VM: its card, its rules, its memory.')
    .usage('VM (set | add | delete | network | port) ...')
    .argument('<VM>')
    .argument('<VERB...>')
    .passThroughOptions()
    .allowUnknownOption();
  const inner = modifyTree(null, 'VM');
  command.addHelpText('after', `\n${inner.commands.map((c) => `  ${`modify VM ${c.name()}`.padEnd(24)} ${c.description()}`).join('\n')}`);
  examples(
    command,
    'anka modify vm1 add port-forwarding -g 22 ssh',
    'anka modify vm1 set network-card 0 -t bridge -b en0',
    'anka modify vm1 set network-card -t host',
    'anka modify vm1 delete network-card 0',
    'anka modify vm1 port web 80:8080',
  );
  root.addCommand(command);
}

function cardOptions(command: Command): Command {
  return command
    .option('-t, --type <TYPE>', 'Network type: shared, host, bridge or disconnected.')
    .option('-b, --bridge <IFACE>', 'Host interface for type bridge.')
    .option('-m, --mac <MAC>', 'MAC address that the guest sees; translated on the network.')
    .option('-n, --no-mac', "No MAC address of one's own.")
    .option('-c, --controller <MODEL>', 'Card model: virtio-net (also anet) or e1000.')
    .option('--local', 'Let the VM reach other VMs and the host (the default).')
    .option('--no-local', 'Isolate the VM from other VMs and from the host; port forwarding still works.')
    .option('--ip <ADDRESS>', 'Reserve this address by DHCP; auto gives it up.')
    .option('-v, --vlan <ID>', 'Tag with this VLAN (bridge); none for none.');
}

function ruleOptions(command: Command): Command {
  return command
    .option('-g, --guest-port <PORT>', 'Port in the guest.')
    .option('-p, --host-port <PORT>', 'Port on the host; 0 or absent: the lowest free one.')
    .option('-l, --host-ip <ADDRESS>', 'Address of the host to listen on (default: 0.0.0.0).')
    .addOption(new Option('--protocol <PROTOCOL>', 'tcp or udp (default: tcp).'));
}

/** The options that the user gave: commander sets `mac` and `local` to true by itself, as `--no-mac` and `--no-local` exist. */
function given(command: Command, o: CardOptions & { mac?: unknown; local?: boolean }): CardOptions {
  const { mac, local, ...rest } = o;
  return {
    ...rest,
    ...(command.getOptionValueSource('mac') === 'cli' ? { mac: mac as string | false } : {}),
    ...(command.getOptionValueSource('local') === 'cli' && local !== undefined ? { isolated: !local } : {}),
  };
}

/** What follows `anka modify VM`. */
export function modifyTree(s: Session | null, vm: string): Command {
  const session = s as Session;
  const root = plain(`anka modify ${vm}`).usage('(set | add | delete | network | port) ...').description(`Change ${vm}.`);

  const set = sub(root, 'set', 'Set properties of the VM or its card.').usage('COMMAND ...');
  const setCard = cardOptions(sub(set, 'network-card [INDEX]', 'Change the network card, also while the VM runs.'));
  setCard.action(async (index, o) => (await modify()).setCard(session, vm, index, given(setCard, o)));
  examples(
    setCard,
    `anka modify ${vm} set network-card 0 -t bridge -b en0`,
    `anka modify ${vm} set network-card -t host 0`,
    `anka modify ${vm} set network-card --ip 192.168.64.50`,
  );
  sub(set, 'ram <SIZE>', 'Set the memory.').action(async (size) => (await modify()).setValues(session, vm, { ram_size: size }));
  sub(set, 'cpu <N>', 'Set the number of CPU cores.').action(async (n) => {
    const m = await modify();
    return m.setValues(session, vm, { cpu_count: m.integer('N', n, 1, 64) });
  });
  sub(set, 'name <NAME>', 'Rename the VM.').action(async (name) => (await modify()).setValues(session, vm, { name }));

  const add = sub(root, 'add', 'Add a card or a rule.').usage('COMMAND ...');
  const addRule = ruleOptions(sub(add, 'port-forwarding <NAME>', 'Forward a port of the host to the guest.'));
  addRule.action(async (name, o: RuleOptions) => (await modify()).addRule(session, vm, name, o));
  examples(addRule, `anka modify ${vm} add port-forwarding -g 22 ssh`, `anka modify ${vm} add port-forwarding -g 53 -p 5353 --protocol udp dns`);
  const addCard = cardOptions(sub(add, 'network-card [INDEX]', 'Bring the network card back.'));
  addCard.action(async (index, o) => (await modify()).addCard(session, vm, index, given(addCard, o)));

  const del = sub(root, 'delete', 'Delete the card or a rule.').usage('COMMAND ...');
  sub(del, 'network-card [INDEX]', 'Leave the guest without a network card.').action(async (index) => (await modify()).deleteCard(session, vm, index));
  sub(del, 'port-forwarding <NAME>', 'Delete a forwarding rule.').action(async (name) => (await modify()).deleteRule(session, vm, name));
  sub(del, 'port <NAME>', 'Delete a forwarding rule (3.x spelling).').action(async (name) => (await modify()).deleteRule(session, vm, name));

  const network = cardOptions(
    sub(root, 'network [INDEX]', 'Change the network card (3.x spelling of set network-card).').option('--mode <TYPE>', 'The same as --type.'),
  );
  network.action(async (index, o) => (await modify()).setCard(session, vm, index, given(network, o)));
  const port = ruleOptions(
    sub(root, 'port <NAME> [PORTS]', 'Add a rule by guest[:host-ip][:host-port] (3.x spelling).').option('-d, --delete', 'Delete the rule.'),
  );
  port.action(async (name, spec, o: RuleOptions & { delete?: boolean }) => (await modify()).port(session, vm, name, spec, o));
  examples(port, `anka modify ${vm} port web 80:8080`, `anka modify ${vm} port ssh -g 22`, `anka modify ${vm} port ssh --delete`);
  addExamples(root, 'modify VM', vm);
  return root;
}

function addHostCommands(root: Command, s: Session): void {
  examples(
    sub(root, 'config [KEY] [VALUE]', 'Print or store settings; each is overridden by ANKA_KEY in the environment.')
      .option('-l, --list', 'List all settings.')
      .option('-r, --reset', 'Put KEY back to its default.')
      .action(async (key, value, o) => (await host()).config(s, key, value, o)),
    'anka config',
    'anka config bridge_name en0',
    'anka config -r bridge_name',
  );
  const network = sub(root, 'network', 'The networks of this host.').usage('COMMAND ...');
  sub(network, 'list', 'List the networks.').action(async () => (await host()).networkList(s));
  sub(network, 'reset', 'Remove every network object of ours from this host; no VM may run.').action(async () => (await host()).networkReset(s));
  sub(root, 'doctor', 'Find what breaks the networks on this host, and how to mend it.').action(async () => (await host()).doctor(s));
  sub(root, 'events', 'Print what happens, as it happens.').action(async () => (await host()).events(s));
  const daemon = sub(root, 'daemon', 'The daemon behind this command; it starts by itself.').usage('COMMAND ...');
  sub(daemon, 'status', 'Show what the daemon is doing.').action(async () => (await host()).daemonStatus(s));
  sub(daemon, 'stop', 'End the daemon; VMs and networks go on.').action(async () => (await host()).daemonStop(s));
  sub(daemon, 'run', 'Run the daemon in this terminal.').action(async () => (await host()).daemonRun(s));
  examples(
    sub(root, 'completion <SHELL>', 'Print the completion script for bash, zsh or fish.').action(async (shell) =>
      (await import('./completion.ts')).print(s, root, modifyTree(null, 'VM'), shell),
    ),
    'anka completion bash >/etc/bash_completion.d/anka',
  );
  sub(root, 'version', 'Print the version.').action(async () => (await host()).showVersion(s));
}
