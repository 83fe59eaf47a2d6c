/** Small C programs for tests and benches, compiled once and cached beside the guest images. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CACHE } from './images.ts';

/** Path of the program compiled from a C file and its `parts`. Throws without a C compiler. */
export function compiled(source: URL, ...parts: readonly URL[]): string {
  const from = fileURLToPath(source);
  const all = [from, ...parts.map((p) => fileURLToPath(p))];
  const hash = createHash('sha256');
  for (const f of all) hash.update(readFileSync(f));
  const file = join(CACHE, `${basename(from, '.c')}-${hash.digest('hex').slice(0, 12)}`);
  if (existsSync(file)) return file;
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', `${file}.${process.pid}`, ...all.filter((f) => f.endsWith('.c'))]);
  renameSync(`${file}.${process.pid}`, file);
  return file;
}
