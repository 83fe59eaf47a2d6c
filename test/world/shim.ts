/** The shim (shim.c), which stands in for QEMU: joins a namespace's tap to a unix socket. */
import { compiled } from './compile.ts';
import type { Namespace, World } from './world.ts';

/** Joins `ns`'s tap to the socket at `path`: it listens there, or dials. Resolves when it does. `damage` as shim.c has it. */
export async function joinTap(ns: Namespace, tap: string, how: 'listen' | 'dial', path: string, damage: readonly string[] = []): Promise<void> {
  const shim = ns.spawn([compiled(new URL('shim.c', import.meta.url)), tap, how, path, ...damage]);
  await new Promise<void>((resolve, reject) => {
    shim.stdout?.once('data', () => resolve());
    shim.once('exit', () => reject(new Error('the shim ended')));
  });
}

/** A guest: a namespace whose eth0 is a tap that is joined to the unix socket at `path`, where it waits to be dialled as QEMU does. */
export async function shimmedGuest(world: World, name: string, mac: string, path: string, mtu = 1500): Promise<Namespace> {
  const ns = world.namespace(name);
  ns.run(`ip tuntap add dev eth0 mode tap && ip link set eth0 address ${mac} mtu ${mtu} up`);
  await joinTap(ns, 'eth0', 'listen', path);
  return ns;
}
