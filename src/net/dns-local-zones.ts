/**
 * The names that are answered on the host (B25): those of VMs, of the host's hosts file, and names that must not leave
 * it.
 *
 * Theory of operation: the first that applies answers.
 * - NAME.anka.internal and the reverse names of our networks: a zone of its own, with SOA and NS.
 * - localhost, invalid, onion, and the reverse names of special addresses (RFC 6303, 6761, 7686); resolver.arpa (RFC
 *   9462), so that a guest asks this forwarder and not the servers behind it.
 * - Names of the hosts file, forward and reverse, on a network that reaches outside.
 * - Reverse names of private addresses, unless a server is in such a network itself, and may know them.
 * - Every other name on the host network.
 *
 * Negative answers have an SOA, so that caches keep them for its minimum (RFC 2308): a name appears within 5 s.
 */
import { parseSubnet, type SubnetLike, subnetContains } from '../wire/address.ts';
import {
  DNS_CLASS_IN,
  type DnsQuestion,
  type DnsRecord,
  DnsType,
  emitDnsAnswer,
  encodeName,
  ipv4Data,
  ipv6Data,
  parseReverseName,
  Rcode,
  reverseName,
  reverseName6,
  soaData,
} from '../wire/dns.ts';

export const DNS_SUFFIX = 'anka.internal';
const HOST_LABEL = 'host';
const HOST_NAME = `${HOST_LABEL}.${DNS_SUFFIX}`;
/** Names that every system resolves to its own loopback (RFC 6761, 6.3; hosts files). */
const LOOPBACK_NAMES = ['localhost', 'localhost.localdomain', 'localhost4', 'localhost6', 'ip6-localhost', 'ip6-loopback'];
const TTL_SECONDS = 5;
const LOOPBACK = 0x7f000001;

/** Zones without names (RFC 6303, 4.2 to 4.4; RFC 6761; RFC 7686; RFC 9462). */
const EMPTY_ZONES = [
  ...['invalid', 'onion', 'resolver.arpa'],
  ...['0', '127', '254.169', '2.0.192', '100.51.198', '113.0.203', '255.255.255.255'].map((octets) => `${octets}.in-addr.arpa`),
  ...[reverseName6('::'), reverseName6('::1'), ...['8', '9', 'a', 'b'].map((digit) => `${digit}.e.f.ip6.arpa`), '8.b.d.0.1.0.0.2.ip6.arpa'],
];
/** Response: no such name (for RFC 9462, 6.4: no such type). */
const EMPTY_ZONE_NODATA = new Set(['resolver.arpa']);
/** Reverse zones of private networks (RFC 6303, 4.1 and 4.4). */
const PRIVATE_ZONES = [
  ...['10', '168.192', ...Array.from({ length: 16 }, (_, i) => `${16 + i}.172`)].map((octets) => `${octets}.in-addr.arpa`),
  'd.f.ip6.arpa',
];
const PRIVATE_SERVERS = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '127.0.0.0/8', '169.254.0.0/16', '100.64.0.0/10'].map(
  (s) => parseSubnet(s) as SubnetLike,
);

export interface LocalZonesConfig {
  subnet: SubnetLike;
  gateway: number;
  /** Names of outside are answered as unknown. */
  closed: boolean;
}

/** Names of the host's hosts file (host/hosts-file.ts). */
export interface HostsNames {
  names: readonly { name: string; ipv4: readonly number[]; ipv6: readonly string[] }[];
  /** Names of the host itself, for which guests get the gateway's address. */
  own: readonly string[];
  /** Names of addresses. */
  canonical: ReadonlyMap<number | string, string>;
}

/** Why a VM of this name could not be found by it, in words that follow "as"; null when it can. */
export function unresolvableName(vmName: string): string | null {
  const name = vmName.toLowerCase();
  if (name === HOST_LABEL) return `${HOST_NAME} is this host`;
  if (LOOPBACK_NAMES.includes(name) || name.endsWith('.localhost')) return 'every system takes it for itself';
  if (name.split('.').includes('')) return 'a DNS name has no empty part between dots or at its end';
  return null;
}

/** The end of `name` that is one of these zones. */
function zoneOf(name: string, zones: ReadonlySet<string>): string | undefined {
  for (let at = 0; ; ) {
    const rest = name.slice(at);
    if (zones.has(rest)) return rest;
    const dot = name.indexOf('.', at);
    if (dot < 0) return undefined;
    at = dot + 1;
  }
}

const emptyZones: ReadonlySet<string> = new Set(EMPTY_ZONES);
const privateZones: ReadonlySet<string> = new Set(PRIVATE_ZONES);

/** Whether a server may know the names of private addresses: it has one, or an IPv6 address that is not global. */
export function isPrivateServer(server: number | string): boolean {
  return typeof server === 'number' ? PRIVATE_SERVERS.some((s) => subnetContains(s, server)) : !/^[23]/.test(server);
}

interface Addresses {
  ipv4: readonly number[];
  ipv6: readonly string[];
}

export class LocalZones {
  readonly #config: LocalZonesConfig;
  /** VMs and the host, without suffix. */
  #names = new Map<string, number>();
  #addresses = new Map<number, string>();
  #hosts = new Map<string, Addresses>();
  /** Name by reverse name. */
  #reverseHosts = new Map<string, string>();
  /** Subnets of our networks, whose reverse names are not forwarded. */
  ourSubnets: readonly SubnetLike[] = [];
  /** Private addresses may be known to a server. */
  forwardPrivate = true;

  constructor(config: LocalZonesConfig) {
    this.#config = config;
    this.setNames(new Map());
  }

  /** Own names (without suffix) and their addresses. */
  setNames(names: ReadonlyMap<string, number>): void {
    this.#names = new Map([...names].map(([n, ip]) => [n.toLowerCase(), ip]));
    this.#names.set(HOST_LABEL, this.#config.gateway);
    this.#addresses = new Map([...this.#names].map(([n, ip]) => [ip, n]));
  }

  /** Null: none are answered. */
  setHosts(hosts: HostsNames | null): void {
    this.#hosts = new Map(hosts?.names.map(({ name, ...addresses }) => [name, addresses]));
    for (const name of hosts?.own ?? []) this.#hosts.set(name, { ipv4: [this.#config.gateway], ipv6: [] });
    this.#reverseHosts = new Map([...(hosts?.canonical ?? [])].map(([ip, name]) => [typeof ip === 'number' ? reverseName(ip) : reverseName6(ip), name]));
  }

  /** The answer to a query of class IN; null when it must be forwarded. */
  answer(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    return this.#ownZone(query, q) ?? this.#ownReverse(query, q) ?? this.#special(query, q) ?? this.#hostsFile(query, q) ?? this.#unforwarded(query, q);
  }

  #ownZone(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    if (q.name === DNS_SUFFIX) return this.#apex(query, q, DNS_SUFFIX);
    if (!q.name.endsWith(`.${DNS_SUFFIX}`)) return null;
    const ip = this.#names.get(q.name.slice(0, -DNS_SUFFIX.length - 1));
    return ip === undefined ? negative(query, q, Rcode.nxDomain, DNS_SUFFIX) : addressesAnswer(query, q, { ipv4: [ip], ipv6: [] }, DNS_SUFFIX);
  }

  /** Reverse names of our networks; the zone ends at an octet. */
  #ownReverse(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    const reverse = parseReverseName(q.name);
    if (reverse === null) return null;
    const { subnet } = this.#config;
    const within = [subnet, ...this.ourSubnets].find(
      (s) => subnetContains(s, reverse.base) && (reverse.prefix >= s.prefix || reverse.prefix === zonePrefix(s)),
    );
    if (within === undefined) return null;
    const zone = reverseName(within.base, zonePrefix(within));
    if (q.name === zone) return this.#apex(query, q, zone);
    if (reverse.prefix < 32) return negative(query, q, Rcode.ok, zone); // a name between, without records
    const name = within === subnet ? this.#addresses.get(reverse.base) : undefined;
    return name === undefined ? negative(query, q, Rcode.nxDomain, zone) : pointerAnswer(query, q, `${name}.${DNS_SUFFIX}`, zone);
  }

  #special(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    if (q.name === 'localhost' || q.name.endsWith('.localhost')) return addressesAnswer(query, q, { ipv4: [LOOPBACK], ipv6: ['::1'] }, 'localhost');
    const zone = zoneOf(q.name, emptyZones);
    if (zone === undefined) return null;
    if (q.name === zone) return this.#apex(query, q, zone);
    return negative(query, q, EMPTY_ZONE_NODATA.has(zone) ? Rcode.ok : Rcode.nxDomain, zone);
  }

  #hostsFile(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    const known = this.#hosts.get(q.name);
    // records of other types may exist outside
    if (known && [DnsType.A, DnsType.AAAA, DnsType.ANY].some((type) => type === q.type)) return addressesAnswer(query, q, known, q.name);
    const name = this.#reverseHosts.get(q.name);
    return name === undefined ? null : pointerAnswer(query, q, name, q.name);
  }

  #unforwarded(query: Uint8Array, q: DnsQuestion): Uint8Array | null {
    if (this.#config.closed) return negative(query, q, Rcode.nxDomain, '');
    const zone = this.forwardPrivate ? undefined : zoneOf(q.name, privateZones);
    return zone === undefined ? null : q.name === zone ? this.#apex(query, q, zone) : negative(query, q, Rcode.nxDomain, zone);
  }

  /** The name of a zone itself. */
  #apex(query: Uint8Array, q: DnsQuestion, zone: string): Uint8Array {
    const all = [soaRecord(zone), { name: zone, type: DnsType.NS, ttl: TTL_SECONDS, data: encodeName(HOST_NAME) }];
    const records = all.filter((r) => q.type === r.type || q.type === DnsType.ANY);
    return records.length > 0 ? emitDnsAnswer(query, q, Rcode.ok, records) : negative(query, q, Rcode.ok, zone);
  }
}

/** Octets of a network's reverse zone, in bits. */
const zonePrefix = (subnet: SubnetLike): number => Math.floor(subnet.prefix / 8) * 8;

function soaRecord(zone: string): DnsRecord {
  return { name: zone, type: DnsType.SOA, ttl: TTL_SECONDS, data: soaData(HOST_NAME, TTL_SECONDS) };
}

/** No such name, or no such type (RFC 2308, 2). */
function negative(query: Uint8Array, q: DnsQuestion, rcode: number, zone: string): Uint8Array {
  return emitDnsAnswer(query, q, rcode, [], [soaRecord(zone)]);
}

function addressesAnswer(query: Uint8Array, q: DnsQuestion, { ipv4, ipv6 }: Addresses, zone: string): Uint8Array {
  const records: DnsRecord[] = [];
  if (q.type === DnsType.A || q.type === DnsType.ANY) for (const ip of ipv4) records.push({ type: DnsType.A, ttl: TTL_SECONDS, data: ipv4Data(ip) });
  if (q.type === DnsType.AAAA || q.type === DnsType.ANY) for (const ip of ipv6) records.push({ type: DnsType.AAAA, ttl: TTL_SECONDS, data: ipv6Data(ip) });
  return records.length > 0 ? emitDnsAnswer(query, q, Rcode.ok, records) : negative(query, q, Rcode.ok, zone);
}

function pointerAnswer(query: Uint8Array, q: DnsQuestion, name: string, zone: string): Uint8Array {
  if (q.type !== DnsType.PTR && q.type !== DnsType.ANY) return negative(query, q, Rcode.ok, zone);
  return emitDnsAnswer(query, q, Rcode.ok, [{ type: DnsType.PTR, ttl: TTL_SECONDS, data: encodeName(name) }]);
}

/** Why a query is answered by an error, before names are looked at; null when nothing is wrong with it. */
export function refusalOf(q: DnsQuestion): number | null {
  if (q.edns && q.edns.version > 0) return Rcode.badVersion; // RFC 6891, 6.1.3
  // no zone transfers, and no names of other classes
  if (q.class !== DNS_CLASS_IN || q.type === DnsType.AXFR || q.type === DnsType.IXFR) return Rcode.refused;
  return null;
}
