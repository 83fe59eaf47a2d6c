/** The host's interfaces, IPv4 addresses and routes, as netlink reports them. netlink/link-requests.ts changes them. */
import { formatIpv4, type SubnetLike } from '../wire/address.ts';
import { readAddresses } from './netlink/address-messages.ts';
import { readLinks } from './netlink/link-messages.ts';
import { MAIN_TABLE, readRoutes, UNICAST } from './netlink/route-messages.ts';

export interface Link {
  name: string;
  index: number;
  /** `bridge`, `tun`, `veth`, …; empty for a physical card. */
  kind: string;
  master: string | null;
  /** The interface below a macvlan or VLAN, or the other end of a veth; null for others. */
  parent: string | null;
  /** `bridge`, `private`, … of a macvlan; empty for others. */
  mode: string;
  up: boolean;
  /** Receives frames to every group. */
  allMulticast: boolean;
  /** Receives all frames; does not count captures. */
  promiscuous: boolean;
  alias: string;
  mac: string;
  mtu: number;
  /** Number of its group. */
  group: number;
  /** A bridge's spanning tree; null for others. `forwardDelay`: in each of two states before a port forwards, ms. */
  spanningTree: { on: boolean; forwardDelay: number } | null;
  /** A bridge whose frames pass iptables' chains (nf_call_iptables). */
  callsIptables: boolean;
  /** A tun or tap: it was created for several queues, and a process has one open; null for others. */
  tun: { multiQueue: boolean; isOpen: boolean } | null;
  /** As a port of a bridge: `forwarding`, `listening`, …, and the time until that state ends, ms; null for others. */
  port: { state: string; timer: number } | null;
  /** A veth whose other end is in another network namespace, as a container's network card is. */
  isContainerCard: boolean;
}

const IFF = { up: 0x1, promiscuous: 0x100, allMulticast: 0x200 } as const;
/** By MACVLAN_MODE_*. */
const MACVLAN_MODES: Record<number, string> = { 1: 'private', 2: 'vepa', 4: 'bridge', 8: 'passthru', 16: 'source' };
/** By BR_STATE_*. */
const PORT_STATES = ['disabled', 'listening', 'learning', 'forwarding', 'blocking'];

export async function listLinks(): Promise<Link[]> {
  const links = readLinks();
  const names = new Map(links.map((l) => [l.index, l.name]));
  return links.map((l) => ({
    name: l.name,
    index: l.index,
    kind: l.kind,
    master: names.get(l.master) ?? null,
    parent: l.belowElsewhere ? null : (names.get(l.below) ?? null),
    mode: MACVLAN_MODES[l.macvlanMode] ?? '',
    up: (l.flags & IFF.up) !== 0,
    allMulticast: (l.flags & IFF.allMulticast) !== 0,
    promiscuous: (l.flags & IFF.promiscuous) !== 0,
    alias: l.alias,
    mac: l.address,
    mtu: l.mtu,
    group: l.group,
    spanningTree: l.bridge && { on: l.bridge.stpState !== 0, forwardDelay: l.bridge.forwardDelayMs },
    callsIptables: l.bridge?.callsIptables ?? false,
    tun: l.tun,
    port: l.port && { state: PORT_STATES[l.port.state] ?? '', timer: l.port.timerMs },
    isContainerCard: l.kind === 'veth' && l.belowElsewhere,
  }));
}

/** Names of the containers' network cards among `links`. */
export function containerCards(links: readonly Link[]): Set<string> {
  return new Set(links.flatMap((l) => (l.isContainerCard ? l.name : [])));
}

/** Names of the interfaces, by index. */
const interfaceNames = (): Map<number, string> => new Map(readLinks().map((l) => [l.index, l.name]));

/** IPv4 addresses by interface name, as `a.b.c.d/len`. */
export async function listAddresses(): Promise<Map<string, string[]>> {
  const found = new Map<string, string[]>();
  const addresses = readAddresses();
  const names = interfaceNames();
  for (const { index, address, prefix } of addresses) {
    const name = names.get(index);
    if (name !== undefined) found.set(name, [...(found.get(name) ?? []), `${formatIpv4(address)}/${prefix}`]);
  }
  return found;
}

export interface Route extends SubnetLike {
  dev: string;
  isDefault: boolean;
}

/**
 * IPv4 routes to other machines, of the main table or of all tables, through an interface. A multipath route counts
 * once for each interface.
 */
export async function listRoutes(table: 'main' | 'all' = 'main'): Promise<Route[]> {
  const routes = readRoutes().filter((r) => r.type === UNICAST && (table === 'all' || r.table === MAIN_TABLE));
  const names = interfaceNames();
  return routes.flatMap(({ base, prefix, interfaces }) =>
    [...new Set(interfaces)].flatMap((index): Route[] => {
      const dev = names.get(index);
      return dev === undefined ? [] : [{ base, prefix, dev, isDefault: prefix === 0 }];
    }),
  );
}
