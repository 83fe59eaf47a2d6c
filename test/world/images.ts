/** Guest images for tests, built once and kept in a cache folder (`ANKA_TEST_CACHE`, else `.cache` of the checkout). */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureBaseImage } from '../../src/vm/base-image.ts';

/** Where the tests keep what is built once. */
export const CACHE = process.env['ANKA_TEST_CACHE'] ?? fileURLToPath(new URL('../../.cache', import.meta.url));

/** Another folder for other sources. */
function tiny(name: string, ...kernel: string[]): string {
  const sources = ['build.sh', 'init.sh'].map((f) => fileURLToPath(new URL(`../vm/tiny/${f}`, import.meta.url)));
  const hash = createHash('sha256');
  for (const file of sources) hash.update(readFileSync(file));
  const dir = join(CACHE, `${name}-${hash.digest('hex').slice(0, 8)}`);
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  if (existsSync(dir)) return dir;
  // other workers may want it at the same time: one builds, the others wait
  const build = 'test -d "$1" || { rm -rf "$1.part"; sh "$2" "$1.part" $3; mv "$1.part" "$1"; }';
  const args = [`${dir}.lock`, 'sh', '-ec', build, 'sh', dir, sources[0] as string, kernel.join(' ')];
  execFileSync('flock', args, { stdio: ['ignore', 'inherit', 'inherit'] });
  return dir;
}

/** Folder of the tiny guest, in the form that ANKA_BASE_IMAGE takes. */
export const tinyGuest = (): string => tiny('tiny');

/** The same with Debian's kernel for all machines, which drives an e1000, too. */
export const tinyGuestOfAllMachines = (): string => tiny('tiny-all', 'linux-image-amd64');

/** Folder of the built-in Debian guest, built by the product's own code. */
export async function debianGuest(): Promise<string> {
  const dir = join(CACHE, 'debian');
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  await ensureBaseImage(dir);
  return dir;
}
