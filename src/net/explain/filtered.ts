/**
 * Packet filters of VMs in explanations: what a VM sends is filtered behind the guard, what reaches it last of all.
 *
 * Limits: the packet is the first of its flow, so that no flow lets it pass. Rules for other protocols by number match
 * none that is asked about.
 */
import { gatewayOf, parseIpv4, subnetContains } from '../../wire/address.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import { type FilterRule, ruleTitle } from '../filter/filter-rule.ts';
import { type FilterNetwork, matchRule } from '../filter/match-rule.ts';
import { parseFilter } from '../filter/parse-filter.ts';
import { isGroup } from '../policy/addresses.ts';
import type { Arrival, Explanation, PacketTrace } from './explanation.ts';
import { type ExplainedCard, type HostState, hasAddress, isHostAddress } from './host-state.ts';
import { type Packet, type PacketAddress, sourcePortOf } from './packet.ts';

const IPV4_ONLY = 'filter: IPv4 only';

/** Why a card's filter drops a packet. */
interface Verdict {
  rule: string;
  reason: string;
}

/** A packet that the card sends, after the guard; null: it passes. */
export function filterSent(s: HostState, card: ExplainedCard, trace: PacketTrace): Explanation | null {
  const dropped = verdictOf(s, card, { outbound: true, packet: trace.packet, source: trace.source, destination: trace.destination, port: trace.port });
  return dropped && trace.drop(dropped.rule, dropped.reason);
}

/** The explanation of a packet whose receivers filter it. */
export function filterReceived(s: HostState, packet: Packet, e: Explanation): Explanation {
  if (e.verdict !== 'allowed' || e.rule === ITSELF) return e;
  const dropped = new Map(e.arrives.flatMap((a) => receiverVerdict(s, packet, a)));
  if (dropped.size === 0) return e;
  const steps = [...e.steps, ...[...dropped].map(([a, v]) => ({ at: a.at, does: v.reason, rule: v.rule }))];
  const arrives = e.arrives.filter((a) => !dropped.has(a));
  if (arrives.length > 0) return { ...e, steps, arrives };
  const [first] = dropped.values() as unknown as [Verdict];
  return { ...e, verdict: 'dropped', rule: first.rule, reason: first.reason, translated: false, steps, arrives };
}

/** The rule of what never leaves its guest. */
export const ITSELF = 'the guest itself';

function receiverVerdict(s: HostState, packet: Packet, a: Arrival): [Arrival, Verdict][] {
  const card = s.cards.find((c) => c.vmName === a.at);
  if (!card) return [];
  const address = (text: string): PacketAddress => parseIpv4(text) ?? text;
  const verdict = verdictOf(s, card, { outbound: false, packet, source: address(a.source), destination: address(a.destination), port: a.port });
  return verdict ? [[a, verdict]] : [];
}

interface Passing {
  outbound: boolean;
  packet: Packet;
  source: PacketAddress;
  destination: PacketAddress;
  port: number | null;
}

function verdictOf(s: HostState, card: ExplainedCard, { outbound, packet, source, destination, port }: Passing): Verdict | null {
  const rules = rulesOf(card);
  if (rules.length === 0) return null;
  if (typeof source !== 'number' || typeof destination !== 'number')
    return { rule: IPV4_ONLY, reason: `${card.vmName} has a packet filter, and IPv6 of such a VM ends at neighbour discovery` };
  const protocol = packet.protocol === 'other' ? -1 : IpProtocol[packet.protocol];
  const hasPorts = packet.protocol === 'tcp' || packet.protocol === 'udp';
  const [sourcePort, destinationPort] = hasPorts ? [sourcePortOf(packet), port ?? -1] : [-1, -1];
  const rule = matchRule(rules, { outbound, protocol, source, destination, sourcePort, destinationPort }, networkOf(s, card));
  if (rule?.action !== 'block') return null;
  return { rule: ruleTitle(rule), reason: `the packet filter of ${card.vmName} blocks what it ${outbound ? 'sends' : 'receives'} there` };
}

const rulesOf = (card: ExplainedCard): readonly FilterRule[] => (card.filter === undefined || card.type === 'disconnected' ? [] : parseFilter(card.filter));

function networkOf(s: HostState, card: ExplainedCard): FilterNetwork {
  const network = s.networks.find((n) => n.name === card.type);
  return {
    gateway: network ? gatewayOf(network.subnet) : -1,
    isLocal: (ip) =>
      isGroup(ip) ||
      isHostAddress(s, ip) ||
      s.networks.some((n) => subnetContains(n.subnet, ip)) ||
      (card.type === 'bridge' && s.cards.some((c) => c.id !== card.id && c.type === 'bridge' && hasAddress(c, ip))),
  };
}
