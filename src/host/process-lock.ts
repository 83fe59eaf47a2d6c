/**
 * One process of a kind: a lock file that holds the pid of the one that has it. The kernel releases the lock when the
 * process exits, however it exits.
 */
import { closeSync, constants, fstatSync, ftruncateSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { tryLock } from './ffi/lock.ts';

/** Whether the descriptor's file is still the one at the path. */
function isAt(fd: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  const { dev, ino } = fstatSync(fd);
  return there?.dev === dev && there.ino === ino;
}

function writePid(fd: number): void {
  try {
    ftruncateSync(fd);
    writeSync(fd, `${process.pid}\n`, 0);
  } catch {
    // a full disk: the lock holds without the pid, which is for messages
  }
}

export class ProcessLock {
  readonly #path: string;
  readonly #fd: number;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** Takes the lock until this process exits; null if another process holds it. */
  static take(path: string): ProcessLock | null {
    for (;;) {
      const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
      const locked = tryLock(fd);
      if (locked && isAt(fd, path)) {
        writePid(fd);
        return new ProcessLock(path, fd);
      }
      closeSync(fd);
      if (!locked) return null;
    }
  }

  /** False when the file was removed or replaced: another process could take the lock of a new one. */
  get isInPlace(): boolean {
    return isAt(this.#fd, this.#path);
  }
}

/** The pid of the process that holds the lock; null if none does. */
export function lockHolder(path: string): number | null {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch {
    return null; // none has run yet
  }
  try {
    return tryLock(fd) ? null : Number.parseInt(readFileSync(fd, 'utf8'), 10) || null;
  } finally {
    closeSync(fd);
  }
}
