/**
 * Why the kernel engine drops a packet. Each table has a set `drop_REASON` per reason that it uses, which counts by
 * NIC, as nft has no counters per interface. Tables bridge and netdev count by the NIC's interface. Tables ip and ip6
 * see only the bridge's interface and count by MAC address.
 */
import type { Drop } from '../../../net/drop-reasons.ts';
import { dynamicSet } from './nft-text.ts';

/** Reasons of the guard (table bridge), in the order of its sets. */
export const GUARD_REASONS = [
  'mac_spoof',
  'arp_spoof',
  'ip_spoof',
  'rogue_dhcp',
  'rogue_ra',
  'nd_spoof',
  'source_route',
  'address_limit',
  'malformed',
  'ethertype',
  'isolated',
  'metadata',
] as const satisfies readonly Drop[];

/**
 * All reasons: `prohibited` is what may not cross between networks, `rate_limit` what the gateway's services refuse.
 */
export const DROP_REASONS = [...GUARD_REASONS, 'prohibited', 'rate_limit', 'connection_limit', 'no_connection', 'filter'] as const satisfies readonly Drop[];

export type DropReason = (typeof DROP_REASONS)[number];

/** What a table's drops are counted by. */
export type DropKey = 'iifname' | 'oifname' | 'ether saddr';

export const dropSetName = (reason: DropReason): string => `drop_${reason}`;

export const dropSet = (reason: DropReason, key: DropKey): string => dynamicSet(dropSetName(reason), key === 'ether saddr' ? 'ether_addr' : 'ifname');

const counted = (reason: DropReason, key: DropKey): string => `update @${dropSetName(reason)} { ${key} counter }`;

/** Counts the packet and drops it. */
export const drop = (reason: DropReason, key: DropKey): string => `${counted(reason, key)} drop`;

/** Counts the packet and rejects it. `notice`: what the sender gets. */
export const reject = (reason: DropReason, key: DropKey, notice: string): string => `${counted(reason, key)} reject with ${notice}`;
