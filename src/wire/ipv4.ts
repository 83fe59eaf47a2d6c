/** IPv4 (RFC 791): where the fields are, from the start of the header. Addresses are numbers in host order. */

export const IPV4_HEADER = 20;
export const IPV4 = { versionIhl: 0, tos: 1, total: 2, id: 4, fragment: 6, ttl: 8, protocol: 9, checksum: 10, source: 12, destination: 16 } as const;
export const IpProtocol = { icmp: 1, tcp: 6, udp: 17 } as const;
/** Bits of the fragment field. */
export const DONT_FRAGMENT = 0x4000;
