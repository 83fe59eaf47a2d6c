/**
 * Names and labels of everything that the kernel engine creates on a host, by which it is found, adopted and removed.
 */

import { createHash } from 'node:crypto';

/** Prefix of the alias of every interface of ours; its purpose follows. */
export const LABEL = 'anka:v1:';
/** Group of every interface of ours: "an" in ASCII. */
export const GROUP = 24_942;
export const BRIDGES = { shared: 'anka-shared', host: 'anka-host' } as const;
/** The service's ports, to which DHCP and DNS are redirected; below the default portfwd_base. */
export const DHCP_PORTS = { shared: 9967, host: 9968 } as const;
export const DNS_PORT = 9953;
/** Our nft tables that a change of the rules replaces: family and name. */
export const TABLES = [
  ['ip', 'anka'],
  ['ip6', 'anka'],
  ['bridge', 'anka'],
  ['netdev', 'anka'],
] as const;
/** Our nft table that no change replaces: what it has to do with a connection lasts as long as the connection. */
export const FLOW_TABLE = ['inet', 'anka_flows'] as const;
/** Our nft table of VMs' packet filters, which only their changes replace: it knows their flows. */
export const FILTER_TABLE = ['bridge', 'anka_filter'] as const;
export const ALL_TABLES = [...TABLES, FLOW_TABLE, FILTER_TABLE] as const;

/** An nft table of ours, by its name. */
export const isOurTable = (name: string): boolean => ALL_TABLES.some(([, table]) => table === name);

/** Interfaces of a segment: what a host's interface gets when VMs are bridged to it and it is in no bridge. */
export interface SegmentNames {
  /** The bridge with the VMs' taps. */
  bridge: string;
  /** A veth pair: the end in the bridge, and the end that eBPF programs connect to the interface. */
  bridgePort: string;
  uplinkPort: string;
}

export function segmentNames(uplink: string): SegmentNames {
  const key = createHash('sha256').update(uplink).digest('hex').slice(0, 8);
  return { bridge: `${SEGMENT_PREFIX}${key}`, bridgePort: `${BRIDGE_PORT_PREFIX}${key}`, uplinkPort: `anka-pt${key}` };
}

/** Interfaces of a NIC that is bridged by macvlan: a bridge, with the NIC's tap and the macvlan as its ports. */
export function cardBridgeNames(id: string): { bridge: string; bridgePort: string } {
  const { bridge, bridgePort } = segmentNames(`card ${id}`);
  return { bridge, bridgePort };
}

/** Prefix of every bridge for type bridge. */
export const SEGMENT_PREFIX = 'anka-br';
/** Prefix of every bridge port for type bridge. */
export const BRIDGE_PORT_PREFIX = 'anka-pl';

/** Interface of a NIC on the host; at most 15 bytes. */
export function tapName(id: string): string {
  return `anka${id.replaceAll('-', '').slice(0, 8)}`;
}

/** A name that only interfaces of ours have. */
export const OUR_NAME = /^anka([0-9a-f]{8}|-(br|pl|pt)[0-9a-f]{8}|-shared|-host)$/;

/** MAC address of a network's bridge: fixed, so that guests' ARP entries stay valid after a repair. */
export function bridgeMac(name: 'shared' | 'host'): string {
  return name === 'shared' ? '5a:45:45:00:40:01' : '5a:45:45:00:80:01';
}
