/** The tiny guest with one more program in it. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { tinyGuest } from './images.ts';

/**
 * A copy of the tiny guest in which `/bin/say` sends frames as root (test/vm/tiny/say.c). The program is in an archive
 * appended to the initrd.
 */
export function sayingGuest(dir: string): string {
  const image = join(dir, 'saying-guest');
  cpSync(tinyGuest(), image, { recursive: true });
  const root = join(dir, 'saying-root');
  mkdirSync(join(root, 'bin'), { recursive: true });
  const source = fileURLToPath(new URL('../vm/tiny/say.c', import.meta.url));
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', join(root, 'bin/say'), source]);
  execFileSync('sh', ['-c', `chmod 4755 bin/say && echo bin/say | cpio -o -H newc -R 0:0 --quiet | gzip >>${join(image, 'initrd.img')}`], { cwd: root });
  return image;
}
