/**
 * IPv6 (RFC 8200) and neighbour discovery (RFC 4861): what the guard of a switch must read. Limits: eight extension
 * headers; an authentication header is skipped, and parsing stops at an encrypted one.
 */
import { get16 } from './bytes.ts';

export const IPV6_HEADER = 40;
const OFF = { payload: 4, next: 6, source: 8, destination: 24 } as const;
export const ipv6SourceAt = (o: number): number => o + OFF.source;

export const Ipv6Next = { hopByHop: 0, udp: 17, routing: 43, fragment: 44, authentication: 51, icmp: 58, none: 59, options: 60 } as const;
export const NdType = { routerSolicit: 133, routerAdvert: 134, solicit: 135, advert: 136, redirect: 137 } as const;
const MAX_EXTENSIONS = 8;

/** Whether another header follows this one. */
export function isExtension(next: number): boolean {
  return next === Ipv6Next.hopByHop || next === Ipv6Next.routing || next === Ipv6Next.options || next === Ipv6Next.fragment || next === Ipv6Next.authentication;
}

/** The header behind the extension headers. */
export interface Ipv6Upper {
  /** Offset of the IPv6 header. */
  start: number;
  /** Last next-header value; -1 when the packet is malformed or truncated. */
  protocol: number;
  /** Offset of that header. */
  at: number;
  /** End of the packet. */
  end: number;
  /** There was a fragment header. */
  fragment: boolean;
  /** A fragment other than the first: `protocol` cannot be verified. */
  later: boolean;
}

/** Finds the upper-layer header of the packet at `o`. Writes the result to `out`, so that nothing is allocated. */
export function findUpper(b: Uint8Array, o: number, frameEnd: number, out: Ipv6Upper): void {
  out.protocol = -1;
  out.start = o;
  out.fragment = false;
  out.later = false;
  if (frameEnd - o < IPV6_HEADER || b[o] >> 4 !== 6) return;
  const end = o + IPV6_HEADER + get16(b, o + OFF.payload);
  if (end > frameEnd) return;
  out.end = end;
  let next = b[o + OFF.next];
  let at = o + IPV6_HEADER;
  for (let i = 0; i <= MAX_EXTENSIONS; i++) {
    if (!isExtension(next)) {
      out.protocol = next;
      out.at = at;
      return;
    }
    if (at + 8 > end) return;
    const size = next === Ipv6Next.fragment ? 8 : next === Ipv6Next.authentication ? (b[at + 1] + 2) * 4 : (b[at + 1] + 1) * 8;
    if (next === Ipv6Next.fragment) {
      out.fragment = true;
      if (get16(b, at + 2) & 0xfff8) {
        out.later = true;
        out.protocol = b[at];
        out.at = at + 8;
        return;
      }
    }
    next = b[at];
    at += size;
    if (at > end) return;
  }
}

/** Offset of the options of a neighbour discovery message; 0 when it is none, or too short. */
export function ndOptionsAt(b: Uint8Array, at: number, end: number): number {
  const fixed = { [NdType.routerSolicit]: 8, [NdType.routerAdvert]: 16, [NdType.solicit]: 24, [NdType.advert]: 24, [NdType.redirect]: 40 }[b[at]] ?? 0;
  return fixed === 0 || at + fixed > end ? 0 : at + fixed;
}

/** Calls `take` with the offset of every link-layer address in the options; false when they are malformed. */
export function eachLinkAddress(b: Uint8Array, options: number, end: number, take: (at: number) => void): boolean {
  for (let o = options; o < end; ) {
    if (o + 8 > end) return false;
    const size = b[o + 1] * 8;
    if (size === 0 || o + size > end) return false;
    if (b[o] === 1 || b[o] === 2) take(o + 2);
    o += size;
  }
  return true;
}
