/**
 * Bounds the logs that QEMU appends to while it runs.
 *
 * Theory of operation: QEMU holds the files open and never waits for a reader, as a guest must not. So their sizes are
 * checked every second. Of a log above 4 MiB the last 4 MiB are kept as FILE.1, and the log is emptied: QEMU appends at
 * its new end.
 *
 * Limits: what is written while a log is copied may be lost. Between two checks, and while no daemon runs, a log can
 * grow up to the limit of each file of QEMU's (launch.ts).
 */
import { lstatSync } from 'node:fs';
import { constants, type FileHandle, open, rename, rm, writeFile } from 'node:fs/promises';
import { everySecond } from '../lib/every-second.ts';

const LOG_BYTES = 4 << 20;
const OPEN = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Keeps the logs bounded until the returned function is called. */
export function limitLogs(paths: readonly string[]): () => void {
  let busy = false;
  const check = async (): Promise<void> => {
    if (busy) return;
    busy = true;
    for (const path of paths) if (isTooLarge(path)) await trimLog(path).catch(() => {}); // the next check succeeds
    busy = false;
  };
  void check();
  return everySecond(() => void check());
}

/** By its name only: nearly always it is not, so that nothing has to be opened. */
function isTooLarge(path: string): boolean {
  try {
    return (lstatSync(path, { throwIfNoEntry: false })?.size ?? 0) > LOG_BYTES;
  } catch {
    return false; // its directory was replaced
  }
}

/** Moves the end of a log that is too large to `FILE.1`, and empties it. A log that does not exist is left alone. */
export async function trimLog(path: string, limit = LOG_BYTES): Promise<void> {
  let log: FileHandle;
  try {
    log = await open(path, OPEN);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw cause;
  }
  try {
    const stat = await log.stat();
    if (!stat.isFile() || stat.nlink > 1 || stat.size <= limit) return;
    try {
      await keepEnd(log, stat.size, limit, `${path}.1`);
    } finally {
      await log.truncate(0); // also on a full disk
    }
  } finally {
    await log.close();
  }
}

async function keepEnd(log: FileHandle, size: number, limit: number, path: string): Promise<void> {
  const { buffer, bytesRead } = await log.read(Buffer.alloc(limit), 0, limit, size - limit);
  const part = `${path}.part`;
  await rm(part, { force: true });
  try {
    await writeFile(part, buffer.subarray(0, bytesRead), { flag: 'wx', mode: 0o600 });
    await rename(part, path);
  } finally {
    await rm(part, { force: true });
  }
}
