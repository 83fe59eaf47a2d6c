/** IPv4 (RFC 791): field offsets from the start of the header. Addresses are numbers in host order. */
import { checksum16, put16, put32 } from './bytes.ts';

export const IPV4_HEADER = 20;
export const IPV4 = { versionIhl: 0, tos: 1, total: 2, id: 4, fragment: 6, ttl: 8, protocol: 9, checksum: 10, source: 12, destination: 16 } as const;
export const IpProtocol = { icmp: 1, tcp: 6, udp: 17 } as const;
/** Bits of the fragment field. */
export const DONT_FRAGMENT = 0x4000;
export const MORE_FRAGMENTS = 0x2000;
export const FRAGMENT_OFFSET = 0x1fff;
const TTL = 64;

export interface Ipv4Header {
  /** Bytes, header included. */
  total: number;
  id: number;
  fragment: number;
  protocol: number;
  source: number;
  destination: number;
}

/** Writes a header without options at `o`, with its checksum. */
export function emitIpv4(b: Uint8Array, o: number, h: Ipv4Header): void {
  b[o] = 0x45;
  b[o + IPV4.tos] = 0;
  put16(b, o + IPV4.total, h.total);
  put16(b, o + IPV4.id, h.id);
  put16(b, o + IPV4.fragment, h.fragment);
  b[o + IPV4.ttl] = TTL;
  b[o + IPV4.protocol] = h.protocol;
  put16(b, o + IPV4.checksum, 0);
  put32(b, o + IPV4.source, h.source);
  put32(b, o + IPV4.destination, h.destination);
  put16(b, o + IPV4.checksum, checksum16(b, o, o + IPV4_HEADER));
}
