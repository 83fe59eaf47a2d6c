/** ICMP for IPv4 (RFC 792): echo, and a gateway's errors. */
import { checksum16, fold16, put16, put32, sum16 } from './bytes.ts';

export const ICMP_HEADER = 8;
export const IcmpType = { echoReply: 0, unreachable: 3, redirect: 5, echo: 8, routerAdvert: 9, timeExceeded: 11, parameterProblem: 12 } as const;
/** Codes of `unreachable`. */
export const Unreachable = { net: 0, host: 1, protocol: 2, port: 3, fragmentationNeeded: 4, prohibited: 13 } as const;
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
