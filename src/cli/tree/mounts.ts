/** Declares the commands on shared directories: mount, unmount. */
import type { Command } from 'commander';
import type { Session } from '../session.ts';
import { declare } from './command.ts';

const mounts = () => import('../commands/mount.ts');

export function addMountCommands(root: Command, s: Session): void {
  declare(root, 'mount <VM> [DIR]', {
    summary: 'Share a directory of the host with a running guest.',
    details:
      "DIR[:NAME][:ro] appears in the guest as /media/NAME, by default under its own name; without DIR, the current directory. It stays until 'anka unmount', or until the VM is stopped; 'anka modify VM mount' shares it at each start. 'anka show VM mount' lists what is shared. The guest needs sshfs.",
    examples: ['anka mount vm1', 'anka mount vm1 ~/project', 'anka mount --ro vm1 /srv/data:input'],
  })
    .option('--ro', 'Do not let the guest change anything.')
    .action(async (vm, dir, o) => (await mounts()).mount(s, vm, dir, o));
  declare(root, 'unmount <VM> [MOUNT...]', {
    summary: 'Stop sharing directories with a guest.',
    details: "MOUNT is the ID or the name that 'anka show VM mount' prints. Files that the guest has open are closed.",
    examples: ['anka unmount vm1 1', 'anka unmount vm1 input', 'anka unmount vm1 --all'],
  })
    .option('-a, --all', 'Stop sharing all directories.')
    .action(async (vm, names, o) => (await mounts()).unmount(s, vm, names, o));
}
