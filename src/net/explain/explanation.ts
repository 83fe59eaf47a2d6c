/**
 * What happens to a packet of, or for, a VM, and which rule decides (B93).
 *
 * Theory of operation: pure, from the state of the host (host-state.ts) to an `Explanation`. A `PacketTrace` collects
 * the steps and gives the verdict. sent-by-card.ts follows a packet that a VM sends as far as the engines agree;
 * kernel-engine.ts, bridged-card.ts and user-engine.ts follow it through what differs. Decisions are those of
 * src/net/policy, which the engines use too. The contract suite sends each explained packet and compares.
 *
 * Limits: the packet is the first of its flow. Whether a service answers is not known. No other program marks packets.
 * The source MAC address is the card's own.
 */
import { formatAddress, formatEndpoint, type Packet, type PacketAddress } from './packet.ts';

export interface ExplainStep {
  at: string;
  does: string;
  /** Name of the rule, as in the ruleset or in the settings; empty where nothing decides. */
  rule: string;
}

/** Where the packet arrives, and what it looks like there. */
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
  /** allowed: it arrives. dropped: the sender gets no answer. refused: the sender gets a reset or an ICMP error. */
  verdict: 'allowed' | 'dropped' | 'refused';
  /** The rule that decides. */
  rule: string;
  reason: string;
  /** An address or port differs between sender and receiver. */
  translated: boolean;
  steps: ExplainStep[];
  arrives: Arrival[];
}

/** Why a guest does not reach a cloud's metadata service. */
export const metadataReason = (to: PacketAddress): string =>
  `${formatAddress(to)} is the metadata service of a cloud, which takes a guest for the host; 'anka config metadata allow' opens it`;

export const DEPENDS = 'the service there decides whether it is answered';

export class PacketTrace {
  readonly steps: ExplainStep[] = [];
  readonly packet: Packet;
  readonly originalSource: PacketAddress;
  /** As they are at this point of the path. */
  source: PacketAddress;
  destination: PacketAddress;
  port: number | null;

  constructor(packet: Packet, source: PacketAddress) {
    this.packet = packet;
    this.originalSource = source;
    this.source = source;
    this.destination = packet.destination;
    this.port = packet.port;
  }

  step(at: string, does: string, rule = ''): void {
    this.steps.push({ at, does, rule });
  }

  arrival(at: string): Arrival {
    return { at, source: formatAddress(this.source), destination: formatAddress(this.destination), port: this.port };
  }

  allow(rule: string, reason: string, ...arrives: Arrival[]): Explanation {
    return this.#conclude('allowed', rule, reason, arrives);
  }

  drop(rule: string, reason: string): Explanation {
    return this.#conclude('dropped', rule, reason, []);
  }

  refuse(rule: string, reason: string): Explanation {
    return this.#conclude('refused', rule, reason, []);
  }

  #conclude(verdict: Explanation['verdict'], rule: string, reason: string, arrives: Arrival[]): Explanation {
    const p = this.packet;
    const source = formatAddress(this.originalSource);
    const translated = arrives.some((a) => a.source !== source || a.destination !== formatAddress(p.destination) || a.port !== p.port);
    const packet = `${p.protocol} ${formatEndpoint(this.originalSource, p.sourcePort)} → ${formatEndpoint(p.destination, p.port)}`;
    return { packet, verdict, rule, reason, translated, steps: this.steps, arrives };
  }
}
