/** Declares the commands that reach into a guest: run, ssh, cp, console, nc. */
import { type Command, Option } from 'commander';
import type { Session } from '../session.ts';
import { acceptGiven, collect, declare } from './command.ts';

const guest = () => import('../commands/guest.ts');

export function addGuestCommands(root: Command, s: Session): void {
  const run = declare(root, 'run <VM> <COMMAND...>', {
    summary: "Run a command in a guest; exits with the command's status, or 125 if the connection is lost.",
    details:
      'The command runs as user anka. A VM that is not running is started first. When anka run ends, by a signal too, the command gets SIGHUP. When the VM is stopped, suspended or moved to another network, anka run exits with 125.',
    examples: ['anka run vm1 uname -a', "anka run -N vm1 sh -c 'curl -s http://example.com | wc -c'", 'tar c dir | anka run vm1 tar x'],
  })
    .option('-N, --wait-network', 'Wait until the guest has an address, a default route and working DNS.')
    .option('-W, --wait-time', "Wait until the guest's clock is right, or set it.")
    .option('-w, --workdir <DIR>', 'Run the command in this directory of the guest.')
    .option('-e, --env <NAME=VALUE>', 'Set a variable; without =VALUE, to its value on the host. Repeatable.', collect)
    .option('-f, --env-file <FILE>', 'Set the variables of a file, NAME=VALUE on each line. Repeatable.', collect)
    .option('-E, --inherit', 'Set every variable of this command that the guest does not have.')
    .option('-q, --quiet', 'Discard the standard output of the command.')
    .option('-b, --background', 'Leave the command running in the guest, and print its process id.')
    .option('-v, --volume <DIR>', 'Share DIR[:NAME][:ro] with the guest while the command runs. Repeatable.', collect)
    .option('--timeout <SECONDS>', 'Wait for the guest at most SECONDS (default: 300).')
    .passThroughOptions();
  run.addOption(new Option('-D <DIR>', 'The same as --workdir.').hideHelp());
  acceptGiven(run, ['-n, --no-volume']);
  run.action(async (vm, words, o) => (await guest()).run(s, vm, words, { ...o, workdir: o.workdir ?? o.D, volume: Array.isArray(o.volume) ? o.volume : [] }));
  declare(root, 'ssh <VM> [COMMAND...]', {
    summary: 'Log in to a guest as user anka, or run a command in it.',
    examples: ['anka ssh vm1', "anka ssh vm1 'cd /var/log; ls -l | head'"],
  })
    .passThroughOptions()
    .action(async (vm, words) => (await guest()).ssh(s, vm, words));
  const cp = declare(root, 'cp <PATH...>', {
    summary: 'Copy files to or from a guest.',
    details:
      'The last PATH is the destination. A path in the guest is written VM:PATH. A directory that ends in / or /. stands for its contents. Symbolic links are copied as links, unless -L or -H is given.',
    examples: ['anka cp notes.txt vm1:', 'anka cp -r vm1:/var/log logs', 'anka cp -a ./dir vm1:/srv/'],
  })
    .option('-r, --recursive', 'Copy directories recursively; -R does the same.')
    .option('-a, --archive', 'Copy recursively, and keep modes and times: the same as -pPR.')
    .option('-p, --preserve', 'Keep modes and times.')
    .option('-L', 'Follow all symbolic links.')
    .option('-H', 'Follow symbolic links among the operands.')
    .option('-n', 'Leave files that exist as they are.')
    .option('-v, --verbose', 'Print each name.');
  acceptGiven(cp, ['-R', '-P', '-f']);
  cp.action(async (paths, o) => (await import('../commands/cp.ts')).cp(s, paths, o));
  declare(root, 'console <VM>', {
    summary: 'Connect to the serial console of a guest; Ctrl-] disconnects.',
    examples: ['anka console vm1'],
  }).action(async (vm) => (await import('../commands/console.ts')).openConsole(s, vm));
  declare(root, 'nc <HOST> <PORT>', {
    summary: 'Connect standard input and output to a TCP port of a VM.',
    details:
      'HOST is the name, UUID or IP address of the VM. The end of input is passed on, and so is the end of what the guest sends; then nc exits after a second without input.',
    examples: ["ssh -o ProxyCommand='anka nc %h %p' anka@vm1"],
  }).action(async (vm, port) => (await import('../commands/nc.ts')).nc(s, vm, port));
}
