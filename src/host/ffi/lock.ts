/** Locks on open files (flock(2), and those of fcntl(2) that QEMU takes). */
import { closeSync, constants, openSync } from 'node:fs';
import { declareOnce, onLinux } from './koffi.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;
const F_OFD_GETLK = 36;
const F_WRLCK = 1;
const F_UNLCK = 2;

interface LockCalls {
  flock(fd: number, operation: number): number;
  fcntl(fd: number, command: number, lock: Uint8Array): number;
}

const calls = declareOnce(
  ({ func }): LockCalls => ({
    flock: func('int flock(int, int)'),
    fcntl: func('int fcntl(int, int, _Inout_ uint8_t *)'),
  }),
);

/**
 * Takes the exclusive lock of an open file; false if another process holds it. The kernel releases it when the
 * descriptor is closed or the process exits.
 */
export function tryLock(fd: number): boolean {
  return calls().flock(fd, LOCK_EX | LOCK_NB) === 0;
}

/**
 * Whether another process holds a lock on part of a file, as QEMU does on its disks. False if the file does not exist,
 * and on macOS.
 */
export function isFileLocked(path: string): boolean {
  if (!onLinux) return false;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return false;
  }
  try {
    // struct flock: type, whence, start and length (0: all of the file), pid
    const lock = Buffer.alloc(32);
    lock.writeInt16LE(F_WRLCK, 0);
    return calls().fcntl(fd, F_OFD_GETLK, lock) === 0 && lock.readInt16LE(0) !== F_UNLCK;
  } finally {
    closeSync(fd);
  }
}
