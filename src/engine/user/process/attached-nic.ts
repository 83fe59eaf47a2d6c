/** A NIC that is attached to a network of the user engine, with everything that belongs to it. */

import { dateOf, monotonicMs } from '../../../lib/clock.ts';
import { NO_ADDRESS_YET } from '../../../lib/rule-reasons.ts';
import type { Lease } from '../../../net/dhcp/lease-pool.ts';
import type { FilterNetwork } from '../../../net/filter/match-rule.ts';
import { PacketFilter } from '../../../net/filter/packet-filter.ts';
import { parseFilter } from '../../../net/filter/parse-filter.ts';
import { DHCP_MOST, DHCP_MS, NAMES_MOST, NAMES_MS } from '../../../net/gateway/service-rates.ts';
import { GuardedCard } from '../../../net/switch/guard.ts';
import { TokenBucket } from '../../../net/token-bucket.ts';
import type { DesiredRule, NicStats, ObservedNic } from '../../engine.ts';
import { observeAddresses } from '../../observed-addresses.ts';
import { Port, type PortOwner } from '../port/port.ts';
import type { PortMemory } from '../port/port-memory.ts';
import { type ForwardContext, ForwardRule } from '../sockets/forward.ts';
import type { NetworkNic } from './config.ts';

/** What a NIC needs of its network. */
export interface NicNetwork {
  owner: PortOwner;
  portMemory: PortMemory;
  forwarding: Omit<ForwardContext, 'target' | 'isTaken'>;
  /** What filters know of addresses. */
  addresses: FilterNetwork;
  /** A forwarding rule's state has changed. */
  onChanged: () => void;
}

export class AttachedNic {
  readonly port: Port;
  /** By the rule's JSON. */
  readonly rules = new Map<string, ForwardRule>();
  /** Limits of requests to the gateway. */
  readonly rates = { dhcp: new TokenBucket(DHCP_MOST, DHCP_MS), dns: new TokenBucket(NAMES_MOST, NAMES_MS) };
  /** When the gateway last asked by ARP whether an unclaimed address is the guest's, by `monotonicMs`. */
  probedAt = 0;
  readonly #network: NicNetwork;
  #config: NetworkNic;
  /** Its addresses when `lostAddresses` was last called. */
  #addresses: readonly number[] = [];

  /** `index`: unique in the process. */
  constructor(index: number, config: NetworkNic, network: NicNetwork) {
    const { id, insideMac, isolated, mtu, socket } = config;
    this.#config = config;
    this.#network = network;
    const card = new GuardedCard(id, config.outsideMac);
    const filter = createFilter(config.filter, network.addresses);
    this.port = new Port({ index, card, insideMac, isolated, mtu, socket, filter }, network.portMemory, network.owner);
  }

  get config(): NetworkNic {
    return this.#config;
  }

  /** Whether the NIC can become that without being attached anew. */
  canBecome(config: NetworkNic): boolean {
    const { port } = this;
    return config.socket === port.socketPath && config.outsideMac === port.card.mac && config.insideMac === port.insideMac;
  }

  configure(config: NetworkNic): void {
    const { port } = this;
    if (config.filter !== this.#config.filter) this.#setFilter(config.filter);
    this.#config = config;
    port.isolated = config.isolated;
    port.mtu = config.mtu;
    port.card.reservedIp = config.reservedIp ?? -1;
    this.#openRules();
  }

  /** Flows that the new rules let begin go on. */
  #setFilter(text: string | undefined): void {
    const { port } = this;
    const next = createFilter(text, this.#network.addresses);
    if (next !== null && port.filter !== null) port.filter.setRules(next.rules);
    else port.filter = next;
  }

  /**
   * To be called for all NICs before `configure`, so that the port of a rule that has moved to another NIC is free.
   */
  closeOtherRules(wanted: readonly DesiredRule[]): void {
    const keys = new Set(wanted.map((r) => JSON.stringify(r)));
    for (const [key, rule] of this.rules) {
      if (keys.has(key)) continue;
      rule.close();
      this.rules.delete(key);
    }
  }

  /** Addresses that it had at the last call and has no more. */
  lostAddresses(): number[] {
    const { card } = this.port;
    const lost = this.#addresses.filter((ip) => !card.owns(ip));
    this.#addresses = card.list().map((a) => a.ip);
    return lost;
  }

  /** Cuts connections of rules to addresses that the guest does not answer for any more. */
  followAddresses(): void {
    const { card } = this.port;
    const live = new Set(card.list().flatMap(({ ip }) => (card.use(ip)?.silent ? [] : [ip])));
    for (const rule of this.rules.values()) rule.follow(live);
  }

  #openRules(): void {
    const { rules } = this.#config;
    const { port } = this;
    const target = (): { port: Port; ip: number } | null => (port.connected && port.card.ip >= 0 ? { port, ip: port.card.ip } : null);
    const isTaken = (guestPort: number, client: number): boolean => {
      for (const r of this.rules.values()) if (r.rule.guestPort === guestPort && r.hasClient(client)) return true;
      return false;
    };
    for (const rule of rules) {
      const key = JSON.stringify(rule);
      if (!this.rules.has(key)) this.rules.set(key, new ForwardRule(rule, { ...this.#network.forwarding, target, isTaken }, this.#network.onChanged));
    }
  }

  /** The port is closed by `port.close`, once its flows are. */
  closeRules(): void {
    for (const r of this.rules.values()) r.close();
  }

  /** `lease` is the one that its guest has taken up. */
  observe(lease: Lease | null, lastDhcp: number | null): ObservedNic {
    const { port, rules } = this;
    const { card } = port;
    const { id, socket } = this.#config;
    return {
      id,
      ip: card.ip < 0 ? null : card.ip,
      source: card.hasStatic ? 'static' : card.leaseIp >= 0 ? 'lease' : 'none',
      addresses: observeAddresses(card, monotonicMs()),
      leaseExpires: !card.hasStatic && lease ? dateOf(lease.expires) : null,
      lastDhcp,
      backend: socket,
      healthy: port.connected && this.#config.rules.every((r) => rules.get(JSON.stringify(r))?.listening),
      rules: this.#config.rules.map((r) => {
        const listener = rules.get(JSON.stringify(r));
        const listening = listener?.listening === true;
        const reason = listening ? (card.ip < 0 ? NO_ADDRESS_YET : '') : (listener?.reason ?? '');
        return { name: r.name, active: listening && card.ip >= 0, reason };
      }),
    };
  }

  stats(): NicStats {
    const { queue, fromGuest, drops } = this.port;
    return {
      id: this.#config.id,
      rxPackets: queue.counts.packets,
      rxBytes: queue.counts.bytes,
      txPackets: fromGuest.packets,
      txBytes: fromGuest.bytes,
      drops: drops.toRecord(),
    };
  }
}

/** The text was checked by the daemon. */
function createFilter(text: string | undefined, addresses: FilterNetwork): PacketFilter | null {
  const rules = text === undefined ? [] : parseFilter(text);
  return rules.length === 0 ? null : new PacketFilter(rules, addresses);
}
