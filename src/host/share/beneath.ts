/**
 * Paths below an open directory, which nobody can lead outside.
 *
 * Theory of operation: a path is followed name by name. Each directory on it is opened by its name in the directory
 * before, never through a link, and `..` is refused. The last name is then used in its opened directory, also without
 * following a link. So whoever renames, or puts a link anywhere, changes what is found inside the directory, and never
 * leads outside it. Names in an open directory are written `/proc/self/fd/N/NAME`, as Node has no openat(2).
 *
 * Limits: Linux, with /proc. File systems that are mounted inside the directory belong to it. A directory that is moved
 * out of the shared one while a request is at work in it is still worked in; Landlock refuses that (fence.ts).
 */
import { closeSync, constants, openSync } from 'node:fs';

const O_PATH = 0o10000000;
const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW | O_PATH;
/** Names in one path. */
const MAX_DEPTH = 256;

/** A system error with a code, as those of Node's file functions. */
export function systemError(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(code), { code });
}

/** The names of a path; empty for the directory itself. Throws EACCES for `..`, and ENAMETOOLONG. */
export function namesOf(path: string): string[] {
  const names = path.split('/').filter((n) => n !== '' && n !== '.');
  if (names.includes('..')) throw systemError('EACCES');
  if (names.length > MAX_DEPTH) throw systemError('ENAMETOOLONG');
  return names;
}

/** A name in the directory with this descriptor, as a path for Node. `name` is latin1, one character for each byte. */
export const inDirectory = (fd: number, name: string): Buffer => Buffer.from(`/proc/self/fd/${fd}/${name}`, 'latin1');

/** What a descriptor refers to, as a path for Node. */
export const ofDescriptor = (fd: number): string => `/proc/self/fd/${fd}`;

/** Opens a directory below `root`, as a reference only (O_PATH). The caller closes it. Throws ENOTDIR for a link. */
export function openDirectory(root: number, names: readonly string[]): number {
  let fd = openSync(ofDescriptor(root), constants.O_RDONLY | constants.O_DIRECTORY | O_PATH);
  for (const name of names) {
    let next: number;
    try {
      next = openSync(inDirectory(fd, name), DIRECTORY);
    } finally {
      closeSync(fd);
    }
    fd = next;
  }
  return fd;
}

/**
 * Calls `use` with the opened parent directory of a path, and the path's last name. Throws EPERM for `root` itself.
 */
export function inParent<T>(root: number, path: string, use: (directory: number, name: string) => T): T {
  const names = namesOf(path);
  const name = names.pop();
  if (name === undefined) throw systemError('EPERM');
  const directory = openDirectory(root, names);
  try {
    return use(directory, name);
  } finally {
    closeSync(directory);
  }
}

/**
 * Opens a directory of the host by its absolute path, without following a link: the path is one that was resolved
 * before, and whoever owns a directory on it could have put a link there since. The caller closes it.
 */
export function openResolved(path: string): number {
  const root = openSync('/', constants.O_RDONLY | constants.O_DIRECTORY | O_PATH);
  try {
    return openDirectory(root, namesOf(path));
  } finally {
    closeSync(root);
  }
}
