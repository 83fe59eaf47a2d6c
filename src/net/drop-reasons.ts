/**
 * Why a frame of a NIC was dropped: a closed set. The kernel engine's guard uses the same names for the same reasons.
 * Shown by `anka show` and in the metrics.
 */
export const DROPS = [
  'mac_spoof',
  'arp_spoof',
  'ip_spoof',
  'rogue_dhcp',
  'rogue_ra',
  /** Neighbour discovery for the IPv6 address of another NIC, or with the MAC address of another. */
  'nd_spoof',
  /** IPv4 with a source route option. */
  'source_route',
  /** More addresses than a NIC may have, or claims them too fast. */
  'address_limit',
  /** More DHCP or DNS requests than one NIC may send. */
  'rate_limit',
  'ethertype',
  'isolated',
  /** Shorter than its headers say, or with inconsistent lengths. */
  'malformed',
  /** To an address that no NIC of this network has. */
  'no_destination',
  /** The receiver's queue, or that of the host's link, was full. */
  'queue_full',
  /** Too large for the receiver, and must not be fragmented; the sender is notified by ICMP. */
  'too_big',
  /** Fragments of a packet that was never completed, or too many fragments. */
  'reassembly',
  /** To an address that this network must not reach (outside of the host network, the host's loopback, …). */
  'prohibited',
  /** To the metadata service of a cloud (`anka config metadata`). */
  'metadata',
  /** A rule of the VM's packet filter. */
  'filter',
  /** A protocol that the gateway does not forward. */
  'protocol',
  /** Echo request to outside, which the host does not permit (`ping_group_range`). */
  'no_ping_right',
  /** More UDP flows than a NIC may open, or than the host has sockets for. */
  'udp_flows',
  /** An inbound datagram from an address that the guest has not sent to. */
  'udp_unasked',
  /** More connections than a guest may have open through the host; the sender is notified by ICMP. */
  'connection_limit',
  /** A TCP segment of no known connection, or outside its window; if the former, the sender gets a reset. */
  'no_connection',
  /** The TTL expired at the gateway; the sender is notified by ICMP. */
  'ttl',
] as const;
export type Drop = (typeof DROPS)[number];

/** Counters of one NIC, by reason. */
export class DropCounts {
  readonly #counts = new Map<Drop, number>();

  add(reason: Drop, n = 1): void {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + n);
  }

  /** The counters that are not zero. */
  toRecord(): Record<string, number> {
    return Object.fromEntries(this.#counts);
  }
}
