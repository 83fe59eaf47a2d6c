/** The shim (shim.c) that stands in for QEMU: compiled once, and kept beside the guest images. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CACHE } from './images.ts';
import type { Namespace, World } from './world.ts';

const SOURCE = fileURLToPath(new URL('shim.c', import.meta.url));

/** Path of the program. Throws where there is no C compiler. */
function shimProgram(): string {
  const file = join(CACHE, `shim-${createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 12)}`);
  if (existsSync(file)) return file;
  mkdirSync(CACHE, { recursive: true, mode: 0o755 });
  execFileSync('cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', `${file}.${process.pid}`, SOURCE]);
  renameSync(`${file}.${process.pid}`, file);
  return file;
}

/** A guest: a namespace whose eth0 is a tap that is joined to the unix socket at `path`, where it waits to be dialled as QEMU does. */
export async function shimmedGuest(world: World, name: string, mac: string, path: string, mtu = 1500): Promise<Namespace> {
  const ns = world.namespace(name);
  ns.run(`ip tuntap add dev eth0 mode tap && ip link set eth0 address ${mac} mtu ${mtu} up`);
  const shim = ns.spawn([shimProgram(), 'eth0', path]);
  await new Promise<void>((resolve, reject) => {
    shim.stdout?.once('data', () => resolve());
    shim.once('exit', () => reject(new Error('the shim ended')));
  });
  return ns;
}
