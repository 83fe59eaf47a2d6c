/**
 * Forwarding entries for the addresses of a bridge's ports.
 *
 * Frames to such an address are delivered to the host instead of being forwarded. The kernel adds the entry when a port
 * is added to the bridge, or when its address changes.
 */
import { run } from './exec.ts';

/** All such entries, with addresses as the kernel prints them. */
export async function listOwnEntries(): Promise<{ port: string; mac: string }[]> {
  const entries = JSON.parse((await run('bridge', ['-j', 'fdb', 'show'])) || '[]') as { mac: string; ifname: string; master?: string; state?: string }[];
  return entries.flatMap((e) => (e.master !== undefined && e.state === 'permanent' ? [{ port: e.ifname, mac: e.mac }] : []));
}

export async function removeOwnEntry(port: string, mac: string): Promise<void> {
  await run('bridge', ['fdb', 'del', mac, 'dev', port, 'master']);
}
