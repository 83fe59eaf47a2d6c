/** Leases on files (fcntl(2), F_SETLEASE): the kernel's word that no other descriptor of a file is open. */
import { closeSync, constants, openSync } from 'node:fs';
import { declareOnce, onLinux } from './koffi.ts';

const F_SETLEASE = 1024;
const F_WRLCK = 1;
const F_UNLCK = 2;

const calls = declareOnce(({ func }): { fcntl(fd: number, command: number, argument: number): number } => ({
  fcntl: func('int fcntl(int, int, int)'),
}));

/**
 * Whether nobody has the file open: no descriptor, none on its way through a socket, no mapping. False also if the file
 * system has no leases, on macOS, and for a file that is not this user's or root's to ask about.
 */
export function isOpenNowhere(path: string): boolean {
  if (!onLinux) return false;
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    if (calls().fcntl(fd, F_SETLEASE, F_WRLCK) < 0) return false;
    calls().fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
  } finally {
    closeSync(fd);
  }
}
