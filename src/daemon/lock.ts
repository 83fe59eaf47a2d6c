/**
 * One daemon per state directory: a lock file that holds the daemon's pid. The kernel releases the lock when the
 * process exits, however it exits.
 */
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { tryLock } from '../host/ffi/lock.ts';

/** Takes the lock until this process exits. Returns null on success, else the pid of the daemon that holds it. */
export function takeLock(path: string): number | null {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  if (!tryLock(fd)) {
    closeSync(fd);
    return Number.parseInt(readFileSync(path, 'utf8'), 10) || -1;
  }
  ftruncateSync(fd);
  writeSync(fd, `${process.pid}\n`, 0);
  return null;
}
