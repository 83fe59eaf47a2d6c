/**
 * One daemon per state folder: a file that its daemon has locked, with its pid. The kernel lets go of the lock when the
 * process ends, however it ends.
 */
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { tryLock } from '../host/ffi/lock.ts';

/** Takes the lock until this process ends. Null when it is ours now, else the pid of the daemon that has it. */
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
