/** Declares the commands on whole VMs: create, list, show, describe, start, stop, suspend, reboot, clone, delete. */
import { type Command, Option } from 'commander';
import type { Session } from '../session.ts';
import { acceptGiven, acceptUnused, collect, declare } from './command.ts';

const vms = () => import('../commands/vms.ts');
const power = () => import('../commands/power.ts');
const show = () => import('../commands/show.ts');

export function addVmCommands(root: Command, s: Session): void {
  addCreate(root, s);
  addListAndShow(root, s);
  addPowerCommands(root, s);
  const clone = declare(root, 'clone <VM> [NAME...]', {
    summary: 'Clone a VM, with its network card and port forwarding rules.',
    details: 'Several names make several clones. Without a name, the clone is called VM-clone.',
    examples: ['anka clone vm1 vm2', 'anka clone --tag v1 vm1 vm2'],
  }).option('-t, --tag <TAG>', 'Clone a local tag of the VM instead of its present state.');
  acceptGiven(clone, ['-c, --copy']).action(async (vm, names, o) => (await vms()).clone(s, vm, names, o));
  const remove = declare(root, 'delete [VM...]', { summary: 'Delete VMs and their disks.', examples: ['anka delete vm1', 'anka delete --yes --all'] })
    .option('--yes', 'Do not ask for confirmation.')
    .option('-a, --all', 'Delete all VMs.')
    .option('-t, --tag <TAG>', 'Delete only this local tag of the VMs.');
  acceptUnused(remove, s, [['--cache', 'there is no cache']]).action(async (names, o) => (await vms()).deleteVms(s, names, o));
}

function addListAndShow(root: Command, s: Session): void {
  const list = declare(root, 'list [VM...]', { summary: 'List VMs.', examples: ['anka list', 'anka -j list', 'anka list --running --field name,ip'] })
    .alias('ls')
    .option('-r, --running', 'List only running VMs.')
    .option('-s, --stopped', 'List only VMs that are not running.')
    .option('-f, --field <NAME[=VALUE]>', 'Show only these fields; with =VALUE, only VMs that have this value. Repeatable.', collect);
  acceptGiven(list, ['-a, --all']).action(async (refs, o) => (await vms()).list(s, refs, o));
  const shown = declare(root, 'show <VM> [PROPERTY...]', {
    summary: 'Show the current state of a VM: status, addresses, port forwarding.',
    details: 'With PROPERTY, print only its value; exits with an error if the VM has none, such as an address.',
    examples: ['anka show vm1', 'anka show vm1 ip', 'anka show vm1 network ip', 'anka show vm1 disk size', 'anka show vm1 network -f', 'anka show vm1 mount'],
  })
    .option('-t, --tag <TAG>', 'Show a local tag of the VM.')
    .option('-f, --filter', "With property network: print the rules of the VM's packet filter.");
  shown.addOption(new Option('--current', 'With property tag: the tag that the disk was saved as last.').hideHelp());
  acceptGiven(shown, ['-d, --disk-index <INDEX>', '-l, --latest']).action(async (vm, words, o) =>
    o.filter ? (await show()).showFilter(s, vm, words) : (await show()).show(s, vm, words, o),
  );
  declare(root, 'describe <VM>', { summary: 'Show the stored configuration of a VM.', examples: ['anka describe vm1'] }).action(async (vm) =>
    (await show()).describe(s, vm),
  );
}

function addCreate(root: Command, s: Session): void {
  const create = declare(root, 'create [NAME] [IMAGE]', {
    summary: 'Create a VM.',
    details: 'Its guest is Debian, with user anka, password admin, and an SSH server.',
    examples: ['anka create vm1', 'anka create -m 2G -c 4 -d 20G build', 'anka create --app ~/debian-12-generic.qcow2 cloud'],
  })
    .option('-m, --ram-size <SIZE>', 'Set the memory size (default: 4G).')
    .option('-c, --cpu-count <N>', 'Set the number of CPU cores (default: 2).')
    .option('-d, --disk-size <SIZE>', 'Set the virtual size of the disk, which is thin-provisioned (default: 80G).')
    .option('-a, --app <PATH>', 'Boot this disk image (qcow2, raw or cloud image) instead of the built-in guest; the same as IMAGE.');
  create.addOption(new Option('-l, --list', 'List installers, of which there are none.').hideHelp());
  acceptUnused(create, s, [['--no-setup', 'a disk image has been set up already']]);
  acceptGiven(create, ['-q, --quiet']).action(async (name, image, o) => (await vms()).create(s, name, image, o));
}

function addPowerCommands(root: Command, s: Session): void {
  const start = declare(root, 'start [VM...]', {
    summary: 'Start or resume VMs.',
    examples: ['anka start vm1 vm2', 'anka start --wait vm1', 'ANKA_BRIDGE_NAME=en0 anka start vm1'],
  })
    .option('-a, --all', 'Start all VMs that are not running.')
    .option('--wait [SECONDS]', 'Wait until each VM has an IP address, at most SECONDS (default: 300), and print it.')
    .option('--mount <DIR>', 'Share DIR[:NAME][:ro] with the guests until they stop; may be repeated.', collect, []);
  acceptUnused(start, s, [
    ['-u, --update-addons', 'guests need no addons'],
    ['-v, --view', "there is no display; 'anka console' opens the serial console"],
    ['-d, --device <DEVICE>', 'USB devices are not supported'],
    ['--login-passwd <PASSWORD>', 'the guest is logged in to by its ssh key'],
  ]);
  acceptGiven(start, ['-f, --force', '-q, --quiet', '--disable-auto-mount']).action(async (names, o) => (await power()).start(s, names, o));
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
