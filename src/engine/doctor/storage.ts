/** `anka doctor` on the file systems of leases, sockets and VMs (B93): a full one stops guests that write. */
import { statfs } from 'node:fs/promises';
import type { DoctorFinding } from '../engine.ts';

/** Less than this is reported, MiB. */
const LOW_MIB = 64;
const MIB = 1 << 20;

/** `directories`: those to which anka writes; ones that do not exist are skipped. */
export async function storageFindings(directories: readonly string[]): Promise<DoctorFinding[]> {
  const full: DoctorFinding[] = [];
  for (const directory of directories) {
    const stats = await statfs(directory).catch(() => null);
    if (stats === null) continue;
    const free = Math.floor((stats.bavail * stats.bsize) / MIB);
    if (free >= LOW_MIB) continue;
    full.push({
      id: 'storage.full',
      level: 'error',
      message: `${free} MiB are free on the file system of ${directory}: leases may not be kept, and guests that write may stop`,
      remedy: `free at least ${LOW_MIB} MiB there; 'du -xah ${directory} | sort -h | tail' lists what is large`,
    });
  }
  return full.length > 0 ? full : [{ id: 'storage', level: 'ok', message: "anka's file systems have free space", remedy: '' }];
}
