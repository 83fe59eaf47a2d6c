/**
 * Additional MAC addresses (numbers) that a network card receives.
 *
 * While there are any, the kernel switches a driver that cannot filter by several addresses to promiscuous mode.
 * Removing the interface removes them. Every function throws if the interface does not exist.
 */
import { demandInterface } from './ethernet.ts';
import { addBridgeEntry, deleteBridgeEntry, NTF, readBridgeEntries } from './netlink/bridge-entries.ts';

/** Addresses that were added. */
export function listFilterAddresses(device: string): Set<number> {
  const entries = readBridgeEntries(demandInterface(device));
  return new Set(entries.flatMap((e) => ((e.flags & NTF.self) !== 0 && !e.ofMaster ? [e.mac] : [])));
}

export async function addFilterAddress(device: string, mac: number): Promise<void> {
  addBridgeEntry(demandInterface(device), mac, NTF.self);
}

export async function removeFilterAddress(device: string, mac: number): Promise<void> {
  deleteBridgeEntry(demandInterface(device), mac, NTF.self);
}
