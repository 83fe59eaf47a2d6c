/**
 * What has to change on the host's interfaces: pure, from desired and observed to steps. Removals come first.
 *
 * Where NICs of different MTUs share a network, its bridge gets the smallest MTU, so that what the host sends fits
 * every guest. Every tap gets the largest: a bridge silently drops what is too large for a port, while a guest with a
 * virtio NIC receives more than its own MTU. TCP between them works: each end announces its own MSS.
 */

import type { Link, Route } from '../../host/links.ts';
import type { LinkChange, LinkSettings } from '../../host/netlink/link-requests.ts';
import { formatIpv4, gatewayOf, parseIpv4 } from '../../wire/address.ts';
import type { DesiredNetwork, DesiredNic, DesiredState } from '../engine.ts';
import type { Attachments } from './bridging/uplinks.ts';
import { BRIDGES, bridgeMac, GROUP, LABEL, OUR_NAME, tapName } from './names.ts';

/** Changes for one object. Each step runs separately, so one that fails does not stop the others. */
export interface LinkStep {
  object: string;
  changes: LinkChange[];
}

/** What the host has, and where bridge-type NICs go. */
export interface LinkContext {
  links: readonly Link[];
  /** IPv4 addresses by interface, as `a.b.c.d/len`. */
  addresses: ReadonlyMap<string, string[]>;
  /** Of the main table. */
  routes: readonly Route[];
  attachments: Attachments;
  /** NICs (ids) to keep out of their network. */
  detached: ReadonlySet<string>;
}

const tapAlias = (nic: DesiredNic): string => `${LABEL}nic=${nic.id}`;

/**
 * Creates the taps that are missing, detached; one that was renamed while a guest uses it gets its name again. Linux
 * decides at creation whether a tap takes several queues, so one that does not fit its card is created anew, unless a
 * guest still uses it.
 */
export function planTaps(desired: DesiredState, links: readonly Link[]): LinkStep[] {
  const existing = new Map(links.map((l) => [l.name, l]));
  const used = new Map(links.filter((l) => l.tun?.isOpen).map((l) => [l.alias, l]));
  return desired.nics.flatMap((nic): LinkStep[] => {
    const name = tapName(nic.id);
    const link = existing.get(name);
    const object = `nic:${nic.id}`;
    const removal: LinkChange[] = link ? [{ change: 'delete', name }] : [];
    const own = used.get(tapAlias(nic))?.name ?? name;
    if (own !== name && !link?.tun?.isOpen) {
      const back: LinkChange[] = [
        { change: 'set', name: own, set: { up: false } },
        { change: 'set', name: own, set: { name } },
      ];
      return [{ object, changes: [...removal, ...back] }];
    }
    const multiQueue = nic.queues > 1;
    const unfit = link?.tun != null && link.tun.multiQueue !== multiQueue && !link.tun.isOpen;
    if (link && !unfit) return [];
    const created: LinkChange[] = [
      { change: 'add tap', name, owner: nic.ownerUid, multiQueue },
      { change: 'set', name, set: { group: GROUP, alias: tapAlias(nic) } },
    ];
    return [{ object, changes: [...removal, ...created] }];
  });
}

const ETHERNET_MTU = 1500;

/** MTUs of the NICs of a network; Ethernet's when it has none. */
function mtusOf(desired: DesiredState, network: string): { smallest: number; largest: number } {
  const all = desired.nics.filter((n) => n.type === network).map((n) => n.mtu);
  return all.length === 0 ? { smallest: ETHERNET_MTU, largest: ETHERNET_MTU } : { smallest: Math.min(...all), largest: Math.max(...all) };
}

/** The bridge that a NIC's tap belongs to; null for none. `detached`: NICs (ids) to keep out of their network. */
export function masterOf(nic: DesiredNic, attachments: Attachments, detached: ReadonlySet<string>): string | null {
  if (detached.has(nic.id) || nic.type === 'disconnected') return null;
  return nic.type === 'bridge' ? (attachments.get(nic.id)?.bridge ?? null) : BRIDGES[nic.type];
}

/** Deletes interfaces that no object needs, then creates and changes bridges, then taps that exist. */
export function planLinks(desired: DesiredState, context: LinkContext): LinkStep[] {
  return [
    ...planRemovals(desired, context),
    ...desired.networks.map((n) => planBridge(n, desired, context)),
    ...desired.nics.map((n) => planTap(n, desired, context)),
  ].filter((step) => step.changes.length > 0);
}

function planRemovals(desired: DesiredState, { links, attachments }: LinkContext): LinkStep[] {
  const wanted = new Set<string>([
    ...desired.networks.map((n) => BRIDGES[n.name] as string),
    ...desired.nics.map((n) => tapName(n.id)),
    ...[...attachments.values()].flatMap((a) => a.ownInterfaces),
  ]);
  // a tap that was renamed just now gets its name again in the next check
  const aliases = new Set(desired.nics.map(tapAlias));
  const isUsed = (l: Link): boolean => l.tun?.isOpen === true && aliases.has(l.alias);
  return links
    .filter((l) => isOurs(l) && !wanted.has(l.name) && !isUsed(l))
    .map((l) => ({ object: `link:${l.name}`, changes: [{ change: 'delete', name: l.name }] }));
}

function planBridge(network: DesiredNetwork, desired: DesiredState, { links, addresses, routes }: LinkContext): LinkStep {
  const name = BRIDGES[network.name];
  const link = links.find((l) => l.name === name);
  const mac = bridgeMac(network.name);
  const changes: LinkChange[] = [];
  const set = (settings: LinkSettings): number => changes.push({ change: 'set', name, set: settings });
  if (link && link.kind !== 'bridge') changes.push({ change: 'delete', name });
  if (!link || link.kind !== 'bridge') changes.push({ change: 'add bridge', name, group: GROUP, mac });
  else if (link.mac !== mac) set({ mac });
  const alias = `${LABEL}network=${network.name}`;
  if (link?.alias !== alias) set({ alias });
  const { smallest } = mtusOf(desired, network.name);
  if (link?.mtu !== smallest && (link || smallest !== ETHERNET_MTU)) set({ mtu: smallest });
  const { base, prefix } = network.subnet;
  const address = gatewayOf(network.subnet);
  const present = addresses.get(name) ?? [];
  for (const text of present) {
    const other = parseSubnetAddress(text);
    if (other.address !== address || other.prefix !== prefix) changes.push({ change: 'delete address', name, ...other });
  }
  const isPresent = present.includes(`${formatIpv4(address)}/${prefix}`);
  if (!isPresent) changes.push({ change: 'add address', name, address, prefix });
  if (!link?.up) set({ up: true });
  // the kernel adds the route when the address is added, or the link set up, and never again; another program's route
  // to this subnet stays first (doctor reports it)
  else if (isPresent && !routes.some((r) => r.dev === name && r.base === base && r.prefix === prefix))
    changes.push({ change: 'append route', name, subnet: network.subnet });
  return { object: `network:${network.name}`, changes };
}

/** Of text `a.b.c.d/len`. */
function parseSubnetAddress(text: string): { address: number; prefix: number } {
  const [address, prefix] = text.split('/');
  return { address: parseIpv4(address ?? '') ?? 0, prefix: Number(prefix) };
}

function planTap(nic: DesiredNic, desired: DesiredState, { links, attachments, detached }: LinkContext): LinkStep {
  const object = `nic:${nic.id}`;
  const name = tapName(nic.id);
  const link = links.find((l) => l.name === name);
  if (!link) return { object, changes: [] }; // creating it failed
  const master = masterOf(nic, attachments, detached);
  const mtu = (nic.type === 'bridge' ? attachments.get(nic.id)?.mtu : undefined) ?? mtusOf(desired, nic.type).largest;
  const alias = tapAlias(nic);
  const changes: LinkChange[] = [];
  const set = (settings: LinkSettings): number => changes.push({ change: 'set', name, set: settings });
  if (link.alias !== alias) set({ group: GROUP, alias });
  if (link.mtu !== mtu) set({ mtu });
  if (link.master !== master) set({ master });
  if (!link.up) set({ up: true });
  // spanning tree was turned off, but the port still waits for its end
  const bridge = links.find((l) => l.name === master);
  if (link.master === master && bridge?.spanningTree?.on === false && (link.port?.state === 'listening' || link.port?.state === 'learning'))
    set({ forwarding: true });
  return { object, changes };
}

/** An interface that anka created: by its label, or, after a crash before labelling, by its group and name. */
export function isOurs(link: Link): boolean {
  return link.alias.startsWith(LABEL) || (OUR_NAME.test(link.name) && (link.group === GROUP || link.kind === 'tun' || link.kind === 'bridge'));
}
