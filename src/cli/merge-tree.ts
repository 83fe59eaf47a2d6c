/**
 * Moves a tree over another one, as cp(1) -R leaves it. It comes from a guest: no link is followed, in it or in the
 * destination, so that nothing is written outside.
 */
import { lstatSync, readdirSync, renameSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { AnkaError } from '../lib/errors.ts';

const look = (path: string): Stats | null => lstatSync(path, { throwIfNoEntry: false }) ?? null;

/**
 * Moves `from` to `to`, which are in one file system. Directories are merged; files and links replace files and links.
 * Throws `badValue` where a directory would replace a file, or a file a directory.
 */
export function mergeInto(from: string, to: string, options: { keepExisting: boolean }): void {
  const source = look(from);
  if (source === null || !(source.isDirectory() || source.isFile() || source.isSymbolicLink()))
    throw new AnkaError('guest', `the guest sent no file for '${to}'`);
  const there = look(to);
  if (there !== null && source.isDirectory() !== there.isDirectory())
    throw new AnkaError('badValue', `'${to}' is ${there.isDirectory() ? 'a' : 'not a'} directory`);
  if (there === null || !(source.isDirectory() || options.keepExisting)) renameSync(from, to);
  else if (source.isDirectory()) for (const name of readdirSync(from)) mergeInto(join(from, name), join(to, name), options);
}
