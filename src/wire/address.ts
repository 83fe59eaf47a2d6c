/**
 * Addresses between text and number.
 *
 * An IPv4 address is an unsigned 32-bit number in host order (192.168.64.1 = 0xc0a84001), a MAC a number below 2^48.
 */

/** A subnet: network address in host order, and prefix length 0–32. */
export interface SubnetLike {
  base: number;
  prefix: number;
}

/** Strict dotted quad: four decimal numbers 0–255 without leading zeros; null for anything else. */
export function parseIpv4(text: string): number | null {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(text);
  if (!m) return null;
  let value = 0;
  for (const part of m.slice(1)) {
    if (Number(part) > 255 || (part.length > 1 && part.startsWith('0'))) return null;
    value = value * 256 + Number(part);
  }
  return value;
}

export function formatIpv4(address: number): string {
  return `${(address >>> 24) & 255}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/**
 * Any usual spelling: 52:54:00:12:34:56, 52-54-00-12-34-56, 5254.0012.3456, 525400123456; single digits between colons
 * too. Syntax only.
 */
export function parseMac(text: string): number | null {
  const t = text.trim().toLowerCase();
  let digits: string | null = null;
  if (/^[0-9a-f]{1,2}([:-])[0-9a-f]{1,2}(\1[0-9a-f]{1,2}){4}$/.test(t))
    digits = t
      .split(/[:-]/)
      .map((p) => p.padStart(2, '0'))
      .join('');
  else if (/^[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4}$/.test(t)) digits = t.replaceAll('.', '');
  else if (/^[0-9a-f]{12}$/.test(t)) digits = t;
  return digits === null ? null : Number.parseInt(digits, 16);
}

/** Lower case with colons. */
export function formatMac(mac: number): string {
  return mac.toString(16).padStart(12, '0').match(/../g)!.join(':');
}

/** The group bit of the first byte (IEEE 802). */
export function isMulticastMac(mac: number): boolean {
  return (Math.floor(mac / 2 ** 40) & 1) === 1;
}

/** `192.168.64.0/24`; null when malformed or when host bits are set. */
export function parseSubnet(text: string): SubnetLike | null {
  const [address, length, more] = text.split('/');
  const base = parseIpv4(address ?? '');
  if (base === null || more !== undefined || !/^(\d|[12]\d|3[0-2])$/.test(length ?? '')) return null;
  const subnet = { base, prefix: Number(length) };
  return (base & maskOf(subnet)) >>> 0 === base ? subnet : null;
}

export function formatSubnet(subnet: SubnetLike): string {
  return `${formatIpv4(subnet.base)}/${subnet.prefix}`;
}

/** 255.255.255.0 for /24. */
export function maskOf(subnet: SubnetLike): number {
  return subnet.prefix === 0 ? 0 : (0xffffffff << (32 - subnet.prefix)) >>> 0;
}

export function subnetContains(subnet: SubnetLike, address: number): boolean {
  return (address & maskOf(subnet)) >>> 0 === subnet.base;
}

/** Whether two subnets share an address. */
export function subnetsOverlap(a: SubnetLike, b: SubnetLike): boolean {
  return subnetContains(a, b.base) || subnetContains(b, a.base);
}

/** The first address: the gateway's. */
export function gatewayOf(subnet: SubnetLike): number {
  return subnet.base + 1;
}

export function broadcastOf(subnet: SubnetLike): number {
  return (subnet.base | ~maskOf(subnet)) >>> 0;
}
