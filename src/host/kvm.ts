/**
 * Who may open /dev/kvm. Root's daemon starts each QEMU as a user of its own, without other groups, so root's access
 * says nothing about QEMU's.
 */
import { accessSync, constants, type Stats, statSync } from 'node:fs';

const DEVICE = '/dev/kvm';
/** Read and write, of the last three bits of a mode. */
const READ_WRITE = 0o6;

/** `group`: the group with which QEMU may open it; null: its user's own group. */
export type KvmAccess = { kind: 'granted'; group: number | null } | { kind: 'denied' } | { kind: 'absent' };

/** For QEMU processes that a daemon of this user id starts. Access lists are ignored, as VMs' users are in none. */
export function kvmAccess(daemonUid: number): KvmAccess {
  try {
    if (daemonUid === 0) return accessOfVmUser(statSync(DEVICE));
    accessSync(DEVICE, constants.R_OK | constants.W_OK);
    return { kind: 'granted', group: null };
  } catch (cause) {
    return { kind: (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'absent' : 'denied' };
  }
}

/** Root's group is given to no VM. */
export function accessOfVmUser({ mode, gid }: Pick<Stats, 'mode' | 'gid'>): KvmAccess {
  if ((mode & READ_WRITE) === READ_WRITE) return { kind: 'granted', group: null };
  if (((mode >> 3) & READ_WRITE) === READ_WRITE && gid !== 0) return { kind: 'granted', group: gid };
  return { kind: 'denied' };
}
