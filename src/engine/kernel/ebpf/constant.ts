/** Objects of bpf/ whose constants we write: the one `config` of a program, found by its marker. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { AnkaError } from '../../../lib/errors.ts';
import { PACKAGE_ROOT } from '../../../lib/package-root.ts';

const MARKER_SIZE = 8;

/** The object of that name, and of `marker`, with `value` written after the marker. */
export function objectWith(name: string, marker: string, value: Uint8Array): Buffer {
  const object = readFileSync(new URL(`assets/bpf/${name}.bpf.o`, PACKAGE_ROOT));
  const at = object.indexOf(`${marker}\0`, 0, 'latin1');
  if (at < 0 || object.indexOf(`${marker}\0`, at + 1, 'latin1') >= 0)
    throw new AnkaError('internal', `the eBPF object ${name} has not one place for its constant`);
  object.set(value, at + MARKER_SIZE);
  return object;
}

/** A name that tells an object's content, so that what is attached can be compared with what should be. */
export function objectName(prefix: string, object: Uint8Array): string {
  return `${prefix}${createHash('sha256').update(object).digest('hex').slice(0, 12)}.o`;
}

/** Has the object as a file of its own, for as long as `use` takes. */
export async function withObjectFile(dir: string, name: string, object: Uint8Array, use: (path: string) => Promise<void>): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, name);
  await writeFile(path, object, { mode: 0o600 });
  try {
    await use(path);
  } finally {
    await rm(path, { force: true });
  }
}
