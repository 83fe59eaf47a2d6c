/**
 * Table `bridge anka_filter`: the packet filters of VMs (docs/filters.md). Pure, from filters to text.
 *
 * Theory of operation: two maps lead each frame from and to a tap with a filter to the chains of its card; other cards
 * cost one look-up, and without any filter the table does not exist. Frames from a guest are filtered behind the guard,
 * frames to it where they leave the bridge: behind NAT, so that the filter sees what the guest sees. The rules decide
 * about the first packet of a flow and add it to a set, by_vm or by_peer, by who began it. The rest of the flow, in
 * both directions, and ICMP errors about it are found there. A FIN or RST moves a TCP connection to set closing. Later
 * fragments pass if the first one has. net/filter/packet-filter.ts does the same.
 *
 * Connection tracking of bridges would see every frame of the host's bridges, before DHCP's ports are rewritten and
 * before `notrack`; hence sets of our own. Each is for one card, so that no guest fills another's. They are kept when
 * the rules change (kept-flows.ts). Offsets are in bits from the start of the IPv4 header; packets of flows have no
 * options. nft has no names for the fields that an ICMP error quotes, and its types must be the same in all look-ups.
 *
 * Limits: those of net/filter. A key has four parts, as nft cannot print sets with five raw ones; so the VM's own
 * address is not in it. IPv6 passes as far as neighbour discovery goes.
 */
import { FLOW_SECONDS, MAX_FILTER_FLOWS } from '../../../net/filter/filter-flows.ts';
import { type FilterEnd, type FilterRule, namesPorts, type PortRange } from '../../../net/filter/filter-rule.ts';
import { FRAGMENTS_SECONDS } from '../../../net/filter/passed-fragments.ts';
import { LIMITED_BROADCAST, MULTICAST } from '../../../net/policy/addresses.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import { formatIpv4, formatMac, formatSubnet, type SubnetLike } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import { FILTER_TABLE } from '../names.ts';
import { drop as dropBy, dropSet } from './drop-reasons.ts';
import { anyOf, baseChain, chain, elements, expiringSet, fixedSet, quoted, table } from './nft-text.ts';

/** A card with a filter. */
export interface FilteredTap {
  tap: string;
  rules: readonly FilterRule[];
  /** Of its network; null on type bridge. */
  gateway: number | null;
}

/** What rules for `local` apply to. */
export interface LocalAddresses {
  /** Of the networks. */
  subnets: readonly SubnetLike[];
  /** The host's own. */
  host: readonly string[];
  /** MAC addresses of all cards, by which bridged VMs know each other. */
  macs: readonly number[];
}

type Direction = 'out' | 'in';

/** Flows that the VM began, and those that others began. */
export const FLOW_SETS = { out: 'by_vm_', in: 'by_peer_' } as const;
export const CLOSING = 'closing_';
const FRAGMENTS = 'fragments_';
const FRAGMENTED_MOST = 4096;

const NO_OPTIONS = '@nh,0,8 0x45';
const PROTOCOL = '@nh,72,8';
/** Protocol, peer, the VM's port, the peer's port. */
const FLOW = {
  out: `${PROTOCOL} . @nh,128,32 . @nh,160,16 . @nh,176,16`,
  in: `${PROTOCOL} . @nh,96,32 . @nh,176,16 . @nh,160,16`,
} as const;
/** An echo's identifier stands for both ports. */
const ECHO = { out: `${PROTOCOL} . @nh,128,32 . @nh,192,16 . @nh,192,16`, in: `${PROTOCOL} . @nh,96,32 . @nh,192,16 . @nh,192,16` } as const;
/** The flow of the packet that an ICMP error quotes, which went the other way. */
const QUOTED = {
  out: '@nh,296,8 . @nh,320,32 . @nh,400,16 . @nh,384,16',
  in: '@nh,296,8 . @nh,352,32 . @nh,384,16 . @nh,400,16',
} as const;
const QUOTED_ECHO = { out: '@nh,296,8 . @nh,320,32 . @nh,416,16 . @nh,416,16', in: '@nh,296,8 . @nh,352,32 . @nh,416,16 . @nh,416,16' } as const;
const QUOTED_NO_OPTIONS = '@nh,224,8 0x45';
/** What the fragments of a packet have in common. */
const FRAGMENTED = `${PROTOCOL} . @nh,96,32 . @nh,128,32 . @nh,32,16`;
const IS_LATER = '@nh,51,13 != 0';
const MORE_FOLLOW = '@nh,50,1 1';
const TCP_CLOSES = '@nh,264,8 & 0x05 != 0';
const TCP_OPENS = '@nh,264,8 & 0x12 == 0x02';
const TCP_GOES_ON = '@nh,264,8 & 0x12 != 0x02';
const ECHOES = '@nh,160,8 { 0, 8 }';
const ICMP_ERRORS = '@nh,160,8 { 3, 4, 5, 11, 12 }';
const WITH_PORTS = 'meta l4proto { tcp, udp }';

/** Frames from a guest are counted by where they enter, frames to it by where they leave. */
const KEYS = { out: 'iifname', in: 'oifname' } as const;
const drop = (d: Direction): string => dropBy('filter', KEYS[d]);

/** Creates the table anew. */
export function renderFilterTable(taps: readonly FilteredTap[], local: LocalAddresses): string {
  return [
    removeFilterTable(),
    table(
      FILTER_TABLE[0],
      [
        dropSet('filter', 'iifname'),
        dropSet('connection_limit', 'iifname'),
        ...localSets(local),
        ...(['out', 'in'] as const).map(icmp6),
        ...taps.flatMap((t) => [...flowSets(t.tap), pass(t.tap), ...(['out', 'in'] as const).flatMap((d) => cardChains(t, d))]),
        verdicts(taps, 'out'),
        verdicts(taps, 'in'),
        chain('outbound', [baseChain('filter', 'prerouting', -290), 'iifname vmap @out']),
        chain('inbound', [baseChain('filter', 'postrouting', 0), 'oifname vmap @in']),
      ],
      FILTER_TABLE[1],
    ),
  ].join('\n');
}

/** Removes the table, whether or not it exists. */
export function removeFilterTable(): string {
  const name = FILTER_TABLE.join(' ');
  return `table ${name}\ndelete table ${name}`;
}

function localSets({ subnets, host, macs }: LocalAddresses): string[] {
  const all = [...subnets.map(formatSubnet), ...host, formatSubnet(MULTICAST), formatIpv4(LIMITED_BROADCAST)];
  return [
    `  set local { type ipv4_addr; flags interval; auto-merge;${elements(all)}; }`,
    fixedSet(
      'cards',
      'ether_addr',
      [...new Set(macs)].map((m) => formatMac(m)),
    ),
  ];
}

function flowSets(tap: string): string[] {
  const flows = { size: MAX_FILTER_FLOWS, timeout: `${FLOW_SECONDS.udp}s` };
  return [
    ...[FLOW_SETS.out, FLOW_SETS.in, CLOSING].map((set) => expiringSet(`${set}${tap}`, `typeof ${FLOW.out}`, flows)),
    expiringSet(`${FRAGMENTS}${tap}`, `typeof ${FRAGMENTED}`, { size: FRAGMENTED_MOST, timeout: `${FRAGMENTS_SECONDS}s` }),
  ];
}

const verdicts = (taps: readonly FilteredTap[], d: Direction): string =>
  `  map ${d} { type ifname : verdict;${elements(taps.map(({ tap }) => `${quoted(tap)} : jump ${d}_${tap}`))}; }`;

/** Neighbour discovery and multicast listener reports, as far as a first header shows them. */
function icmp6(d: Direction): string {
  return chain(`ip6_${d}`, ['meta protocol ip6 meta l4proto ipv6-icmp icmpv6 type { 130-137, 143 } accept', drop(d)]);
}

/** The end of each path on which a packet passes. */
function pass(tap: string): string {
  return chain(`pass_${tap}`, [`${MORE_FOLLOW} update @${FRAGMENTS}${tap} { ${FRAGMENTED} timeout ${FRAGMENTS_SECONDS}s }`, 'accept']);
}

function cardChains(card: FilteredTap, d: Direction): string[] {
  const { tap } = card;
  return [
    begin(tap, d),
    fin(tap, d),
    tcp(tap, d),
    udp(tap, d),
    quote(tap, d),
    icmp(tap, d),
    chain(`later_${d}_${tap}`, [`${FRAGMENTED} @${FRAGMENTS}${tap} accept`, drop(d)]),
    chain(`dhcp_${d}_${tap}`, [...card.rules.filter(namesPorts).flatMap((r) => ruleLines(r, card, d)), `goto pass_${tap}`]),
    entry(card, d),
  ];
}

function entry(card: FilteredTap, d: Direction): string {
  const { tap } = card;
  const [from, to] = d === 'out' ? [DHCP_CLIENT_PORT, DHCP_SERVER_PORT] : [DHCP_SERVER_PORT, DHCP_CLIENT_PORT];
  return chain(`${d}_${tap}`, [
    'meta protocol arp accept',
    `meta protocol ip6 goto ip6_${d}`,
    `meta protocol != ip ${drop(d)}`,
    `${IS_LATER} goto later_${d}_${tap}`,
    `meta l4proto udp th sport ${from} th dport ${to} goto dhcp_${d}_${tap}`,
    `${NO_OPTIONS} meta l4proto vmap { tcp : jump tcp_${d}_${tap}, udp : jump udp_${d}_${tap}, icmp : jump icmp_${d}_${tap} }`,
    ...card.rules.flatMap((r) => ruleLines(r, card, d)),
    `goto begin_${d}_${tap}`,
  ]);
}

/** Renews a flow of either set. */
function renewed(tap: string, key: string, seconds: number): string[] {
  return Object.values(FLOW_SETS).map((set) => `${key} @${set}${tap} update @${set}${tap} { ${key} timeout ${seconds}s } goto pass_${tap}`);
}

function tcp(tap: string, d: Direction): string {
  const closing = `@${CLOSING}${tap}`;
  return chain(`tcp_${d}_${tap}`, [
    `${TCP_CLOSES} jump fin_${d}_${tap}`,
    ...renewed(tap, FLOW[d], FLOW_SECONDS.tcp),
    `${TCP_GOES_ON} ${FLOW[d]} ${closing} update ${closing} { ${FLOW[d]} timeout ${FLOW_SECONDS.closing}s } goto pass_${tap}`,
  ]);
}

/** A full set of closing connections leaves this one where it is. */
function fin(tap: string, d: Direction): string {
  const closes = `update @${CLOSING}${tap} { ${FLOW[d]} timeout ${FLOW_SECONDS.closing}s }`;
  return chain(
    `fin_${d}_${tap}`,
    Object.values(FLOW_SETS).map((set) => `${FLOW[d]} @${set}${tap} ${closes} delete @${set}${tap} { ${FLOW[d]} } goto pass_${tap}`),
  );
}

/** Queries to DNS servers keep their short time. */
function udp(tap: string, d: Direction): string {
  const peerPort = d === 'out' ? '@nh,176,16' : '@nh,160,16';
  return chain(`udp_${d}_${tap}`, [
    `${peerPort} ${DNS_SERVICE_PORT} ${FLOW[d]} @${FLOW_SETS.out}${tap} goto pass_${tap}`,
    ...renewed(tap, FLOW[d], FLOW_SECONDS.udp),
  ]);
}

function icmp(tap: string, d: Direction): string {
  return chain(`icmp_${d}_${tap}`, [
    ...renewed(tap, ECHO[d], FLOW_SECONDS.echo).map((line) => `${ECHOES} ${line}`),
    `${ICMP_ERRORS} ${QUOTED_NO_OPTIONS} jump quote_${d}_${tap}`,
  ]);
}

function quote(tap: string, d: Direction): string {
  const sets = [...Object.values(FLOW_SETS), CLOSING];
  return chain(`quote_${d}_${tap}`, [
    ...sets.map((set) => `@nh,296,8 { 6, 17 } ${QUOTED[d]} @${set}${tap} goto pass_${tap}`),
    ...Object.values(FLOW_SETS).map((set) => `@nh,296,8 1 ${QUOTED_ECHO[d]} @${set}${tap} goto pass_${tap}`),
  ]);
}

/** What the rules let through begins a flow. */
function begin(tap: string, d: Direction): string {
  const add = (key: string, seconds: number): string => `update @${FLOW_SETS[d]}${tap} { ${key} timeout ${seconds}s } goto pass_${tap}`;
  return chain(`begin_${d}_${tap}`, [
    `@nh,0,8 != 0x45 goto pass_${tap}`,
    `meta l4proto != { tcp, udp, icmp } goto pass_${tap}`,
    `meta l4proto tcp ${TCP_CLOSES} goto pass_${tap}`,
    `meta l4proto tcp ${TCP_OPENS} ${add(FLOW[d], FLOW_SECONDS.opening)}`,
    `meta l4proto tcp ${TCP_GOES_ON} ${add(FLOW[d], FLOW_SECONDS.tcp)}`,
    ...(d === 'out' ? [`meta l4proto udp @nh,176,16 ${DNS_SERVICE_PORT} ${add(FLOW[d], FLOW_SECONDS.names)}`] : []),
    `meta l4proto udp ${add(FLOW[d], FLOW_SECONDS.udp)}`,
    `meta l4proto icmp @nh,160,8 8 ${add(ECHO[d], FLOW_SECONDS.echo)}`,
    `meta l4proto icmp @nh,160,8 != 8 goto pass_${tap}`,
    dropBy('connection_limit', KEYS[d]),
  ]);
}

/** A rule of the filter; none if it is for the other direction. */
function ruleLines(rule: FilterRule, { tap, gateway }: FilteredTap, d: Direction): string[] {
  if (rule.direction !== 'any' && rule.direction !== 'local' && rule.direction !== d) return [];
  const conditions = [...protocolOf(rule), ...endOf(rule.from, 'saddr', 'sport'), ...endOf(rule.to, 'daddr', 'dport')];
  const verdict = `${rule.action === 'pass' ? `goto begin_${d}_${tap}` : drop(d)} comment "filter line ${rule.line}"`;
  const scopes = rule.direction === 'local' ? localScopes(gateway, d) : [''];
  return scopes.map((scope) => [scope, ...conditions, verdict].filter((c) => c !== '').join(' '));
}

/** Each is one form of `local`. The gateway's DNS is none. */
function localScopes(gateway: number | null, d: Direction): string[] {
  const [peer, mac, port] = d === 'out' ? ['ip daddr', 'ether daddr', 'th dport'] : ['ip saddr', 'ether saddr', 'th sport'];
  if (gateway === null) return [`${peer} @local`, `${mac} @cards`];
  const is = `${peer} ${formatIpv4(gateway)}`;
  return [`${peer} @local ${peer} != ${formatIpv4(gateway)}`, `${is} meta l4proto != { tcp, udp }`, `${is} ${WITH_PORTS} ${port} != ${DNS_SERVICE_PORT}`];
}

function protocolOf(rule: FilterRule): string[] {
  if (rule.protocols.length > 0) return [`meta l4proto ${anyOf(rule.protocols)}`];
  return namesPorts(rule) ? [WITH_PORTS] : [];
}

function endOf({ subnet, ports }: FilterEnd, address: 'saddr' | 'daddr', port: 'sport' | 'dport'): string[] {
  return [
    ...(subnet === null || subnet.prefix === 0 ? [] : [`ip ${address} ${formatSubnet(subnet)}`]),
    ...(ports === null ? [] : [`th ${port} ${rangeOf(ports)}`]),
  ];
}

const rangeOf = ({ first, last }: PortRange): string => (first === last ? String(first) : `${first}-${last}`);
