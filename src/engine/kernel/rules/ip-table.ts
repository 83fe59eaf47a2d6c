/**
 * Table `ip anka`: NAT of the shared network, forwarding rules (DNAT), isolation of the host network from outside, and
 * the redirection of DHCP and DNS to the service's ports.
 *
 * Theory of operation: what differs between NICs is in sets and maps, so the chains are the same for one VM and for two
 * hundred. Forwarding is decided on the bridge's interface, before other programs' rules (priority filter - 5).
 */
import { DHCP_MOST, DHCP_MS, NAMES_MOST, NAMES_MS } from '../../../net/gateway/service-rates.ts';
import { LIMITED_BROADCAST, LOOPBACK } from '../../../net/policy/addresses.ts';
import { hasForwarding, isForAnyAddress } from '../../../net/policy/forwarding.ts';
import { openToHost } from '../../../net/policy/isolation.ts';
import { LINK_LOCAL, METADATA_ADDRESSES } from '../../../net/policy/metadata.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import { broadcastOf, formatIpv4, formatSubnet, gatewayOf } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import type { DesiredNetwork, DesiredRule } from '../../engine.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT, SEGMENT_PREFIX } from '../names.ts';
import { drop, dropSet, reject } from './drop-reasons.ts';
import { anyOf, baseChain, chain, dynamicSet, elements, fixedSet, quoted, rateOver, table } from './nft-text.ts';
import type { RuledNic } from './rule-input.ts';

/** What the chains depend on. */
interface Networks {
  all: readonly DesiredNetwork[];
  shared: DesiredNetwork | undefined;
  /** The bridges of all networks, as an anonymous set. */
  bridges: string;
  /** Guests of shared may reach the metadata service of the host's cloud. */
  metadata: boolean;
}

const PROHIBITED = drop('prohibited', 'ether saddr');
const ISOLATED = drop('isolated', 'ether saddr');
const METADATA = drop('metadata', 'ether saddr');
const RATE_LIMIT = drop('rate_limit', 'ether saddr');
const NO_CONNECTION = drop('no_connection', 'ether saddr');
const RESET = reject('no_connection', 'ether saddr', 'tcp reset');
const FILTER = 'filter - 5';
const SHARED = quoted(BRIDGES.shared);
const HOST = quoted(BRIDGES.host);

export function ipTable(networks: readonly DesiredNetwork[], nics: readonly RuledNic[], metadata: boolean): string {
  if (networks.length === 0) return 'table ip anka {\n}';
  const n: Networks = {
    all: networks,
    shared: networks.find((x) => x.name === 'shared'),
    bridges: anyOf(networks.map((x) => quoted(BRIDGES[x.name]))),
    metadata,
  };
  return table('ip', [
    ...counters(),
    ...forwardingSets(nics),
    ...isolationSets(nics),
    `  set subnets { type ipv4_addr; flags interval;${elements(networks.map((x) => formatSubnet(x.subnet)))}; }`,
    ...networks.flatMap((x) => [fromNetwork(x, n), requests(x), dhcpRequests(x)]),
    preroutingRaw(n),
    outputRaw(n),
    forwardingRules(),
    dstnat(n),
    dstnatOut(),
    srcnat(n),
    ruleRemoved(),
    forwarded(),
    forwardedReply(),
    clampMss(n),
    forward(n),
    input(n),
    output(n),
  ]);
}

/** Counters of drops, and rates of requests by MAC address. */
function counters(): string[] {
  return [
    dropSet('prohibited', 'ether saddr'),
    dropSet('isolated', 'ether saddr'),
    dropSet('metadata', 'ether saddr'),
    fixedSet('metadata', 'ipv4_addr', METADATA_ADDRESSES),
    dropSet('rate_limit', 'ether saddr'),
    dropSet('no_connection', 'ether saddr'),
    dynamicSet('dns_rate', 'ether_addr'),
    dynamicSet('dhcp_rate', 'ether_addr'),
  ];
}

/**
 * A rule needs a gateway (B66), that is type shared or host, and a guest with an address. Clients by IPv6 are carried
 * by the service's listeners, as there is no NAT from IPv6 to IPv4.
 */
function activeRules(nics: readonly RuledNic[]): { rule: DesiredRule & { hostIp: number }; ip: number; live: readonly number[] }[] {
  const isIpv4 = (rule: DesiredRule): rule is DesiredRule & { hostIp: number } => typeof rule.hostIp === 'number';
  return nics.flatMap(({ nic, ip, live }) => (ip !== null && hasForwarding(nic.type) ? nic.rules.filter(isIpv4).map((rule) => ({ rule, ip, live })) : []));
}

/** Forwarding rules for every address of the host, those for one address, and the targets of both. */
function forwardingSets(nics: readonly RuledNic[]): string[] {
  const rules = activeRules(nics);
  const any = rules.filter((r) => isForAnyAddress(r.rule)).map(({ rule, ip }) => `${rule.protocol} . ${rule.hostPort} : ${formatIpv4(ip)} . ${rule.guestPort}`);
  const one = rules
    .filter((r) => !isForAnyAddress(r.rule))
    .map(({ rule, ip }) => `${formatIpv4(rule.hostIp)} . ${rule.protocol} . ${rule.hostPort} : ${formatIpv4(ip)} . ${rule.guestPort}`);
  // connections that began when another address of the guest was the main one go on
  const live = new Set(
    rules.flatMap(({ rule, ip, live }) => [ip, ...live].map((a) => `${rule.protocol} . ${rule.hostPort} . ${formatIpv4(a)} . ${rule.guestPort}`)),
  );
  return [
    `  map forward_any { type inet_proto . inet_service : ipv4_addr . inet_service;${elements(any)}; }`,
    `  map forward_one { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;${elements(one)}; }`,
    fixedSet('forward_live', 'inet_proto . inet_service . ipv4_addr . inet_service', [...live]),
  ];
}

/** Addresses of isolated NICs, and the ports of them that are open to the host. */
function isolationSets(nics: readonly RuledNic[]): string[] {
  const isolated = nics.filter(({ nic }) => nic.isolated);
  const addresses = isolated.flatMap((n) => n.addresses);
  const ports = new Set(
    isolated.flatMap(({ nic, ip }) => (ip === null ? [] : openToHost(nic.rules).map((r) => `${formatIpv4(ip)} . ${r.protocol} . ${r.guestPort}`))),
  );
  return [fixedSet('isolated', 'ipv4_addr', addresses.map(formatIpv4)), fixedSet('isolated_ports', 'ipv4_addr . inet_proto . inet_service', [...ports])];
}

/** What no guest of a network may send, whatever it is. */
function fromNetwork(network: DesiredNetwork, { shared, metadata }: Networks): string {
  const toShared = network.name === 'host' && shared;
  return chain(`from_${network.name}`, [
    `ip daddr ${formatSubnet(LOOPBACK)} ${PROHIBITED} comment "loopback of the host"`,
    `ip saddr ${formatSubnet(LOOPBACK)} ${PROHIBITED}`,
    `ip daddr @metadata ${metadata ? 'accept' : METADATA}`,
    `ip daddr ${formatSubnet(LINK_LOCAL)} fib daddr type != local ${PROHIBITED} comment "RFC 3927: not forwarded"`,
    ...(toShared ? [`ip daddr ${formatSubnet(shared.subnet)} ${PROHIBITED} comment "including the shared gateway"`] : []),
    `meta l4proto udp jump requests_${network.name}`,
  ]);
}

/**
 * Limits requests to DNS and DHCP. DHCP is what is sent to the gateway or to everybody: other servers keep their port.
 */
function requests({ name, subnet }: DesiredNetwork): string {
  const destination = name === 'host' ? '' : ` ip daddr ${formatIpv4(gatewayOf(subnet))}`;
  const dhcpServer = anyOf([gatewayOf(subnet), broadcastOf(subnet), LIMITED_BROADCAST].map(formatIpv4));
  return chain(`requests_${name}`, [
    `udp dport ${DNS_SERVICE_PORT}${destination} update @dns_rate { ether saddr ${rateOver(NAMES_MOST, NAMES_MS)} } ${RATE_LIMIT}`,
    `udp dport ${DHCP_SERVER_PORT} ip daddr ${dhcpServer} goto dhcp_${name}`,
  ]);
}

/**
 * Redirects DHCP to the port of the network's server. nft updates the checksum of what it changes, also where 0 says
 * that there is none (RFC 768).
 */
function dhcpRequests({ name }: DesiredNetwork): string {
  const redirect = `udp dport set ${DHCP_PORTS[name]}`;
  return chain(`dhcp_${name}`, [
    `update @dhcp_rate { ether saddr ${rateOver(DHCP_MOST, DHCP_MS)} } ${RATE_LIMIT}`,
    `udp checksum 0 ${redirect} udp checksum set 0 return`,
    redirect,
  ]);
}

/** Before connection tracking: what guests send is checked, and nobody outside may address a guest directly. */
function preroutingRaw({ all }: Networks): string {
  const bridges = all.map((n) => `${quoted(BRIDGES[n.name])} : goto from_${n.name}`);
  return chain('prerouting_raw', [
    baseChain('filter', 'prerouting', 'raw'),
    `iifname ${quoted(`${SEGMENT_PREFIX}*`)} notrack accept comment "with br_netfilter: bridged frames are not translated"`,
    `iifname vmap { ${bridges.join(', ')}, "lo" : accept }`,
    'ip daddr @subnets counter drop comment "from outside only through a forwarding rule"',
    `ip daddr ${formatIpv4(LIMITED_BROADCAST)} udp dport ${anyOf(all.map((n) => DHCP_PORTS[n.name]))} counter drop comment "the ports of our DHCP servers"`,
  ]);
}

/** Answers of the DHCP servers leave from the port that clients expect. */
function outputRaw({ all }: Networks): string {
  return chain('output_raw', [
    baseChain('filter', 'output', 'raw'),
    `udp sport ${anyOf(all.map((n) => DHCP_PORTS[n.name]))} udp dport ${DHCP_CLIENT_PORT} udp sport set ${DHCP_SERVER_PORT}`,
  ]);
}

/** A rule for one address of the host wins over one for all. */
function forwardingRules(): string {
  return chain('forwarding_rules', ['dnat ip to ip daddr . meta l4proto . th dport map @forward_one', 'dnat ip to meta l4proto . th dport map @forward_any']);
}

/**
 * DNS to the gateway goes to the service. On the host network, so does DNS to every other address of the host: its own
 * resolver would answer names from outside.
 */
function dstnat({ all, bridges }: Networks): string {
  const dns = all.map((n) => {
    const destination = n.name === 'host' ? 'fib daddr type local' : `ip daddr ${formatIpv4(gatewayOf(n.subnet))}`;
    return `iifname ${quoted(BRIDGES[n.name])} ${destination} meta l4proto { tcp, udp } th dport ${DNS_SERVICE_PORT} redirect to :${DNS_PORT}`;
  });
  return chain('dstnat', [
    baseChain('nat', 'prerouting', 'dstnat'),
    ...dns,
    `iifname != ${bridges} meta l4proto { tcp, udp } fib daddr type local jump forwarding_rules`,
  ]);
}

/** Connections from the host itself. Those to its loopback are carried by the service's listeners (B63). */
function dstnatOut(): string {
  return chain('dstnat_out', [
    baseChain('nat', 'output', -100),
    'ip daddr != 127.0.0.0/8 meta l4proto { tcp, udp } fib daddr type local jump forwarding_rules',
  ]);
}

function srcnat({ shared, bridges }: Networks): string {
  return chain('srcnat', [
    baseChain('nat', 'postrouting', 'srcnat'),
    ...(shared ? [`ip saddr ${formatSubnet(shared.subnet)} oifname != ${bridges} masquerade`] : []),
  ]);
}

/** A translated connection whose forwarding rule no longer exists. */
function ruleRemoved(): string {
  return chain('rule_removed', ['meta l4proto tcp counter reject with tcp reset', 'counter drop']);
}

/** From the client to the guest: only while the forwarding rule exists. */
function forwarded(): string {
  return chain('forwarded', [
    'ct state related accept comment "ICMP errors, for path MTU discovery"',
    'meta l4proto { tcp, udp } meta l4proto . ct original proto-dst . ip daddr . th dport @forward_live accept',
    'goto rule_removed',
  ]);
}

/** From the guest to the client: likewise. */
function forwardedReply(): string {
  return chain('forwarded_reply', [
    'ct state related accept',
    'meta l4proto { tcp, udp } meta l4proto . ct original proto-dst . ip saddr . th sport @forward_live accept',
    'goto rule_removed',
  ]);
}

/**
 * What is routed between a network and another interface. The order decides. Rules that every packet passes cost new
 * connections the most, so they begin with what applies to the fewest packets.
 */
function forward(n: Networks): string {
  return chain('forward', [
    baseChain('filter', 'forward', FILTER),
    'tcp flags & (syn | rst) == syn jump clamp_mss',
    ...checkForwarded(n),
    ...sharedFastPath(n),
    ...expired(n),
    ...isolateRouted(n),
    ...sharedOutbound(n),
    ...betweenGuests(n),
    ...hostNetwork(n),
    ...sharedNetwork(n),
  ]);
}

/** No TCP segment exceeds the path MTU, whatever ICMP errors get lost. */
function clampMss({ bridges }: Networks): string {
  const clamp = 'tcp option maxseg size set rt mtu';
  return chain('clamp_mss', [`iifname ${bridges} oifname != ${bridges} ${clamp}`, `iifname != ${bridges} oifname ${bridges} ${clamp}`]);
}

function checkForwarded({ bridges }: Networks): string[] {
  return [
    `ct status dnat ct direction original oifname ${bridges} goto forwarded`,
    `ct status dnat ct direction reply iifname ${bridges} goto forwarded_reply`,
  ];
}

/**
 * What connection tracking does not know, of guests: a segment of a connection that has expired opens no new one, and
 * nothing leaves untranslated.
 */
function expired({ bridges }: Networks): string[] {
  return [
    `ct state new tcp flags & (fin | syn | rst | ack) != syn iifname ${bridges} oifname != ${bridges} ${RESET}`,
    `ct state invalid iifname ${bridges} oifname != ${bridges} ${NO_CONNECTION}`,
  ];
}

/** Isolated NICs reach no other NIC through the gateway. */
function isolateRouted({ bridges }: Networks): string[] {
  return [
    `iifname ${bridges} oifname ${bridges} ip saddr @isolated ${ISOLATED} comment "--no-local, routed"`,
    `iifname ${bridges} oifname ${bridges} ip daddr @isolated ${ISOLATED}`,
  ];
}

/** Most packets match here. Isolation is between our networks, and what has expired is in neither state. */
function sharedFastPath({ shared, bridges }: Networks): string[] {
  if (!shared) return [];
  return [
    `ct state established,related iifname ${SHARED} oifname != ${bridges} ip saddr ${formatSubnet(shared.subnet)} accept`,
    `ct state established,related oifname ${SHARED} iifname != ${bridges} accept`,
  ];
}

function sharedOutbound({ shared, bridges }: Networks): string[] {
  return shared ? [`iifname ${SHARED} oifname != ${bridges} ip saddr ${formatSubnet(shared.subnet)} accept`] : [];
}

/** Frames between ports of one bridge. */
export function betweenGuests({ all }: Pick<Networks, 'all'>): string[] {
  return all.map((n) => `iifname ${quoted(BRIDGES[n.name])} oifname ${quoted(BRIDGES[n.name])} accept comment "between VMs; only seen here with br_netfilter"`);
}

/** The host network reaches nothing outside of the host, and is reached only through forwarding rules. */
function hostNetwork({ bridges }: Networks): string[] {
  return [
    `iifname ${HOST} ct direction reply ct status dnat accept`,
    `iifname ${HOST} ${PROHIBITED} comment "host network: nothing leaves the host"`,
    `oifname ${HOST} ct status dnat accept`,
    `iifname ${bridges} oifname ${HOST} ${PROHIBITED}`,
    `oifname ${HOST} counter drop`,
  ];
}

/** Outbound from its own addresses only. Inbound: replies and forwarding rules. */
function sharedNetwork({ shared }: Networks): string[] {
  return [
    ...(shared ? [`iifname ${SHARED} ip saddr != ${formatSubnet(shared.subnet)} ${PROHIBITED}`] : []),
    `iifname ${SHARED} accept`,
    `oifname ${SHARED} ct state established,related accept`,
    `oifname ${SHARED} ct status dnat accept`,
    `oifname ${SHARED} counter drop`,
  ];
}

/** From an isolated NIC to the host: replies, DHCP and DNS. */
function input({ all, bridges }: Networks): string {
  const services = [...all.map((n) => DHCP_PORTS[n.name]), DNS_PORT];
  return chain('input', [
    baseChain('filter', 'input', FILTER),
    `iifname ${bridges} ip saddr @isolated ct state established,related accept`,
    `iifname ${bridges} ip saddr @isolated udp dport ${anyOf(services)} accept`,
    `iifname ${bridges} ip saddr @isolated tcp dport ${DNS_PORT} accept`,
    `iifname ${bridges} ip saddr @isolated ${ISOLATED} comment "--no-local"`,
  ]);
}

/** From the host to an isolated NIC: replies, DHCP, its login, and the ports of its forwarding rules. */
function output({ bridges }: Networks): string {
  return chain('output', [
    baseChain('filter', 'output', FILTER),
    `oifname ${bridges} ip daddr @isolated ct state established,related accept`,
    `oifname ${bridges} ip daddr @isolated udp dport ${DHCP_CLIENT_PORT} accept`,
    `oifname ${bridges} ip daddr @isolated ip daddr . meta l4proto . th dport @isolated_ports accept`,
    `oifname ${bridges} ip daddr @isolated counter drop comment "--no-local"`,
  ]);
}
