/** Declares the commands on whole VMs: create, list, show, describe, start, stop, suspend, reboot, clone, delete. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { declare } from './command.ts';

const vms = () => import('../commands/vms.ts');
const power = () => import('../commands/power.ts');
const show = () => import('../commands/show.ts');

export function addVmCommands(root: Command, s: Session): void {
  addCreate(root, s);
  declare(root, 'list', { summary: 'List VMs.', examples: ['anka list', 'anka -j list'] })
    .alias('ls')
    .action(async () => (await vms()).list(s));
  declare(root, 'show <VM> [PROPERTY...]', {
    summary: 'Show the current state of a VM: status, addresses, port forwarding.',
    details: 'With PROPERTY, print only its value.',
    examples: ['anka show vm1', 'anka show vm1 ip', 'anka show vm1 network ip'],
  }).action(async (vm, words) => (await show()).show(s, vm, words));
  declare(root, 'describe <VM>', { summary: 'Show the stored configuration of a VM.', examples: ['anka describe vm1'] }).action(async (vm) =>
    (await show()).describe(s, vm),
  );
  addPowerCommands(root, s);
  declare(root, 'clone <VM> <NAME>', {
    summary: 'Clone a VM, with its network card and port forwarding rules.',
    examples: ['anka clone vm1 vm2'],
  }).action(async (vm, name) => (await vms()).clone(s, vm, name));
  declare(root, 'delete [VM...]', { summary: 'Delete VMs and their disks.', examples: ['anka delete vm1', 'anka delete --yes --all'] })
    .option('--yes', 'Do not ask for confirmation.')
    .option('-a, --all', 'Delete all VMs.')
    .action(async (names, o) => (await vms()).deleteVms(s, names, o));
}

function addCreate(root: Command, s: Session): void {
  declare(root, 'create <NAME>', {
    summary: 'Create a VM.',
    details: 'Its guest is Debian, with user anka, password admin, and an SSH server.',
    examples: ['anka create vm1', 'anka create -m 2G -c 4 -d 20G build', 'anka create --app ~/debian-12-generic.qcow2 cloud'],
  })
    .option('-m, --ram-size <SIZE>', 'Set the memory size (default: 4G).')
    .option('-c, --cpu-count <N>', 'Set the number of CPU cores (default: 2).')
    .option('-d, --disk-size <SIZE>', 'Set the virtual size of the disk, which is thin-provisioned (default: 80G).')
    .option('-a, --app <PATH>', 'Boot this disk image (qcow2, raw or cloud image) instead of the built-in guest.')
    .action(async (name, o) => (await vms()).create(s, name, o));
}

function addPowerCommands(root: Command, s: Session): void {
  declare(root, 'start [VM...]', { summary: 'Start or resume VMs.', examples: ['anka start vm1 vm2', 'ANKA_BRIDGE_NAME=en0 anka start vm1'] })
    .option('-a, --all', 'Start all VMs that are not running.')
    .action(async (names, o) => (await power()).start(s, names, o));
  declare(root, 'stop [VM...]', {
    summary: 'Shut down VMs.',
    examples: ['anka stop vm1', 'anka stop -f vm1 vm2', 'ANKA_STOP_TIMEOUT=10 anka stop --all'],
  })
    .option('-f, --force', 'Power off immediately, without shutting down the guest.')
    .option('-a, --all', 'Stop all VMs that are running or suspended.')
    .action(async (names, o) => (await power()).stop(s, names, o));
  declare(root, 'suspend [VM...]', {
    summary: "Save the memory of VMs to disk and stop them; 'anka start' resumes them.",
    examples: ['anka suspend vm1', 'anka suspend --all'],
  })
    .option('-a, --all', 'Suspend all running VMs.')
    .action(async (names, o) => (await power()).suspend(s, names, o));
  declare(root, 'reboot [VM...]', { summary: 'Reboot VMs.', examples: ['anka reboot vm1', 'anka reboot -f vm1'] })
    .option('-f, --force', 'Reset immediately, without shutting down the guest.')
    .option('-a, --all', 'Reboot all running VMs.')
    .action(async (names, o) => (await power()).reboot(s, names, o));
}
