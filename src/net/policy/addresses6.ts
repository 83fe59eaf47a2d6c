/** Which IPv6 addresses no guest may send from (B91). The decision on words and its nft text stand side by side. */

/** Unspecified, loopback and IPv4 inside IPv6; multicast: as nft writes `isForbiddenSource6`. */
export const FORBIDDEN_SOURCES6 = ['::/96', '::ffff:0:0/96', 'ff00::/8'] as const;

/** By the first three 32-bit words of the address. */
export function isForbiddenSource6(w0: number, w1: number, w2: number): boolean {
  return (w0 === 0 && w1 === 0 && (w2 === 0 || w2 === 0xffff)) || w0 >>> 24 === 0xff;
}

/**
 * The MAC address in a modified EUI-64 interface ID, the last two words of an address (RFC 4291, appendix A); -1 =
 * none.
 */
export function eui64MacOf(w2: number, w3: number): number {
  if ((w2 & 0xff) !== 0xff || w3 >>> 24 !== 0xfe) return -1;
  return ((w2 >>> 8) ^ 0x020000) * 2 ** 24 + (w3 & 0xffffff);
}
