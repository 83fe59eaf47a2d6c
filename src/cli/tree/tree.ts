/**
 * The command tree: every command with its options and help texts. Help, completion and man pages are generated from
 * it.
 *
 * Theory of operation. Each file of this directory declares one group of commands; what a command does is in
 * ../commands, loaded when the command runs, so that `anka` starts fast. `modify VM …` has two stages, as its commands
 * follow the VM's name: the outer command takes the name, a second tree (modify.ts) the rest.
 */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { addAnkaCommands } from './anka.ts';
import { newCommand } from './command.ts';
import { addGuestCommands } from './guest.ts';
import { addHostCommands } from './host.ts';
import { addModifyCommand } from './modify.ts';
import { addMountCommands } from './mounts.ts';
import { addPacketCommands } from './packets.ts';
import { addTagCommands } from './tags.ts';
import { addVmCommands } from './vms.ts';

/** The whole tree, bound to a session; null where only its texts are read. */
export function buildTree(session: Session | null): Command {
  const s = session as Session;
  const root = newCommand('anka')
    .description('Manage virtual machines and their networks.')
    .option('-j, --machine-readable', 'Print one line of JSON; ANKA_MACHINE_READABLE=1 does the same.')
    .option('--debug', 'Print every program that anka runs, and the stack trace of an error.')
    .option('--log-level <LEVEL>', 'With LEVEL debug, the same as --debug.')
    .enablePositionalOptions();
  addVmCommands(root, s);
  addGuestCommands(root, s);
  addMountCommands(root, s);
  addPacketCommands(root, s);
  addModifyCommand(root);
  addHostCommands(root, s);
  addTagCommands(root, s);
  addAnkaCommands(root, s);
  return root;
}
