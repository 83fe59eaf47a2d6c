/** The state of the host and its VMs from which `explain` answers, and the look-ups in it. */
import { broadcastOf, gatewayOf, type SubnetLike } from '../../wire/address.ts';
import { isLoopback } from '../policy/addresses.ts';
import { chooseByAddress, type ForwardingMatch, hasForwarding, matchesPort } from '../policy/forwarding.ts';
import type { Packet, PacketAddress } from './packet.ts';
import type { LookUpRoute } from './routing.ts';

export interface ExplainedRule extends ForwardingMatch {
  readonly name: string;
  readonly guestPort: number;
}

export interface ExplainedCard {
  id: string;
  vmName: string;
  type: 'shared' | 'host' | 'bridge' | 'disconnected';
  bridge?: string;
  vlan?: number;
  outsideMac: number;
  reservedIp?: number;
  isolated: boolean;
  /** Text of its packet filter, checked; absent = none. */
  filter?: string;
  /** The guest's main address; null while it has none. */
  ip: number | null;
  /** All its addresses. */
  addresses: readonly number[];
  /** Those that another card takes over if it claims them while this guest does not answer. */
  virtual: readonly number[];
  rules: readonly ExplainedRule[];
  /** Type bridge only; absent while the card is not attached. */
  segment?: BridgedSegment;
}

/** What a VM of type bridge is attached to. */
export interface BridgedSegment {
  /** Equal for VMs that share an Ethernet segment. */
  name: string;
  /** Interfaces by which the host itself is on that network. */
  hostInterfaces: readonly string[];
  /** The host and the VM cannot reach each other (macvlan). */
  hostUnreachable: boolean;
  /** The bridge is the host's own, whose DHCP server an isolated VM may use. */
  isHostBridge: boolean;
  /** Why its port passes no frames now, in one sentence; absent when it does. */
  closed?: string;
}

export interface HostState {
  networks: readonly { name: 'shared' | 'host'; subnet: SubnetLike; gatewayMac: number }[];
  cards: readonly ExplainedCard[];
  /** The host's own addresses, and the gateways'. */
  addresses: readonly { dev: string; address: number; prefix: number }[];
  /** By all its rules and tables. */
  route: LookUpRoute;
  /** `anka config metadata allow` */
  metadata: boolean;
}

export const hasAddress = (card: ExplainedCard, address: PacketAddress): boolean => typeof address === 'number' && card.addresses.includes(address);

/** One of the host's addresses, its loopback included. */
export function isHostAddress(s: HostState, address: PacketAddress): address is number {
  return typeof address === 'number' && (isLoopback(address) || s.addresses.some((a) => a.address === address));
}

const isGateway = (s: HostState, address: PacketAddress): boolean => s.networks.some((n) => gatewayOf(n.subnet) === address);

/** The broadcast address of an interface of the host. */
export function isHostBroadcast(addresses: HostState['addresses'], address: PacketAddress): boolean {
  return addresses.some((a) => a.prefix < 31 && broadcastOf({ base: a.address, prefix: a.prefix }) === address);
}

/**
 * Who sends the packet: a card, the host, or a machine outside. The packet comes to the VM when its destination is the
 * VM, or a port or address of the host, and its source is another's; otherwise the VM sends it, even with a source that
 * is not its own.
 */
export function senderOf(s: HostState, card: ExplainedCard, p: Packet): ExplainedCard | 'host' | 'outside' {
  if (p.source === null || hasAddress(card, p.source)) return card;
  const toHost = isHostAddress(s, p.destination) && (!isGateway(s, p.destination) || listenerAt(s, p.destination, p)?.card === card);
  if (listener6At(s, card, p)) return p.source === LOOPBACK6 || p.source === p.destination ? 'host' : 'outside';
  if (!hasAddress(card, p.destination) && !toHost) return card;
  const source = p.source;
  const other = s.cards.find((c) => hasAddress(c, source));
  if (other) return other;
  return isHostAddress(s, p.source) ? 'host' : 'outside';
}

export interface MatchedRule {
  card: ExplainedCard;
  rule: ExplainedRule;
}

export const LOOPBACK6 = '::1';

/** A rule that listens at an IPv6 address of the host, on behalf of the card. */
export function listener6At(s: HostState, card: ExplainedCard, p: Packet): MatchedRule | null {
  const match = typeof p.destination === 'string' ? listenerAt(s, p.destination, p) : null;
  return match?.card.id === card.id ? match : null;
}

/** The rule that listens at an address and port of the host, whether or not its guest has an address. */
export function listenerAt(s: HostState, address: PacketAddress, p: Packet): MatchedRule | null {
  return matchRule(s.cards, address, p);
}

/** The rule that forwards an address and port of the host to a guest. */
export function forwardingAt(s: HostState, address: number, p: Packet): MatchedRule | null {
  return matchRule(
    s.cards.filter((c) => c.ip !== null),
    address,
    p,
  );
}

function matchRule(cards: readonly ExplainedCard[], address: PacketAddress, p: Packet): MatchedRule | null {
  const candidates = cards.flatMap((card) =>
    hasForwarding(card.type) ? card.rules.filter((r) => matchesPort(r, p.protocol, p.port)).map((rule) => ({ card, rule })) : [],
  );
  return chooseByAddress(candidates, (m) => m.rule, address);
}

export const ruleName = ({ card, rule }: MatchedRule): string => `port forwarding '${rule.name}' of ${card.vmName}`;
