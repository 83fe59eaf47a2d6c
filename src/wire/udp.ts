/** UDP (RFC 768): 8 bytes of header. A checksum of 0 means none. */
import { fold16, get16, put16, sum16 } from './bytes.ts';

export const UDP_HEADER = 8;
const OFF = { source: 0, destination: 2, length: 4, checksum: 6 } as const;

/** End of the datagram; 0 when header or length do not fit between `o` and `end`. Bytes after it are padding. */
export function checkUdp(b: Uint8Array, o: number, end: number): number {
  if (end - o < UDP_HEADER) return 0;
  const length = get16(b, o + OFF.length);
  return length < UDP_HEADER || o + length > end ? 0 : o + length;
}

export const udpSource = (b: Uint8Array, o: number): number => get16(b, o + OFF.source);
export const udpDestination = (b: Uint8Array, o: number): number => get16(b, o + OFF.destination);
export const udpChecksumAt = (o: number): number => o + OFF.checksum;

/** Sum of the pseudo header of TCP and UDP checksums. */
export function pseudoSum(source: number, destination: number, protocol: number, length: number): number {
  return (source >>> 16) + (source & 0xffff) + (destination >>> 16) + (destination & 0xffff) + protocol + length;
}

/** Whether the checksum is valid or absent. */
export function udpChecksumOk(b: Uint8Array, o: number, end: number, source: number, destination: number): boolean {
  if (get16(b, o + OFF.checksum) === 0) return true;
  return fold16(pseudoSum(source, destination, 17, end - o) + sum16(b, o, end)) === 0xffff;
}

interface Addresses {
  source: number;
  sourcePort: number;
  destination: number;
  destinationPort: number;
}

/** Writes the header of a datagram of `size` bytes, header included, whose payload is not wholly known: no checksum. */
export function emitPartOfUdp(b: Uint8Array, size: number, u: Addresses): void {
  put16(b, OFF.source, u.sourcePort);
  put16(b, OFF.destination, u.destinationPort);
  put16(b, OFF.length, size);
  put16(b, OFF.checksum, 0);
}

/** Writes the header of a datagram, with its checksum. The payload must already be behind it. */
export function emitUdp(b: Uint8Array, o: number, end: number, u: Addresses): void {
  put16(b, o, u.sourcePort);
  put16(b, o + OFF.destination, u.destinationPort);
  put16(b, o + OFF.length, end - o);
  put16(b, o + OFF.checksum, 0);
  const sum = ~fold16(pseudoSum(u.source, u.destination, 17, end - o) + sum16(b, o, end)) & 0xffff;
  put16(b, o + OFF.checksum, sum === 0 ? 0xffff : sum);
}
