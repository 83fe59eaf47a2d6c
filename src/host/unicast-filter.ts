/**
 * Further addresses that an interface's card takes in, beside its own.
 *
 * A driver that cannot filter by several addresses is switched to promiscuous by the kernel itself for as long as there
 * are any. An interface that goes takes all with it.
 */
import { formatMac, parseMac } from '../wire/address.ts';
import { run } from './exec.ts';

/** Addresses (numbers) that were added. Throws when the interface is not there. */
export async function listFilterAddresses(device: string): Promise<Set<number>> {
  const entries = JSON.parse((await run('bridge', ['-j', 'fdb', 'show', 'dev', device])) || '[]') as { mac: string; flags?: string[]; master?: string }[];
  return new Set(entries.filter((e) => e.flags?.includes('self') && e.master === undefined).flatMap((e) => parseMac(e.mac) ?? []));
}

export async function addFilterAddress(device: string, mac: number): Promise<void> {
  await run('bridge', ['fdb', 'add', formatMac(mac), 'dev', device, 'self', 'permanent']);
}

export async function removeFilterAddress(device: string, mac: number): Promise<void> {
  await run('bridge', ['fdb', 'del', formatMac(mac), 'dev', device, 'self']);
}
