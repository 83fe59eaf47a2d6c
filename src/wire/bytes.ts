/** Numbers in network byte order at offsets of a byte array, and the Internet checksum (RFC 1071) of headers. */

export function get16(b: Uint8Array, o: number): number {
  return (b[o] << 8) | b[o + 1];
}

export function get32(b: Uint8Array, o: number): number {
  return ((b[o] << 24) | (b[o + 1] << 16) | (b[o + 2] << 8) | b[o + 3]) >>> 0;
}

export function put16(b: Uint8Array, o: number, v: number): void {
  b[o] = v >>> 8;
  b[o + 1] = v;
}

export function put32(b: Uint8Array, o: number, v: number): void {
  b[o] = v >>> 24;
  b[o + 1] = v >>> 16;
  b[o + 2] = v >>> 8;
  b[o + 3] = v;
}

/**
 * Sum of 16-bit words from `start` to `end`, an odd last byte padded; not folded. Exact for at most 128 KiB.
 */
export function sum16(b: Uint8Array, start: number, end: number): number {
  let sum = 0;
  let o = start;
  for (; o + 1 < end; o += 2) sum += (b[o] << 8) | b[o + 1];
  return o < end ? sum + (b[o] << 8) : sum;
}

/** One's-complement sum in 16 bits. */
export function fold16(sum: number): number {
  let s = sum;
  while (s > 0xffff) s = (s & 0xffff) + Math.floor(s / 0x10000);
  return s;
}

/** The checksum of a region, with `initial` already summed. */
export function checksum16(b: Uint8Array, start: number, end: number, initial = 0): number {
  return ~fold16(initial + sum16(b, start, end)) & 0xffff;
}
