/**
 * Forwarding entries for the addresses of a bridge's ports.
 *
 * Frames to such an address are delivered to the host instead of being forwarded. The kernel adds the entry when a port
 * is added to the bridge, or when its address changes.
 */
import { interfaceIndex } from './ethernet.ts';
import { deleteBridgeEntry, NTF, readBridgeEntries } from './netlink/bridge-entries.ts';

/** Removes the entries that a port has for an address. Does nothing if the port does not exist. */
export function removeOwnEntries(port: string, mac: number): void {
  const index = interfaceIndex(port);
  if (index === null) return;
  const own = readBridgeEntries(index).some((e) => e.ofMaster && e.permanent && e.mac === mac);
  if (own) deleteBridgeEntry(index, mac, NTF.master);
}
