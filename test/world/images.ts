/**
 * Guest images for tests, built once and kept in a cache directory (`ANKA_TEST_CACHE`, else `.cache` of the checkout).
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ensureBaseImage } from '../../src/vm/base-image.ts';

/** The cache directory. */
export const CACHE = process.env['ANKA_TEST_CACHE'] ?? fileURLToPath(new URL('../../.cache', import.meta.url));

/** Directory of an image, named by a hash of its sources; built when missing. */
function tiny(name: string, ...kernel: string[]): string {
  const sources = ['build.sh', 'init.sh', 'link-events.c', 'sudo.c'].map((f) => fileURLToPath(new URL(`../vm/tiny/${f}`, import.meta.url)));
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

/** Directory of the tiny guest, in the form that ANKA_BASE_IMAGE takes. */
export const tinyGuest = (): string => tiny('tiny');

/** The same with Debian's generic kernel, which has a driver for e1000. */
export const tinyGuestOfAllMachines = (): string => tiny('tiny-all', 'linux-image-amd64');

/** Directory of the built-in Debian guest, built by the product's own code. */
export async function debianGuest(): Promise<string> {
  const dir = join(CACHE, 'debian');
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  await ensureBaseImage(dir);
  return dir;
}
