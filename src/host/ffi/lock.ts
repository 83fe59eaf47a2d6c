/** Locks on open files (flock(2)). */
import { declareOnce } from './koffi.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

interface LockCalls {
  flock(fd: number, operation: number): number;
}

const calls = declareOnce(({ func }): LockCalls => ({ flock: func('int flock(int, int)') }));

/**
 * Takes the exclusive lock of an open file; false if another process holds it. The kernel releases it when the
 * descriptor is closed or the process exits.
 */
export function tryLock(fd: number): boolean {
  return calls().flock(fd, LOCK_EX | LOCK_NB) === 0;
}
