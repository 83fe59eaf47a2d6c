/** Small C programs of tests and benches: compiled once, and kept beside the guest images. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CACHE } from './images.ts';

/** Path of the program made from a C file. Throws where there is no C compiler. */
export function compiled(source: URL): string {
  const from = fileURLToPath(source);
  const file = join(CACHE, `${basename(from, '.c')}-${createHash('sha256').update(readFileSync(from)).digest('hex').slice(0, 12)}`);
  if (existsSync(file)) return file;
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', `${file}.${process.pid}`, from]);
  renameSync(`${file}.${process.pid}`, file);
  return file;
}
