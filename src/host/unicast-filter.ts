/**
 * Additional MAC addresses (numbers) that a network card receives.
 *
 * While there are any, the kernel switches a driver that cannot filter by several addresses to promiscuous mode.
 * Removing the interface removes them. Every function throws if the interface does not exist.
 */
import { formatMac } from '../wire/address.ts';
import { demandInterface } from './ethernet.ts';
import { run } from './exec.ts';
import { NTF, readBridgeEntries } from './netlink/bridge-entries.ts';

/** Addresses that were added. */
export function listFilterAddresses(device: string): Set<number> {
  const entries = readBridgeEntries(demandInterface(device));
  return new Set(entries.flatMap((e) => ((e.flags & NTF.self) !== 0 && !e.ofMaster ? [e.mac] : [])));
}

export async function addFilterAddress(device: string, mac: number): Promise<void> {
  await run('bridge', ['fdb', 'add', formatMac(mac), 'dev', device, 'self', 'permanent']);
}

export async function removeFilterAddress(device: string, mac: number): Promise<void> {
  await run('bridge', ['fdb', 'del', formatMac(mac), 'dev', device, 'self']);
}
