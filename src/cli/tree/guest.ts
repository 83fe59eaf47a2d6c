/** Declares the commands that reach into a guest: run, ssh, cp, console, nc. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { declare } from './command.ts';

const guest = () => import('../commands/guest.ts');

export function addGuestCommands(root: Command, s: Session): void {
  declare(root, 'run <VM> <COMMAND...>', {
    summary: "Run a command in a guest; exits with the command's status, or 125 if the connection is lost.",
    details:
      'The command runs as user anka. A VM that is not running is started first. When anka run ends, by a signal too, the command gets SIGHUP. When the VM is stopped, suspended or moved to another network, anka run exits with 125.',
    examples: ['anka run vm1 uname -a', "anka run -N vm1 sh -c 'curl -s http://example.com | wc -c'", 'tar c dir | anka run vm1 tar x'],
  })
    .option('-N, --wait-network', 'Wait until the guest has an address, a default route and working DNS.')
    .option('--wait-time <SECONDS>', 'Wait for the guest at most SECONDS (default: 300).')
    .passThroughOptions()
    .action(async (vm, words, o) => (await guest()).run(s, vm, words, o));
  declare(root, 'ssh <VM> [COMMAND...]', {
    summary: 'Log in to a guest as user anka, or run a command in it.',
    examples: ['anka ssh vm1', "anka ssh vm1 'cd /var/log; ls -l | head'"],
  })
    .passThroughOptions()
    .action(async (vm, words) => (await guest()).ssh(s, vm, words));
  declare(root, 'cp <PATH...>', {
    summary: 'Copy files to or from a guest.',
    details: 'The last PATH is the destination. A path in the guest is written VM:PATH.',
    examples: ['anka cp notes.txt vm1:', 'anka cp -r vm1:/var/log logs'],
  })
    .option('-r, --recursive', 'Copy directories recursively.')
    .action(async (paths, o) => (await guest()).cp(s, paths, o));
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
