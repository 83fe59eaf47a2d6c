/**
 * Table `bridge anka`: the guard (B91). A NIC may send only with its own MAC address and its own IP addresses.
 *
 * Theory of operation: what differs between NICs is in sets and maps, so the chains are the same for one VM and for two
 * hundred. On the networks with a gateway, a guest may claim an address without an owner by ARP (B50). Set `heard` has
 * the addresses that were used in ARP, with a timeout, and the engine assigns a claimed one to the NIC when it reads
 * the set. A claim of an address that is virtual at another NIC is dropped and noted in set `contested`. An address
 * that a guest sends from without ever having used it in ARP is noted in set `unheard`: the engine asks the guest for
 * it by ARP, and the answer claims it. Bridged guests use their own MAC address and never the host's IP address, and
 * are neither routers nor DHCP servers (docs/decisions/0009). Their other IPv4 addresses are up to their network and
 * are only recorded. IPv6 addresses belong to the NIC that used them first, on every network (ipv6-guard.ts).
 *
 * Limits: a frame in a VLAN has the tag's EtherType behind the addresses, where nft would look. `meta protocol arp` and
 * `meta protocol ip` match with and without a tag.
 */
import { CLAIMS_MOST, CLAIMS_MS, UNHEARD_MOST, UNHEARD_MS } from '../../../net/gateway/service-rates.ts';
import { networkAddresses } from '../../../net/policy/addresses.ts';
import { METADATA_ADDRESSES, METADATA6 } from '../../../net/policy/metadata.ts';
import { DHCP_SERVER_PORT } from '../../../net/policy/services.ts';
import { formatIpv4, formatMac, formatSubnet, parseMac } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import type { DesiredNetwork, DesiredState } from '../../engine.ts';
import { BRIDGE_PORT_PREFIX, bridgeMac, tapName } from '../names.ts';
import { drop as dropBy, dropSet, GUARD_REASONS } from './drop-reasons.ts';
import { ipv6Chains, ipv6Sets } from './ipv6-guard.ts';
import { anyOf, baseChain, chain, dynamicSet, elements, expiringSet, fixedSet, quoted, rateOver, table } from './nft-text.ts';
import { domainOf, type RuledNic, type Segments } from './rule-input.ts';

/** Sets of the addresses of bridged guests: claimed by ARP, leased by DHCP. */
export const ADDRESS_SETS = ['bridged_claims', 'bridged_leases'] as const;
const [CLAIMS, LEASES] = ADDRESS_SETS;
/** Addresses that a NIC used in ARP: its own, and those that it claims. */
export const HEARD = 'heard';
/** Claims of addresses that are virtual at another NIC. */
export const CONTESTED = 'contested';
/** Sources of IPv4 packets that a NIC has not used in ARP, and that nobody owns. */
export const UNHEARD = 'unheard';
export const HEARD_SECONDS = 600;
/** A claim that is not repeated counts for so long. */
const CONTESTED_TIMEOUT = '3s';
/** Two polls of the engine. */
const UNHEARD_TIMEOUT = '2s';
/** How long after it was used the address of a bridged guest is kept. */
export const ADDRESS_SECONDS = 3600;
const ADDRESS_TIMEOUT = `${ADDRESS_SECONDS}s`;
/** New addresses that are recorded for one bridged NIC at once, and in an hour. */
const RECORDED = 32;
/** Elements of the sets that ARP and DHCP fill. */
const ADDRESS_SET_SIZE = 4096;

const drop = (reason: (typeof GUARD_REASONS)[number]): string => dropBy(reason, 'iifname');
const tapOf = ({ nic }: RuledNic): string => quoted(tapName(nic.id));

/** NICs with a network, by kind of network. */
interface Attached {
  all: RuledNic[];
  bridged: RuledNic[];
  /** Of type shared or host. */
  served: RuledNic[];
}

/** `assignedElsewhere`: addresses assigned to VMs that are not attached. */
export function bridgeTable(desired: DesiredState, nics: readonly RuledNic[], segments: Segments, assignedElsewhere: readonly number[]): string {
  const { networks, metadata = false } = desired;
  const all = nics.filter(({ nic }) => nic.type !== 'disconnected');
  const attached: Attached = {
    all,
    bridged: all.filter(({ nic }) => nic.type === 'bridge'),
    served: all.filter(({ nic }) => nic.type !== 'bridge'),
  };
  const bridgedDomains = [...new Set(attached.bridged.map(({ nic }) => domainOf(nic)))];
  const domains = [...networks.map((n) => n.name as string), ...bridgedDomains];
  return table('bridge', [
    ...GUARD_REASONS.map((r) => dropSet(r, 'iifname')),
    ...identitySets(networks, attached, assignedElsewhere),
    ...isolationSets(attached),
    ...addressSets(),
    ipv6Sets(
      domains,
      all.map(({ nic }) => ({ tap: tapName(nic.id), nic })),
      networks.map((n) => parseMac(bridgeMac(n.name)) as number),
    ),
    ...segmentSets(attached, segments),
    ip4Source(),
    unheard(),
    clientsOnly(),
    ipOptions(),
    bridged(metadata),
    ...bridgedDomains.map(bridgedDomain),
    ...domains.map((d) => ipv6Chains(d, drop)),
    ...networks.flatMap((n) => [onNetwork(n), arp(n)]),
    nicMap(attached),
    guard(),
    forward(attached),
    input(),
    output(),
    isolatedFromHost(),
  ]);
}

/** Which MAC and IPv4 addresses belong to which NIC. */
function identitySets(networks: readonly DesiredNetwork[], { all, served }: Attached, assignedElsewhere: readonly number[]): string[] {
  const macs = all.map((n) => `${tapOf(n)} . ${formatMac(n.nic.outsideMac)}`);
  const addresses = served.flatMap((n) => n.addresses.map((a) => `${tapOf(n)} . ${formatIpv4(a)}`));
  const owned = new Set(served.flatMap((n) => n.addresses.map(formatIpv4)));
  for (const a of assignedElsewhere) owned.add(formatIpv4(a));
  for (const { subnet } of networks) for (const a of networkAddresses(subnet)) owned.add(formatIpv4(a));
  const known = served.flatMap((n) => n.addresses.map((a) => `${tapOf(n)} . ${formatMac(n.nic.outsideMac)} . ${formatIpv4(a)}`));
  return [
    fixedSet('mac', 'ifname . ether_addr', macs),
    fixedSet('address', 'ifname . ipv4_addr', addresses),
    fixedSet('known', 'ifname . ether_addr . ipv4_addr', known),
    fixedSet('owned', 'ipv4_addr', [...owned]),
    fixedSet(
      'virtual',
      'ipv4_addr',
      served.flatMap((n) => n.virtual.map(formatIpv4)),
    ),
  ];
}

/** Isolated NICs (`--no-local`). A bridged one may still reach its network's gateway, which is no NIC of ours. */
function isolationSets({ all, bridged, served }: Attached): string[] {
  return [
    fixedSet('isolated', 'ifname', served.filter(({ nic }) => nic.isolated).map(tapOf)),
    fixedSet('isolated_bridged', 'ifname', bridged.filter(({ nic }) => nic.isolated).map(tapOf)),
    fixedSet('nics', 'ifname', all.map(tapOf)),
  ];
}

/** What guests claim, and what DHCP servers lease to bridged guests: there by the raw bytes of chaddr and yiaddr. */
function addressSets(): string[] {
  return [
    dynamicSet('claim_rate', 'ifname', ADDRESS_SET_SIZE),
    dynamicSet('unheard_rate', 'ifname', ADDRESS_SET_SIZE),
    expiringSet(UNHEARD, 'type ifname . ipv4_addr', { size: ADDRESS_SET_SIZE, timeout: UNHEARD_TIMEOUT }),
    expiringSet(HEARD, 'type ifname . ipv4_addr', { size: ADDRESS_SET_SIZE, timeout: `${HEARD_SECONDS}s` }),
    expiringSet(CONTESTED, 'type ifname . ipv4_addr', { size: ADDRESS_SET_SIZE, timeout: CONTESTED_TIMEOUT }),
    expiringSet(CLAIMS, 'type ether_addr . ipv4_addr', { size: ADDRESS_SET_SIZE, timeout: ADDRESS_TIMEOUT }),
    expiringSet(LEASES, 'typeof @th,288,48 . @th,192,32', { size: ADDRESS_SET_SIZE, timeout: ADDRESS_TIMEOUT }),
  ];
}

function segmentSets({ bridged: nics }: Attached, segments: Segments): string[] {
  return [
    fixedSet('in_segment', 'ifname', nics.filter(({ nic }) => segments.nics.has(nic.id)).map(tapOf)),
    fixedSet('host_addresses', 'ipv4_addr', segments.hostAddresses),
  ];
}

/** IPv4 on a network with a gateway: only from the NIC's own address, or one that it has claimed. */
function ip4Source(): string {
  return chain('ip4_source', [
    `ip saddr 0.0.0.0 udp sport ${DHCP_CLIENT_PORT} udp dport ${DHCP_SERVER_PORT} accept`,
    'jump clients_only',
    'iifname . ip saddr @address accept',
    `ip saddr @owned ${drop('ip_spoof')}`,
    `iifname . ip saddr != @${HEARD} jump unheard`,
    `iifname @isolated ${drop('isolated')}`,
    `iifname . ip saddr @${HEARD} accept`,
    drop('ip_spoof'),
  ]);
}

/** Notes an address for the engine, at a limited rate. */
function unheard(): string {
  return chain('unheard', [
    `update @unheard_rate { iifname ${rateOver(UNHEARD_MOST, UNHEARD_MS)} } return`,
    `update @${UNHEARD} { iifname . ip saddr timeout ${UNHEARD_TIMEOUT} } comment "full or not, the packet is dropped"`,
  ]);
}

/** No guest is a router or a DHCP server. */
function clientsOnly(): string {
  return chain('clients_only', [
    '@nh,0,8 & 0x0f != 5 jump ip_options',
    `meta protocol ip icmp type { redirect, router-advertisement } ${drop('rogue_ra')}`,
    `udp sport ${DHCP_SERVER_PORT} udp dport ${DHCP_CLIENT_PORT} ${drop('rogue_dhcp')}`,
  ]);
}

/** Source routes would bypass the rules of other networks. */
function ipOptions(): string {
  return chain('ip_options', [
    `meta protocol ip ip option lsrr exists ${drop('source_route')}`,
    `meta protocol ip ip option ssrr exists ${drop('source_route')}`,
  ]);
}

/** What applies to every bridged NIC. A cloud may take it for the host. */
function bridged(metadata: boolean): string {
  return chain('bridged', [
    `iifname . ether saddr != @mac ${drop('mac_spoof')}`,
    `meta protocol arp iifname . arp saddr ether != @mac ${drop('arp_spoof')}`,
    `meta protocol arp arp saddr ip @host_addresses ${drop('arp_spoof')}`,
    `ip saddr @host_addresses ${drop('ip_spoof')}`,
    ...(metadata ? [] : [`ip daddr ${anyOf(METADATA_ADDRESSES)} ${drop('metadata')}`, `ip6 daddr ${anyOf(METADATA6)} ${drop('metadata')}`]),
    'meta protocol arp arp saddr ip 0.0.0.0 return',
    `meta protocol arp ether saddr . arp saddr ip != @${CLAIMS} update @claim_rate { iifname limit rate over ${RECORDED}/hour burst ${RECORDED} packets } return comment "beyond the limit: passed, not recorded"`,
    `meta protocol arp update @${CLAIMS} { ether saddr . arp saddr ip timeout ${ADDRESS_TIMEOUT} }`,
    'meta protocol ip jump clients_only',
  ]);
}

/** One VLAN of one bridge: IPv6 addresses are unique there. */
function bridgedDomain(domain: string): string {
  return chain(`bridged_${domain}`, ['jump bridged', `meta protocol ip6 goto ip6_${domain}`, 'accept']);
}

/** What applies to every NIC of a network with a gateway: ARP, IPv4 and IPv6, and nothing else. */
function onNetwork({ name }: DesiredNetwork): string {
  return chain(`on_${name}`, [
    `iifname . ether saddr != @mac ${drop('mac_spoof')}`,
    `ether type arp jump arp_${name}`,
    'ether type ip jump ip4_source',
    `ether type ip6 goto ip6_${name}`,
    drop('ethertype'),
  ]);
}

/** ARP from the NIC's own address. Another one without an owner may be claimed, at a limited rate. */
function arp({ name, subnet }: DesiredNetwork): string {
  const limited = `update @claim_rate { iifname ${rateOver(CLAIMS_MOST, CLAIMS_MS)} } ${drop('address_limit')}`;
  return chain(`arp_${name}`, [
    `iifname . arp saddr ether != @mac ${drop('arp_spoof')}`,
    'arp saddr ip 0.0.0.0 accept',
    `iifname . arp saddr ip @address update @${HEARD} { iifname . arp saddr ip timeout ${HEARD_SECONDS}s } comment "full or not, it passes"`,
    'iifname . arp saddr ip @address accept',
    `arp saddr ip @virtual ${limited}`,
    `arp saddr ip @virtual update @${CONTESTED} { iifname . arp saddr ip timeout ${CONTESTED_TIMEOUT} }`,
    `arp saddr ip @owned ${drop('arp_spoof')}`,
    `arp saddr ip != ${formatSubnet(subnet)} ${drop('arp_spoof')}`,
    `iifname . arp saddr ip != @${HEARD} ${limited}`,
    `update @${HEARD} { iifname . arp saddr ip timeout ${HEARD_SECONDS}s } accept`,
    drop('arp_spoof'),
  ]);
}

/** The chain of each NIC. */
function nicMap({ all }: Attached): string {
  const verdicts = all.map((n) => `${tapOf(n)} : jump ${n.nic.type === 'bridge' ? `bridged_${domainOf(n.nic)}` : `on_${n.nic.type}`}`);
  return `  map nic { type ifname : verdict;${elements(verdicts)}; }`;
}

function guard(): string {
  return chain('guard', [
    baseChain('filter', 'prerouting', -300),
    'ip protocol tcp @nh,0,8 0x45 iifname . ether saddr . ip saddr @known accept comment "fast path: TCP without IP options"',
    'iifname vmap @nic',
  ]);
}

/** Between ports of a bridge: isolated NICs reach no other, and leases of bridged guests are recorded. */
function forward({ bridged: nics }: Attached): string {
  return chain('forward', [
    baseChain('filter', 'forward', -200),
    `iifname @isolated ${drop('isolated')}`,
    `oifname @isolated ${drop('isolated')}`,
    `iifname @isolated_bridged oifname @nics ${drop('isolated')}`,
    `oifname @isolated_bridged iifname @nics ${drop('isolated')}`,
    ...(nics.length > 0 ? [`udp sport ${DHCP_SERVER_PORT} udp dport ${DHCP_CLIENT_PORT} @th,192,32 != 0 update @${LEASES} { @th,288,48 . @th,192,32 }`] : []),
  ]);
}

/** From a guest to the host's stack. A segment's bridge is not attached to it at all. */
function input(): string {
  return chain('input', [
    baseChain('filter', 'input', -200),
    `iifname ${quoted(`${BRIDGE_PORT_PREFIX}*`)} drop comment "a segment is no network of the host"`,
    'iifname @in_segment drop',
    `iifname @isolated ether type ip6 ${drop('isolated')}`,
    'iifname @isolated_bridged jump isolated_from_host',
  ]);
}

/** From the host's stack to a guest. IPv4 of isolated NICs is filtered in table ip. */
function output(): string {
  return chain('output', [
    baseChain('filter', 'output', -200),
    'oifname @isolated ether type ip6 counter drop',
    'oifname @isolated_bridged jump isolated_from_host',
  ]);
}

function isolatedFromHost(): string {
  return chain('isolated_from_host', [
    'ether type arp accept',
    `ip protocol udp udp dport ${anyOf([DHCP_SERVER_PORT, DHCP_CLIENT_PORT])} accept comment "the host may be the DHCP server of that network"`,
    'counter drop',
  ]);
}
