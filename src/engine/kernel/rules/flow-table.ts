/**
 * Table `inet anka_flows`: how long connections of guests live, and how many a guest may have.
 *
 * Theory of operation: each new connection of a guest, and each one to a guest, gets a timeout object when its first
 * packet is about to pass. The object belongs to the connection for its whole life, but only as long as the table
 * exists: a connection whose object was deleted falls back to the host's own times. Likewise, the kernel counts
 * connections in the elements of a set. So this table is not replaced when rules change: `renderFlowTable` writes all
 * its rules again, and leaves objects and sets as they are.
 *
 * A guest that is at its limit gets an ICMP error for each further connection (RFC 5508 REQ-8). To count connections,
 * the kernel walks a list of them for each new one: with 10,000 on one list, that took milliseconds. So a guest's
 * connections are spread over groups by a hash, and each group has a list and a limit of its own. A guest has at least
 * 16,384 connections before it is likely to find a group full, and never more than all groups hold. Each attempt goes
 * onto the list, even beyond the limit, until it is walked again; so whoever found one full opens no connection for
 * 100 ms.
 *
 * Limits: an object's times and a set's definition are never changed in place; a version of anka that needs others
 * gives them new names. nft has no timeouts for ICMP. What does not need the first packet costs one rule:
 * `ct status confirmed`.
 */
import { CONNECTION_GROUPS, MAX_IN_GROUP, NAMES_SECONDS, TCP_SECONDS, UDP_SECONDS } from '../../../net/policy/connections.ts';
import { DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT, FLOW_TABLE } from '../names.ts';
import { dropSet, reject } from './drop-reasons.ts';
import { anyOf, baseChain, chain, dynamicSet, expiringSet, quoted, table } from './nft-text.ts';

/** What the host's kernel and its nft support of this table. */
export interface FlowFeatures {
  /** Timeouts for each connection. */
  timeouts: boolean;
  /** Counting of connections. */
  count: boolean;
}

/** Texts that nft accepts where the feature is supported. */
export const PROBES: Record<keyof FlowFeatures, string> = {
  timeouts: table('inet', [timeoutObject('t', 'tcp', 'established : 1'), chain('c', ['ct timeout set "t"'])], 'anka_probe'),
  count: table('inet', [dynamicSet('s', 'mark'), chain('c', ['add @s { jhash ip daddr mod 2 ct count over 1 } drop'])], 'anka_probe'),
};

const [FAMILY, NAME] = FLOW_TABLE;
/** A group of a guest's connections, for IPv4 and IPv6: nft has no type for a number but that of marks. */
const GROUP = ['ip', 'ip6'].map((family) => `ether saddr . jhash ${family} daddr . th dport . th sport mod ${CONNECTION_GROUPS}`);
const GROUP_TYPE = 'ether_addr . mark';
/** Groups of all guests together. */
const GROUPS = 262_144;
const GUESTS = anyOf(Object.values(BRIDGES).map(quoted));
/** After the rules of table ip: only what passes them is counted. */
const PRIORITY = 'filter - 4';
const NOT_FIRST = 'ct status confirmed accept';
const NOT_TRACKED = 'ct state invalid,untracked accept';

/** Creates the table, or writes its rules again. */
export function renderFlowTable(features: FlowFeatures): string {
  const sections = [
    ...(features.timeouts ? timeoutObjects() : []),
    ...(features.count ? countingSets() : []),
    timeouts(features),
    ...(features.count ? [refuse(), limit()] : []),
    forward(features),
    input(features),
    postrouting(),
  ];
  return [`table ${FAMILY} ${NAME}`, `flush table ${FAMILY} ${NAME}`, table(FAMILY, sections, NAME)].join('\n');
}

/** Removes it, whether or not it exists. */
export const removeFlowTable = (): string => `table ${FAMILY} ${NAME}\ndelete table ${FAMILY} ${NAME}`;

function timeoutObject(name: string, protocol: string, policy: string): string {
  return `  ct timeout ${name} { protocol ${protocol}; l3proto ip; policy = { ${policy} }; }`;
}

function timeoutObjects(): string[] {
  const tcp = Object.entries(TCP_SECONDS).map(([state, seconds]) => `${state} : ${seconds}`);
  const udp = (seconds: number): string => `unreplied : ${seconds}, replied : ${seconds}`;
  return [
    timeoutObject('of_tcp', 'tcp', tcp.join(', ')),
    timeoutObject('of_udp', 'udp', udp(UDP_SECONDS)),
    timeoutObject('of_names', 'udp', udp(NAMES_SECONDS)),
  ];
}

function countingSets(): string[] {
  return [
    dynamicSet('connections', GROUP_TYPE, GROUPS),
    expiringSet('full', 'type ether_addr', { size: 65_535, timeout: '100ms' }),
    dropSet('connection_limit', 'ether saddr'),
  ];
}

function timeouts(features: FlowFeatures): string {
  if (!features.timeouts) return chain('timeouts', []);
  return chain('timeouts', [
    `udp dport ${DNS_SERVICE_PORT} ct timeout set "of_names" accept`,
    'meta l4proto udp ct timeout set "of_udp"',
    'meta l4proto tcp ct timeout set "of_tcp"',
  ]);
}

function refuse(): string {
  return chain('refuse', [reject('connection_limit', 'ether saddr', 'icmpx type admin-prohibited')]);
}

function limit(): string {
  return chain('at_most', [
    'ether saddr @full jump refuse',
    ...GROUP.map((group) => `add @connections { ${group} ct count over ${MAX_IN_GROUP} } update @full { ether saddr } jump refuse`),
  ]);
}

/** From guests to outside. */
function forward(features: FlowFeatures): string {
  return chain('forward', [
    baseChain('filter', 'forward', PRIORITY),
    NOT_FIRST,
    NOT_TRACKED,
    ...(features.count ? [`iifname ${GUESTS} jump at_most`] : []),
    `iifname ${GUESTS} goto timeouts`,
  ]);
}

/** From guests to the host. Its DHCP and DNS limit the rate of requests. */
function input(features: FlowFeatures): string {
  const services = `udp dport ${anyOf([DNS_PORT, ...Object.values(DHCP_PORTS)])}`;
  return chain('input', [
    baseChain('filter', 'input', PRIORITY),
    NOT_FIRST,
    `iifname != ${GUESTS} accept`,
    NOT_TRACKED,
    `${services} ${features.timeouts ? 'ct timeout set "of_names" ' : ''}accept`,
    `tcp dport ${DNS_PORT} goto timeouts`,
    ...(features.count ? ['jump at_most'] : []),
    'goto timeouts',
  ]);
}

/** From outside and from the host to guests. */
function postrouting(): string {
  return chain('postrouting', [baseChain('filter', 'postrouting', 'mangle'), NOT_FIRST, `oifname != ${GUESTS} accept`, NOT_TRACKED, 'goto timeouts']);
}
