/**
 * The segment of an interface with a no-touch bridge: a bridge of ours with the VMs' taps, and a veth pair. One end of
 * the pair is in the bridge; eBPF programs connect the other to the interface.
 */
import type { Link } from '../../../host/links.ts';
import { changeLinks, type LinkChange } from '../../../host/netlink/link-requests.ts';
import { GROUP, LABEL, type SegmentNames, segmentNames } from '../names.ts';
import { createLinks } from './own-links.ts';

const LABEL_PREFIX = `${LABEL}uplink=`;

/** Creates and repairs a segment, without connecting it to its interface. */
export async function ensureSegment(uplink: string, mtu: number, links: readonly Link[]): Promise<SegmentNames> {
  const names = segmentNames(uplink);
  const byName = new Map(links.map((l) => [l.name, l]));
  const bridge = byName.get(names.bridge);
  const bridgePort = byName.get(names.bridgePort);
  const uplinkPort = byName.get(names.uplinkPort);
  const label = LABEL_PREFIX + uplink;
  const changes: LinkChange[] = [];
  if (!bridge) changes.push({ change: 'add bridge', name: names.bridge, group: GROUP });
  if (!bridgePort !== !uplinkPort) changes.push({ change: 'delete', name: bridgePort ? names.bridgePort : names.uplinkPort });
  if (!bridgePort || !uplinkPort) changes.push({ change: 'add veth', name: names.bridgePort, group: GROUP, peer: names.uplinkPort });
  const created: string[] = [];
  if (bridge?.alias !== label) created.push(names.bridge);
  if (bridgePort?.alias !== label || uplinkPort?.alias !== label) created.push(names.bridgePort, names.uplinkPort);
  await createLinks(changes, created, label);
  const settings: LinkChange[] = [];
  for (const [name, link] of [
    [names.uplinkPort, uplinkPort],
    [names.bridgePort, bridgePort],
    [names.bridge, bridge],
  ] as const) {
    const isNew = created.includes(name);
    if (isNew || link?.mtu !== mtu) settings.push({ change: 'set', name, set: { mtu } });
    if (name === names.bridgePort && (isNew || created.includes(names.bridge) || link?.master !== names.bridge))
      settings.push({ change: 'set', name, set: { master: names.bridge } });
    if (isNew || !link?.up) settings.push({ change: 'set', name, set: { up: true } });
  }
  changeLinks(settings);
  return names;
}

/** Interfaces that have a segment, or part of one. */
export function segmentUplinks(links: readonly Link[]): string[] {
  return links.flatMap((l) => (l.alias.startsWith(LABEL_PREFIX) ? [l.alias.slice(LABEL_PREFIX.length)] : []));
}

/** Removes the segment of an interface. Returns what was removed. */
export async function removeSegment(uplink: string, links: readonly Link[]): Promise<string[]> {
  const names = segmentNames(uplink);
  const removed: string[] = [];
  // the veth pair goes with either of its ends
  for (const name of [names.uplinkPort, names.bridge]) {
    if (!links.some((l) => l.name === name)) continue;
    changeLinks([{ change: 'delete', name }]);
    removed.push(`interface ${name}`);
  }
  return removed;
}
