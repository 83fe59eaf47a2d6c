/** Declares the commands on the host as a whole: config, network, doctor, events, daemon, controller, and the rest. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { declare, GROUP_USAGE } from './command.ts';
import { modifyTree } from './modify.ts';

export function addHostCommands(root: Command, s: Session): void {
  declare(root, 'config [KEY] [VALUE]', {
    summary: 'Print or change settings.',
    details: 'The environment variable ANKA_KEY overrides the setting KEY for one command.',
    examples: ['anka config', 'anka config bridge_name en0', 'anka config -r bridge_name'],
  })
    .option('-l, --list', 'List all settings.')
    .option('-r, --reset', 'Reset KEY to its default.')
    .action(async (key, value, o) => (await import('../commands/config.ts')).config(s, key, value, o));
  addNetwork(root, s);
  declare(root, 'doctor', {
    summary: 'Check this host for network problems, and print how to fix them.',
    examples: ['anka doctor', 'anka -j doctor'],
  }).action(async () => (await import('../commands/doctor.ts')).doctor(s));
  declare(root, 'events', { summary: 'Print events as they occur.', examples: ['anka events', 'anka -j events'] }).action(async () =>
    (await import('../commands/events.ts')).events(s),
  );
  addDaemon(root, s);
  addController(root, s);
  declare(root, 'completion <SHELL>', {
    summary: 'Print the completion script for bash, zsh or fish.',
    examples: ['anka completion bash >/etc/bash_completion.d/anka'],
  }).action(async (shell) => (await import('../help/completion.ts')).printCompletion(s, root, modifyTree(null, 'VM'), shell));
  declare(root, 'version', { summary: 'Print the version.', examples: ['anka version'] }).action(async () =>
    (await import('../commands/version.ts')).printVersion(s),
  );
}

function addNetwork(root: Command, s: Session): void {
  const network = declare(root, 'network', { summary: 'Manage the networks of this host.', usage: GROUP_USAGE, examples: ['anka network list'] });
  declare(network, 'list', { summary: 'List the networks.', examples: ['anka network list'] }).action(async () =>
    (await import('../commands/network.ts')).listNetworks(s),
  );
  declare(network, 'reset', {
    summary: 'Remove all network objects of anka from this host; requires that no VM is running.',
    examples: ['anka network reset'],
  }).action(async () => (await import('../commands/network.ts')).resetNetworks(s));
}

function addDaemon(root: Command, s: Session): void {
  const daemon = () => import('../commands/daemon.ts');
  const group = declare(root, 'daemon', {
    summary: 'Manage the anka daemon, which starts automatically.',
    usage: GROUP_USAGE,
    examples: ['anka daemon status'],
  });
  declare(group, 'status', { summary: 'Show the status of the daemon.', examples: ['anka daemon status'] }).action(async () =>
    (await daemon()).daemonStatus(s),
  );
  declare(group, 'stop', { summary: 'Stop the daemon; VMs and networks keep running.', examples: ['anka daemon stop'] }).action(async () =>
    (await daemon()).daemonStop(s),
  );
  declare(group, 'run', { summary: 'Run the daemon in the foreground.', examples: ['anka daemon run'] }).action(async () => (await daemon()).daemonRun(s));
}

function addController(root: Command, s: Session): void {
  const group = declare(root, 'controller', {
    summary: "Serve Anka's REST API to Jenkins, TeamCity, GitLab and other programs.",
    usage: GROUP_USAGE,
    examples: ['anka controller run'],
  });
  declare(group, 'run', {
    summary: 'Run the controller in the foreground.',
    details:
      'Programs order instances by the REST API of Anka Build Cloud: clones of the VMs of this host, which are deleted when the program terminates them. Without a token the controller listens on the loopback only, where every local user may use it. Instances survive a restart of the controller.',
    examples: ['anka controller run', 'anka controller run --listen 0.0.0.0:8090 --token-file /etc/anka/token --max-vms 4'],
  })
    .option('--listen <ADDRESS>', 'Listen on this address and port.', '127.0.0.1:8090')
    .option('--token-file <FILE>', 'Demand the token in FILE, as a bearer token or as the password of basic authentication.')
    .option('--max-vms <NUMBER>', 'Run at most this many instances at a time (default: one a CPU, as far as memory goes).')
    .option('--node-address <HOST>', 'Send clients to HOST for forwarded ports (default: the address by which they reached the controller).')
    .option('--cert <FILE>', 'Serve HTTPS with the certificate in FILE.')
    .option('--key <FILE>', 'Private key of the certificate.')
    .option('--client-ca <FILE>', 'Admit clients that have a certificate of the CA in FILE; needs --cert.')
    .action(async (o) => (await import('../commands/controller.ts')).controllerRun(s, o));
}
