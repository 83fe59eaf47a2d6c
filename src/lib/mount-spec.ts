/**
 * What a user writes for a shared directory: `DIR[:NAME][:ro]`. Pure.
 *
 * The directory appears in the guest as `/media/NAME`. A name is one that every guest's shell, `/proc/mounts` and a
 * unix path take as it is.
 */
import { AnkaError } from './errors.ts';

/** Directories that a VM has at most. */
export const MAX_MOUNTS = 16;
/** Characters of a name. */
const MAX_NAME = 64;
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

export interface MountSpec {
  /** As the user has written it: absolute or relative. */
  directory: string;
  /** Absent: the directory's own name. */
  name?: string;
  readOnly: boolean;
}

/** Path of a shared directory in the guest. */
export const guestPath = (name: string): string => `/media/${name}`;

/** Reads `DIR[:NAME][:ro]`. A colon in DIR is part of it if a slash follows. Throws `usage`. */
export function parseMount(text: string): MountSpec {
  const [, directory, fields] = /^(.*?)((?::[^/:]*){0,2})$/s.exec(text) as unknown as [string, string, string];
  const words = fields.split(':').slice(1);
  const access = words.at(-1);
  const hasAccess = access === 'ro' || access === 'rw';
  const [name, ...rest] = hasAccess ? words.slice(0, -1) : words;
  if (directory === '' || rest.length > 0) throw new AnkaError('usage', `Invalid value for 'DIR': '${text}' is not DIR[:NAME][:ro].`);
  if (name !== undefined && name !== '') checkMountName(name);
  return { directory, readOnly: access === 'ro', ...(name ? { name } : {}) };
}

/** Throws `badValue` for what cannot be the name of a directory in the guest, or would be read as an ID. */
export function checkMountName(name: string): void {
  if (name.length > MAX_NAME || !NAME.test(name) || /^\d+$/.test(name))
    throw new AnkaError(
      'badValue',
      `'${name}' cannot be a name in the guest: use at most ${MAX_NAME} letters, digits, '.', '_' and '-', not digits alone; write DIR:NAME to choose one`,
    );
}
