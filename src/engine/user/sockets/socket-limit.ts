/** How many of a network process's open files may be host sockets of guests' TCP connections. */

/** Descriptors for everything else: NICs, UDP, DNS, listeners. */
const OTHER_FILES = 256;

/** `files`: the process's limit of open files. A guest's TCP connection takes one. */
export function socketsWithin(files: number): number {
  return Math.max(files / 2, files - OTHER_FILES);
}
