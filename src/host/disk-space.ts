/** Whether a disk is full, for errors that do not say so. */
import { statfsSync } from 'node:fs';

/** Less than this is no room for any file of ours. */
const ROOM_BYTES = 64 << 10;

/** False if the path does not exist. */
export function isDiskFull(path: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize < ROOM_BYTES;
  } catch {
    return false;
  }
}
