/**
 * Additional MAC addresses that a network card receives.
 *
 * While there are any, the kernel switches a driver that cannot filter by several addresses to promiscuous mode.
 * Removing the interface removes them.
 */
import { formatMac, parseMac } from '../wire/address.ts';
import { run } from './exec.ts';

/** Addresses (numbers) that were added. Throws if the interface does not exist. */
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
