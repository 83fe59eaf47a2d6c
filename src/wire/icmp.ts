/** ICMP for IPv4 (RFC 792): echo, and errors. */
import { checksum16, fold16, get16, get32, put16, put32, sum16 } from './bytes.ts';
import { FRAGMENT_OFFSET, IPV4, IPV4_HEADER } from './ipv4.ts';

export const ICMP_HEADER = 8;
export const IcmpType = {
  echoReply: 0,
  unreachable: 3,
  sourceQuench: 4,
  redirect: 5,
  echo: 8,
  routerAdvert: 9,
  timeExceeded: 11,
  parameterProblem: 12,
} as const;
/** Codes of `unreachable`. */
export const Unreachable = { net: 0, host: 1, protocol: 2, port: 3, fragmentationNeeded: 4, prohibited: 13 } as const;
const ERRORS: ReadonlySet<number> = new Set([IcmpType.unreachable, IcmpType.sourceQuench, IcmpType.redirect, IcmpType.timeExceeded, IcmpType.parameterProblem]);
/** Bytes of a packet's payload that every error quotes (RFC 792). */
const LEAST_QUOTE = 8;
/** Bytes of the packet that an error quotes; RFC 1812 allows messages of up to 576 bytes. */
const QUOTE = 548;

/** Whether length and checksum are valid. */
export function checkIcmp(b: Uint8Array, o: number, end: number): boolean {
  return end - o >= ICMP_HEADER && fold16(sum16(b, o, end)) === 0xffff;
}

/** Writes type, code and checksum of a message whose other bytes are already written. */
export function sealIcmp(b: Uint8Array, o: number, end: number, type: number, code: number): void {
  b[o] = type;
  b[o + 1] = code;
  put16(b, o + 2, 0);
  put16(b, o + 2, checksum16(b, o, end));
}

/** Whether a message of that type is about another packet. */
export const isIcmpError = (type: number): boolean => ERRORS.has(type);

/** The next hop's MTU that "fragmentation needed" at `o` names (RFC 1191 4); 0 = none. */
export const nextHopMtu = (b: Uint8Array, o: number): number => get16(b, o + 6);

/** The packet that an error is about. */
export interface QuotedPacket {
  protocol: number;
  source: number;
  destination: number;
  /** Bytes of the whole packet, by its header. */
  total: number;
  /** Offset of its payload, of which at least 8 bytes are quoted. */
  at: number;
}

/** What the error at `o` quotes; null unless it is the start of an IPv4 packet. */
export function quotedPacket(b: Uint8Array, o: number, end: number): QuotedPacket | null {
  const ip = o + ICMP_HEADER;
  if (end - ip < IPV4_HEADER || b[ip] >> 4 !== 4) return null;
  const header = (b[ip] & 15) << 2;
  const total = get16(b, ip + IPV4.total);
  const least = header + LEAST_QUOTE;
  if (header < IPV4_HEADER || end - ip < least || total < least || (get16(b, ip + IPV4.fragment) & FRAGMENT_OFFSET) !== 0) return null;
  return { protocol: b[ip + IPV4.protocol], source: get32(b, ip + IPV4.source), destination: get32(b, ip + IPV4.destination), total, at: ip + header };
}

/** Size of the error about a packet of `packet` bytes. */
export function icmpErrorSize(packet: number): number {
  return ICMP_HEADER + Math.min(packet, QUOTE);
}

/**
 * Writes an error about the packet `quoted[from..to)`; `rest` is the second word (next-hop MTU for fragmentation
 * needed).
 */
export function emitIcmpError(b: Uint8Array, o: number, type: number, code: number, rest: number, quoted: Uint8Array, from: number, to: number): void {
  const n = Math.min(to - from, QUOTE);
  put32(b, o + 4, rest);
  b.set(quoted.subarray(from, from + n), o + ICMP_HEADER);
  sealIcmp(b, o, o + ICMP_HEADER + n, type, code);
}
