/** How many of a network process's open files may be host sockets of guests' connections. Pure. */

/** Descriptors that are left to everything else: guests' cards, UDP, DNS, listeners. */
const OTHER_FILES = 256;

/** Of a process that may have `files` open: a guest's TCP connection takes one. */
export function socketsWithin(files: number): number {
  return Math.max(files / 2, files - OTHER_FILES);
}
