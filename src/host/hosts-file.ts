/**
 * The names of a hosts file (hosts(5)) that guests may know.
 *
 * Left out are addresses that mean the host itself (127.0.0.0/8, ::1), link-local IPv6 addresses, and names that are no
 * host names. Names of the host itself are listed apart.
 *
 * Limits: the first 10,000 names, and 32 addresses of each.
 */
import { parseIpv4 } from '../wire/address.ts';
import { isLinkLocal6, parseIpv6 } from '../wire/address6.ts';

const MAX_NAMES = 10_000;
const MAX_ADDRESSES = 32;
const NAME = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$/;
const LOOPBACK_NAME = /^(.*\.)?localhost(\.localdomain)?$|^localhost[46](\.localdomain[46])?$|^ip6-|^localdomain$|^broadcasthost$/;

export interface HostsName {
  name: string;
  ipv4: number[];
  /** Canonical texts. */
  ipv6: string[];
}

/** A hosts file's content. */
export interface HostsFile {
  names: HostsName[];
  /** Names of the host itself. */
  own: string[];
  /** The first name of each address, an IPv4 one as a number, an IPv6 one as canonical text. */
  canonical: Map<number | string, string>;
}

/** `hostName`: the host's own name, as of hostname(1). */
export function parseHostsFile(text: string, hostName: string): HostsFile {
  const names = new Map<string, HostsName>();
  const canonical = new Map<number | string, string>();
  const host = hostName.toLowerCase();
  const own = new Set(isHostName(host) ? [host] : []);
  for (const line of text.split('\n')) {
    const [address, ...words] = line.replace(/#.*/, '').trim().split(/\s+/) as [string, ...string[]];
    const lineNames = words.map((w) => w.toLowerCase().replace(/\.$/, '')).filter(isHostName);
    const ipv4 = parseIpv4(address);
    const ipv6 = ipv4 === null ? parseIpv6(address) : null;
    if (isOfHostItself(ipv4, ipv6)) {
      // a line such as `127.0.1.1 name.example name`
      if (lineNames.includes(host)) for (const name of lineNames) own.add(name);
      continue;
    }
    if ((ipv4 === null && ipv6 === null) || (ipv6 !== null && isLinkLocal6(ipv6))) continue;
    for (const name of lineNames) {
      const known = names.get(name) ?? { name, ipv4: [], ipv6: [] };
      if (!names.has(name) && names.size >= MAX_NAMES) break;
      names.set(name, known);
      if (known.ipv4.length + known.ipv6.length >= MAX_ADDRESSES) continue;
      if (ipv4 !== null && !known.ipv4.includes(ipv4)) known.ipv4.push(ipv4);
      if (ipv6 !== null && !known.ipv6.includes(ipv6)) known.ipv6.push(ipv6);
      const key = ipv4 ?? (ipv6 as string);
      if (!canonical.has(key)) canonical.set(key, name);
    }
  }
  return { names: [...names.values()], own: [...own].filter((name) => !names.has(name)), canonical };
}

const isHostName = (name: string): boolean => NAME.test(name) && !LOOPBACK_NAME.test(name);

function isOfHostItself(ipv4: number | null, ipv6: string | null): boolean {
  return ipv4 === null ? ipv6 === '::1' : ipv4 >>> 24 === 127;
}
