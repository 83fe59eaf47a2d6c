/** The tiny guest with more programs in it. */
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { tinyGuest } from './images.ts';

/**
 * A copy of the tiny guest with these programs in `/bin`: C programs, compiled and named after their source, and
 * scripts. All run as root. They are in an archive that is appended to the initrd.
 */
export function guestWith(dir: string, name: string, ...sources: readonly URL[]): string {
  const image = join(dir, name);
  cpSync(tinyGuest(), image, { recursive: true });
  const root = join(dir, `${name}-root`);
  mkdirSync(join(root, 'bin'), { recursive: true });
  const files = sources.map((source) => {
    const path = fileURLToPath(source);
    const file = join('bin', basename(path).replace(/[.]\w+$/, ''));
    if (path.endsWith('.c')) execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-static', '-o', join(root, file), path]);
    else cpSync(path, join(root, file));
    chmodSync(join(root, file), 0o4755);
    return file;
  });
  const append = 'printf "%s\\n" "$@" | cpio -o -H newc -R 0:0 --quiet | gzip >>"$0"';
  execFileSync('sh', ['-c', append, join(image, 'initrd.img'), ...files], { cwd: root });
  return image;
}

/** The tiny guest in which `say` sends frames as root (test/vm/tiny/say.c). */
export const sayingGuest = (dir: string): string => guestWith(dir, 'saying-guest', new URL('../vm/tiny/say.c', import.meta.url));
