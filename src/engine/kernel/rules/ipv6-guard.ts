/**
 * The guard's rules for IPv6 addresses (B91): nft sets and chains of table bridge. Pure, from NICs to text.
 *
 * Theory of operation: an address belongs to the NIC that used it first, for as long as that NIC keeps using it (first
 * come, first served, as in RFC 6620). A NIC uses an address by sending from it, or by advertising it. Duplicate
 * address detection does not claim an address, and is passed on to the NIC that holds it. Addresses derived from a MAC
 * address of the network (EUI-64) belong to that MAC's NIC from the start. `held6` has the held addresses, and `own6`
 * the same with the NIC, so that rules can match "held, but not by this NIC". Each network, and each VLAN of each
 * bridge, is a domain with sets of its own. A NIC may take 32 addresses at once, and 32 more in an hour, so it cannot
 * fill the sets. The sets' elements are carried over to new rules (kept-elements.ts).
 *
 * Headers behind extension headers are matched. Neighbour discovery in fragments (RFC 6980), and a first fragment
 * without its upper-layer header (RFC 7112), are dropped. bpf/mac-translate.bpf.c parses neighbour discovery options.
 * It marks a message that names another MAC address. It also marks one whose options do not fit it exactly, which every
 * receiver would discard (RFC 4861, 4.6).
 *
 * A frame in a VLAN has the tag's EtherType behind the addresses, where nft would look. `meta protocol ip6` matches
 * with and without a tag.
 *
 * Limits: nft 1.0.6 knows neither the target of an advertisement nor options, hence the raw offsets. Where eBPF is not
 * available, only a first option of length 0 is detected. The search stops at an authentication header, as in the
 * receiver's kernel, which needs a key for it.
 */
import { FORBIDDEN_SOURCES6 } from '../../../net/policy/addresses6.ts';
import { DHCP6_CLIENT_PORT, DHCP6_SERVER_PORT } from '../../../net/policy/services.ts';
import { anyOf, chain, dynamicSet, elements, expiringSet } from './nft-text.ts';
import type { RuledNic } from './rule-input.ts';

/** Seconds for which an address is held after its NIC last used it. */
export const HOLD_SECONDS = 3600;
/** Addresses that a NIC may take at once, and in an hour. */
const ADDRESSES = 32;
const SET_SIZE = 65_535;
/** MARK_FORGED and MARK_MALFORMED of bpf/mac-translate.bpf.c. */
const FORGED_MARK = '0x616e6b61';
const MALFORMED_MARK = '0x616e6b62';
/** Bit offset and length: the source address and its interface identifier, then the same of an advertised target. */
const SOURCE = '@nh,64,128';
const SOURCE_INTERFACE = '@nh,128,64';
const TARGET = '@th,64,128';
const TARGET_INTERFACE = '@th,128,64';

type Drop = (reason: 'ip_spoof' | 'nd_spoof' | 'rogue_ra' | 'rogue_dhcp' | 'malformed' | 'address_limit') => string;

/** The interface identifier that is derived from a MAC address (RFC 4291, appendix A), as nft writes it. */
export function interfaceIdOf(mac: number): string {
  const high = Math.floor(mac / 2 ** 24) ^ 0x020000;
  return `0x${high.toString(16).padStart(6, '0')}fffe${(mac % 2 ** 24).toString(16).padStart(6, '0')}`;
}

/** Sets for all domains. `gateways`: MAC addresses of our bridges, whose EUI-64 addresses are no guest's. */
export function ipv6Sets(domains: readonly string[], attached: readonly { tap: string; nic: RuledNic['nic'] }[], gateways: readonly number[]): string {
  const byNic = attached.map(({ tap, nic }) => `"${tap}" . ${interfaceIdOf(nic.outsideMac)}`);
  const any = [...new Set([...attached.map(({ nic }) => nic.outsideMac), ...gateways])].map(interfaceIdOf);
  const held = { size: SET_SIZE, timeout: `${HOLD_SECONDS}s` };
  return [
    `  set eui64 { typeof iifname . ${SOURCE_INTERFACE};${elements(byNic)}; }`,
    `  set eui64_any { typeof ${SOURCE_INTERFACE};${elements(any)}; }`,
    dynamicSet('claim6_rate', 'ifname', SET_SIZE),
    ...domains.flatMap((d) => [expiringSet(`own6_${d}`, `typeof iifname . ${SOURCE}`, held), expiringSet(`held6_${d}`, `typeof ${SOURCE}`, held)]),
  ].join('\n');
}

/** Chains of one domain. `goto ip6_DOMAIN` decides about an IPv6 packet. */
export function ipv6Chains(domain: string, drop: Drop): string {
  return [
    accept(domain),
    source(domain, drop),
    target(domain, drop),
    neighbourDiscovery(domain, drop),
    icmp(domain, drop),
    udp(domain, drop),
    entry(domain, drop),
  ].join('\n');
}

/** Takes an address for the NIC, or renews it. */
const hold = (d: string, address: string): string =>
  `update @own6_${d} { iifname . ${address} timeout ${HOLD_SECONDS}s } update @held6_${d} { ${address} timeout ${HOLD_SECONDS}s }`;

const limitClaims = (drop: Drop): string =>
  `update @claim6_rate { iifname limit rate over ${ADDRESSES}/hour burst ${ADDRESSES} packets } ${drop('address_limit')}`;

function accept(d: string): string {
  return chain(`accept6_${d}`, [`${hold(d, SOURCE)} accept`]);
}

/** The source address: its own, one without an owner, or a drop. */
function source(d: string, drop: Drop): string {
  return chain(`source6_${d}`, [
    `iifname . ${SOURCE} @own6_${d} goto accept6_${d}`,
    `ip6 saddr ${anyOf(FORBIDDEN_SOURCES6)} ${drop('ip_spoof')}`,
    `${SOURCE} @held6_${d} ${drop('ip_spoof')}`,
    `iifname . ${SOURCE_INTERFACE} @eui64 goto accept6_${d}`,
    `${SOURCE_INTERFACE} @eui64_any ${drop('ip_spoof')}`,
    limitClaims(drop),
    `goto accept6_${d}`,
  ]);
}

/** The target of an advertisement, likewise. The source is still to be checked. */
function target(d: string, drop: Drop): string {
  return chain(`target6_${d}`, [
    `iifname . ${TARGET} @own6_${d} ${hold(d, TARGET)} return`,
    `@th,64,8 0xff ${drop('nd_spoof')}`,
    `${TARGET} @held6_${d} ${drop('nd_spoof')}`,
    `iifname . ${TARGET_INTERFACE} @eui64 ${hold(d, TARGET)} return`,
    `${TARGET_INTERFACE} @eui64_any ${drop('nd_spoof')}`,
    limitClaims(drop),
    hold(d, TARGET),
  ]);
}

/** A message of a host, with options that fit and name its own MAC address. */
function neighbourDiscovery(d: string, drop: Drop): string {
  return chain(`nd6_${d}`, [
    `meta mark ${FORGED_MARK} ${drop('nd_spoof')}`,
    `meta protocol ip6 exthdr frag exists ${drop('nd_spoof')}`,
    `meta mark ${MALFORMED_MARK} ${drop('malformed')}`,
    `meta protocol ip6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } @nh,32,16 >= 32 @th,200,8 0 ${drop('malformed')}`,
    `meta protocol ip6 icmpv6 type nd-router-solicit @nh,32,16 >= 16 @th,72,8 0 ${drop('malformed')}`,
    'ip6 saddr :: icmpv6 type { nd-router-solicit, nd-neighbor-solicit } accept comment "duplicate address detection"',
    `iifname . ${SOURCE} != @own6_${d} ${SOURCE} @held6_${d} ${drop('nd_spoof')}`,
    `iifname . ${SOURCE_INTERFACE} != @eui64 ${SOURCE_INTERFACE} @eui64_any ${drop('nd_spoof')}`,
    `meta protocol ip6 icmpv6 type nd-neighbor-advert jump target6_${d}`,
    `goto source6_${d}`,
  ]);
}

/** No guest is a router. The last rules decide about fragments, of which only the first shows its ICMPv6 type. */
function icmp(d: string, drop: Drop): string {
  return chain(`icmp6_${d}`, [
    `meta protocol ip6 icmpv6 type { nd-router-advert, nd-redirect } ${drop('rogue_ra')}`,
    `meta protocol ip6 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } goto nd6_${d}`,
    'ip6 saddr :: icmpv6 type { mld-listener-report, mld-listener-done, mld2-listener-report } accept',
    `meta protocol ip6 icmpv6 type != nd-router-advert goto source6_${d}`,
    `meta protocol ip6 frag frag-off != 0 goto source6_${d} comment "the first fragment decides"`,
    drop('malformed'),
  ]);
}

/** No guest is a DHCPv6 server. */
function udp(d: string, drop: Drop): string {
  return chain(`udp6_${d}`, [
    `udp dport != ${DHCP6_CLIENT_PORT} goto source6_${d}`,
    `udp sport != ${DHCP6_SERVER_PORT} goto source6_${d}`,
    `udp dport ${DHCP6_CLIENT_PORT} ${drop('rogue_dhcp')}`,
    `meta protocol ip6 frag frag-off != 0 goto source6_${d}`,
    drop('malformed'),
  ]);
}

/** A packet whose protocol cannot be determined matches none of the first three rules. */
function entry(d: string, drop: Drop): string {
  return chain(`ip6_${d}`, [
    `meta l4proto ipv6-icmp goto icmp6_${d}`,
    `meta l4proto udp goto udp6_${d}`,
    `meta l4proto != udp goto source6_${d}`,
    drop('malformed'),
  ]);
}
