/**
 * Why a frame of a card was dropped: one closed set, the same names as the kernel engine's guard where they mean the
 * same. Seen in `show` and in the metrics.
 */
export const DROPS = [
  'mac_spoof',
  'arp_spoof',
  'ip_spoof',
  'rogue_dhcp',
  'rogue_ra',
  /** Neighbour discovery for another's IPv6 address, or with another's MAC address. */
  'nd_spoof',
  /** IPv4 that says itself which way it wants to go. */
  'source_route',
  /** More addresses than a card may have, or claim in a time. */
  'address_limit',
  /** More requests for addresses or names at once than one card is served. */
  'rate_limit',
  'ethertype',
  'isolated',
  /** Shorter than its own headers say, or with lengths that contradict each other. */
  'malformed',
  /** For an address that nobody on this network has. */
  'no_destination',
  /** The receiver's queue was full, or that of the host's link. */
  'queue_full',
  /** Too large for the receiver, and not to be fragmented; told to the sender by ICMP. */
  'too_big',
  /** Fragments of a packet that was never completed, or too many of them. */
  'reassembly',
  /** To an address that is not reached from this network (the host network's outside, the host's loopback, …). */
  'prohibited',
  /** A protocol that the gateway does not carry. */
  'protocol',
  /** Echo to outside without the right to send it (`ping_group_range`). */
  'no_ping_right',
  /** More UDP flows than a card may have, or than the host gives sockets for. */
  'udp_flows',
  /** A datagram from outside that the guest did not ask for. */
  'udp_unasked',
  /** The time to live ended at the gateway; told to the sender by ICMP. */
  'ttl',
] as const;
export type Drop = (typeof DROPS)[number];

/** Counters of one card, by reason. */
export class DropCounts {
  readonly #counts = new Map<Drop, number>();

  add(reason: Drop, n = 1): void {
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + n);
  }

  /** Those that are not zero. */
  toRecord(): Record<string, number> {
    return Object.fromEntries(this.#counts);
  }
}
