/**
 * Names and labels of everything that the kernel engine makes on a host, so that it is known again, adopted, and
 * removed.
 */

import { createHash } from 'node:crypto';

/** Alias that every interface of ours carries, followed by what it is for. */
export const LABEL = 'anka:v1:';
/** Interface group of ours ("an"). */
export const GROUP = 24_942;
export const BRIDGES = { shared: 'anka-shared', host: 'anka-host' } as const;
/** Ports that UDP 67 of each bridge is rewritten to, and that DNS is redirected to; below the default portfwd_base. */
export const DHCP_PORTS = { shared: 9967, host: 9968 } as const;
export const DNS_PORT = 9953;
/** nft tables of ours, by family. */
export const TABLES = [
  ['ip', 'anka'],
  ['ip6', 'anka'],
  ['bridge', 'anka'],
  ['netdev', 'anka'],
] as const;

/** What is made for one interface of the host that VMs are bridged to without putting it into a bridge. */
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

/** What is made for one card that is bridged by a macvlan: a bridge with the card's tap and the macvlan in it. */
export function cardBridgeNames(id: string): { bridge: string; bridgePort: string } {
  const { bridge, bridgePort } = segmentNames(`card ${id}`);
  return { bridge, bridgePort };
}

/** Begins the name of every bridge for type bridge. */
export const SEGMENT_PREFIX = 'anka-br';
/** Begins the name of every bridge port for type bridge. */
export const BRIDGE_PORT_PREFIX = 'anka-pl';

/** Interface of a VM's card on the host: at most 15 bytes. */
export function tapName(id: string): string {
  return `anka${id.replaceAll('-', '').slice(0, 8)}`;
}

/** MAC address of a bridge of ours: fixed, so that guests keep their ARP entries over a repair. */
export function bridgeMac(name: 'shared' | 'host'): string {
  return name === 'shared' ? '5a:45:45:00:40:01' : '5a:45:45:00:80:01';
}
