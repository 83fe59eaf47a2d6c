/**
 * Directories and files that an untrusted user could change, seen from root.
 *
 * Theory of operation: a directory is opened without following a link, given to root by its descriptor, and only then
 * are its entries looked at: nobody else can change them any more. Until all of them are checked the directory has
 * another group than root's, so that an interrupted take-over is repeated.
 *
 * Limits: the directory's parent must be writable by root only.
 */
import { closeSync, constants, fchmodSync, fchownSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { AnkaError } from '../lib/errors.ts';
import { runLong } from './exec.ts';

const PASSABLE = 0o711;
const PRIVATE = 0o600;
/** No link is followed, and no fifo waited for. */
const CAREFUL = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** Any group but root's. */
const UNCHECKED_GROUP = 65_534;

/** Directories below this one that are closed before they are removed. */
const MAX_DEPTH = 32;

const isRoot = (): boolean => process.getuid?.() === 0;

/**
 * Gives a directory to root, and its named files to their users; other users can pass through it. Missing files are
 * skipped. `former`: the user that the directory may have belonged to. Does nothing unless it runs as root. Throws
 * `noRights` for a link, and for a file that `former` had put there and that is not that user's.
 */
export function takeDirectory(path: string, former: number, files: Record<string, number>): void {
  if (!isRoot()) return;
  const fd = openSync(path, CAREFUL | constants.O_DIRECTORY);
  try {
    const { uid, gid } = fstatSync(fd);
    const trusted = uid === 0 && gid === 0;
    if (!trusted) fchownSync(fd, 0, UNCHECKED_GROUP);
    fchmodSync(fd, PASSABLE);
    for (const [file, owner] of Object.entries(files)) takeFile(`${path}/${file}`, trusted ? null : [former], owner);
    fchownSync(fd, 0, 0);
  } finally {
    closeSync(fd);
  }
}

function takeFile(path: string, accepted: readonly number[] | null, owner: number): void {
  const fd = openPlain(path, accepted);
  if (fd === null) return;
  try {
    fchownSync(fd, owner, owner);
    fchmodSync(fd, PRIVATE);
  } finally {
    closeSync(fd);
  }
}

/** Opens a regular file for reading; null if it does not exist. `owners`: users that it may belong to; null: any. */
function openPlain(path: string, owners: readonly number[] | null): number | null {
  const refuse = (why: string): AnkaError => new AnkaError('noRights', `${path} is not used: ${why}; remove it, or delete the VM`);
  let fd: number;
  try {
    fd = openSync(path, CAREFUL);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') return null;
    if (code === 'ELOOP' || code === 'ENXIO') throw refuse('it is not a regular file');
    throw cause;
  }
  const stat = fstatSync(fd);
  if (stat.isFile() && (owners?.includes(stat.uid) ?? true)) return fd;
  closeSync(fd);
  throw refuse(stat.isFile() ? `it belongs to user ${stat.uid}` : 'it is not a regular file');
}

/** Removes a directory with all that is in it. Follows no link, also if one is put there meanwhile. */
export async function removeTree(path: string): Promise<void> {
  if (isRoot()) closeTree(path); // else a process could add files for as long as they are removed
  await runLong('rm', ['-rf', '--', path]);
}

/**
 * Lets only root into a directory and those below it. Nothing else is changed: a file can be a hard link to one of
 * another user's.
 */
function closeTree(path: string, depth = 0): void {
  let fd: number;
  try {
    fd = openSync(path, CAREFUL | constants.O_DIRECTORY);
  } catch {
    return;
  }
  try {
    fchownSync(fd, 0, 0);
    fchmodSync(fd, 0o700);
    if (depth === MAX_DEPTH) return;
    const inside = `/proc/self/fd/${fd}`;
    for (const entry of readdirSync(inside, { withFileTypes: true })) if (entry.isDirectory()) closeTree(`${inside}/${entry.name}`, depth + 1);
  } finally {
    closeSync(fd);
  }
}

/** The last bytes of a file as printable text; empty if there is none, or if it is not a regular file. */
export function readTail(path: string, bytes: number): string {
  let fd: number;
  try {
    fd = openSync(path, CAREFUL);
  } catch {
    return '';
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return '';
    const tail = Buffer.alloc(Math.min(bytes, stat.size));
    const read = readSync(fd, tail, 0, tail.length, stat.size - tail.length);
    return tail.toString('latin1', 0, read).replace(/[^\n\x20-\x7e]/g, '?');
  } finally {
    closeSync(fd);
  }
}
