/**
 * Addresses that a bridge takes for its host's own, because one of its ports has them.
 *
 * What comes for such an address goes up into the host, not to another port. The kernel makes an entry for a port's
 * address when the port is put in, or when its address changes.
 */
import { run } from '../exec.ts';

/** Whether there is such an entry, by port. Addresses are written as the kernel does. */
export async function listOwnEntries(): Promise<{ port: string; mac: string }[]> {
  const entries = JSON.parse((await run('bridge', ['-j', 'fdb', 'show'])) || '[]') as { mac: string; ifname: string; master?: string; state?: string }[];
  return entries.flatMap((e) => (e.master !== undefined && e.state === 'permanent' ? [{ port: e.ifname, mac: e.mac }] : []));
}

export async function removeOwnEntry(port: string, mac: string): Promise<void> {
  await run('bridge', ['fdb', 'del', mac, 'dev', port, 'master']);
}
