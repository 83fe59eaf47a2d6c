/** IPv6 addresses as canonical text (RFC 5952): strict parsing, and addresses derived from a MAC address. */
import { isIPv6 } from 'node:net';

/** Canonical text of an IPv6 address without zone; null when malformed. */
export function parseIpv6(text: string): string | null {
  if (!isIPv6(text) || text.includes('%')) return null;
  return new URL(`http://[${text}]/`).hostname.slice(1, -1);
}

/** The link-local address that a host derives from its MAC address (RFC 4291, modified EUI-64). */
export function linkLocalOf(mac: number): string {
  const b = [40, 32, 24, 16, 8, 0].map((shift) => Math.floor(mac / 2 ** shift) & 255) as [number, number, number, number, number, number];
  const words = [((b[0] ^ 2) << 8) | b[1], (b[2] << 8) | 0xff, 0xfe00 | b[3], (b[4] << 8) | b[5]];
  return parseIpv6(`fe80::${words.map((w) => w.toString(16)).join(':')}`) as string;
}

/** fe80::/10 */
export function isLinkLocal6(address: string): boolean {
  return /^fe[89ab]/.test(address);
}

/** ff00::/8 */
export function isMulticast6(address: string): boolean {
  return address.startsWith('ff');
}

/** The four 32-bit words of a canonical address. */
export function wordsOfIpv6(address: string): readonly [number, number, number, number] {
  const [head = '', tail] = address.split('::');
  const groups = (text: string): number[] => (text === '' ? [] : text.split(':').map((g) => Number.parseInt(g, 16)));
  const [front, back] = [groups(head), groups(tail ?? '')];
  const all = [...front, ...new Array<number>(8 - front.length - back.length).fill(0), ...back];
  const word = (i: number): number => (all[2 * i] as number) * 65_536 + (all[2 * i + 1] as number);
  return [word(0), word(1), word(2), word(3)];
}
