/** The shim (shim.c), which stands in for QEMU: it connects a namespace's tap to a unix socket. */
import { compiled } from './compile.ts';
import type { Namespace, World } from './world.ts';

/** Options of a card with checksum and segmentation offload (shim.c). */
export const OFFLOAD = ['offload'];

/**
 * Connects `ns`'s tap to the socket at `path`, by listening there or by dialling until it answers; resolves when ready.
 * `options`: see shim.c.
 */
export async function joinTap(ns: Namespace, tap: string, how: 'listen' | 'dial', path: string, options: readonly string[] = []): Promise<void> {
  const [program, ...parts] = ['shim.c', 'offload.c', 'offload.h'].map((f) => new URL(f, import.meta.url)) as [URL, ...URL[]];
  const shim = ns.spawn([compiled(program, ...parts), tap, how, path, ...options]);
  await new Promise<void>((resolve, reject) => {
    shim.stdout?.once('data', () => resolve());
    shim.once('exit', () => reject(new Error('the shim exited')));
  });
}

/**
 * A guest: a namespace whose eth0 is a tap connected to the unix socket at `path`, where the shim listens as QEMU does.
 */
export async function shimmedGuest(world: World, name: string, mac: string, path: string, mtu = 1500, options: readonly string[] = []): Promise<Namespace> {
  const ns = world.namespace(name);
  ns.run(`ip tuntap add dev eth0 mode tap && ip link set eth0 address ${mac} mtu ${mtu} up`);
  await joinTap(ns, 'eth0', 'listen', path, options);
  return ns;
}
