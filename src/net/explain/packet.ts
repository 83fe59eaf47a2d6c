/**
 * What happens to a packet of, or for, a VM, and which rule decides (B93). Pure: from what is desired and seen of the
 * host to an explanation.
 *
 * Theory of operation: this is what the explanations of both engines are made of; card.ts follows a packet of a VM as
 * far as the engines agree, and kernel.ts, bridge.ts and user.ts follow it through the places where they decide, in
 * their order. The contract suite sends the packets that are explained, and compares. The packet is about one VM. It is
 * one that comes to it when its destination is the VM, or a port or an address of the host, and its source is somebody
 * else's; in every other case the VM sends it, also with a source that is not its own.
 *
 * Limits: it is the first packet of a flow. Whether a service answers is not known here. Routes are those of the main
 * table. The MAC address is taken to be the card's own.
 */
import { formatIpv4, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';

export type PacketProtocol = 'tcp' | 'udp' | 'icmp' | 'other';
/** IPv4 as a number in host order, IPv6 as its canonical text. */
export type PacketAddress = number | string;

export interface Packet {
  protocol: PacketProtocol;
  /** null: the VM's own address. */
  source: PacketAddress | null;
  /** null: any that is nobody's service. */
  sourcePort: number | null;
  destination: PacketAddress;
  /** null where the protocol has none, or it does not matter. */
  port: number | null;
}

export interface ExplainedRule {
  name: string;
  protocol: 'tcp' | 'udp';
  /** 0 = every address of the host. */
  hostIp: number;
  hostPort: number;
  guestPort: number;
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
  /** The guest's address now; null while it has none. */
  ip: number | null;
  rules: readonly ExplainedRule[];
  /** bridge: where it is plugged in; absent while it is not. */
  segment?: ExplainedSegment;
}

/** What VMs of type bridge are plugged into. */
export interface ExplainedSegment {
  /** The same for VMs that can hear each other. */
  name: string;
  /** Interfaces by which the host itself is a machine of that network. */
  hostInterfaces: readonly string[];
  /** The host and the VM cannot reach each other. */
  hostApart: boolean;
}

/** What is known of the host and of everything that runs on it. */
export interface Surroundings {
  networks: readonly { name: 'shared' | 'host'; subnet: SubnetLike; gatewayMac: number }[];
  cards: readonly ExplainedCard[];
  /** The host's own addresses, and the gateways'. */
  addresses: readonly { dev: string; address: number; prefix: number }[];
  /** Routes of the main table. */
  routes: readonly (SubnetLike & { dev: string })[];
}

/** One place on the packet's way. */
export interface ExplainStep {
  at: string;
  does: string;
  /** Name of the rule, as in the ruleset or in the settings; empty where nothing decides. */
  rule: string;
}

/** Where the packet comes out, and what it looks like there. */
export interface Arrival {
  /** `host`, `outside`, a VM's name, or `gateway`: the user engine's own, which answers by itself. */
  at: string;
  source: string;
  destination: string;
  port: number | null;
}

export interface Explanation {
  /** The packet in words. */
  packet: string;
  /** allowed: it arrives. dropped: the sender hears nothing. refused: the sender is told. */
  verdict: 'allowed' | 'dropped' | 'refused';
  /** The rule that decides. */
  rule: string;
  reason: string;
  /** An address or a port is another at the end than at the beginning. */
  translated: boolean;
  steps: ExplainStep[];
  arrives: Arrival[];
}

export const LOOPBACK: SubnetLike = { base: 0x7f000000, prefix: 8 };
export const MULTICAST: SubnetLike = { base: 0xe0000000, prefix: 4 };
export const ZERO_NET: SubnetLike = { base: 0, prefix: 8 };
export const EVERYBODY = 0xffffffff;
export const DEPENDS = 'whether it is answered depends on the service there';

export const show = (a: PacketAddress): string => (typeof a === 'number' ? formatIpv4(a) : a);
export const place = (a: PacketAddress, port: number | null): string =>
  port === null ? show(a) : typeof a === 'number' ? `${show(a)}:${port}` : `[${a}]:${port}`;

/** The packet's way, as far as it was followed. */
export class Way {
  readonly steps: ExplainStep[] = [];
  readonly packet: Packet;
  /** As it is at this point of its way. */
  source: PacketAddress;
  destination: PacketAddress;
  port: number | null;

  constructor(packet: Packet, source: PacketAddress) {
    this.packet = packet;
    this.source = source;
    this.destination = packet.destination;
    this.port = packet.port;
  }

  step(at: string, does: string, rule = ''): void {
    this.steps.push({ at, does, rule });
  }

  arrival(at: string): Arrival {
    return { at, source: show(this.source), destination: show(this.destination), port: this.port };
  }

  #end(verdict: Explanation['verdict'], rule: string, reason: string, begin: PacketAddress, arrives: Arrival[]): Explanation {
    const p = this.packet;
    const from = place(begin, p.sourcePort);
    const translated = arrives.some((a) => a.source !== show(begin) || a.destination !== show(p.destination) || a.port !== p.port);
    return { packet: `${p.protocol} ${from} → ${place(p.destination, p.port)}`, verdict, rule, reason, translated, steps: this.steps, arrives };
  }

  allow(begin: PacketAddress, rule: string, reason: string, ...arrives: Arrival[]): Explanation {
    return this.#end('allowed', rule, reason, begin, arrives);
  }

  drop(begin: PacketAddress, rule: string, reason: string): Explanation {
    return this.#end('dropped', rule, reason, begin, []);
  }

  refuse(begin: PacketAddress, rule: string, reason: string): Explanation {
    return this.#end('refused', rule, reason, begin, []);
  }
}

export function isHosts(s: Surroundings, address: PacketAddress): address is number {
  return typeof address === 'number' && (subnetContains(LOOPBACK, address) || s.addresses.some((a) => a.address === address));
}

const isGateway = (s: Surroundings, address: PacketAddress): boolean => s.networks.some((n) => gatewayOf(n.subnet) === address);

/** Who sends it: a card, the host, or somebody outside. */
export function senderOf(s: Surroundings, card: ExplainedCard, p: Packet): ExplainedCard | 'host' | 'outside' {
  if (p.source === null || p.source === card.ip) return card;
  const ours = isHosts(s, p.destination) && (!isGateway(s, p.destination) || ruleAt(s, p.destination, p, true)?.card === card);
  if (p.destination !== card.ip && !ours) return card;
  const other = s.cards.find((c) => c.ip === p.source);
  if (other) return other;
  return isHosts(s, p.source) ? 'host' : 'outside';
}

/**
 * The forwarding rule for a port of the host: one for that very address before one for all. `listeners`: also those
 * whose guest has no address.
 */
export function ruleAt(s: Surroundings, address: number, p: { protocol: PacketProtocol; port: number | null }, listeners = false) {
  const all = s.cards.flatMap((card) =>
    (card.type === 'shared' || card.type === 'host') && (listeners || card.ip !== null)
      ? card.rules.filter((r) => r.protocol === p.protocol && r.hostPort === p.port).map((rule) => ({ card, rule }))
      : [],
  );
  return all.find(({ rule }) => rule.hostIp === address) ?? all.find(({ rule }) => rule.hostIp === 0) ?? null;
}

export const routeTo = (s: Surroundings, address: number) =>
  s.routes
    .filter((r) => subnetContains(r, address))
    .reduce<Surroundings['routes'][number] | null>((best, r) => (best && best.prefix >= r.prefix ? best : r), null);

export const ruleName = (card: ExplainedCard, rule: ExplainedRule): string => `port forwarding '${rule.name}' of ${card.vmName}`;
