/**
 * What the kernel engine and its host do with a packet (explanation.ts): forwarding rules, routing, isolation,
 * masquerading, other firewalls, bridges.
 *
 * Limits: rules of another firewall count as far as they are understood (engine/kernel/rules/foreign-rules.ts).
 */
import { formatIpv4, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { isLoopback, MULTICAST } from '../policy/addresses.ts';
import { MAX_CONNECTIONS } from '../policy/connections.ts';
import { hostReachesIsolated, openToHost } from '../policy/isolation.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../policy/services.ts';
import { hostToBridged, outsideToBridged, sentByBridged } from './bridged-card.ts';
import { DEPENDS, type Explanation, PacketTrace } from './explanation.ts';
import { filterReceived } from './filtered.ts';
import { fromHostOut, fromOutsideIn, type HookedPacket, type HookStage, type Redirect, towardsHost, towardsOutside } from './hook-path.ts';
import {
  type ExplainedCard,
  forwardingAt,
  type HostState,
  hasAddress,
  isHostAddress,
  isHostBroadcast,
  LOOPBACK6,
  listener6At,
  listenerAt,
  type MatchedRule,
  ruleName,
  senderOf,
} from './host-state.ts';
import { formatAddress, formatEndpoint, type Packet, type PacketAddress } from './packet.ts';
import { byWhat, failureReason, failureRule, ICMP_ERRORS, type RouteAnswer } from './routing.ts';
import { SentByCard } from './sent-by-card.ts';

export interface KernelHostState extends HostState {
  networks: readonly (HostState['networks'][number] & { interface: string })[];
  /** The host's global IPv6 addresses. */
  addresses6: readonly string[];
  /** Ports of the host to which DHCP requests and DNS queries are redirected. */
  redirectPorts: { dhcp: Readonly<Record<'shared' | 'host', number>>; dns: number };
  /** Cards (ids) whose guests have as many connections open as they may. */
  atConnectionLimit: readonly string[];
  /** Interfaces on which IPv4 forwarding is off. */
  forwardingOff: readonly string[];
  /** Other programs' chains that drop by policy. `allowed`: anka's accept is in the chain. */
  firewalls: readonly { name: string; hook: 'forward' | 'input'; allowed: boolean }[];
  /** What of another firewall drops a packet on its path, as far as its rules are understood; null: nothing does. */
  foreignDrop: (path: readonly HookStage[]) => { firewall: string; rule: string } | null;
}

/** What happens to a packet of, or for, the card. */
export function explainKernel(s: KernelHostState, card: ExplainedCard, packet: Packet): Explanation {
  return filterReceived(s, packet, unfiltered(s, card, packet));
}

function unfiltered(s: KernelHostState, card: ExplainedCard, packet: Packet): Explanation {
  const sender = senderOf(s, card, packet);
  if (typeof sender === 'object') return new SentByKernelCard(s, sender, packet).explain();
  const trace = new PacketTrace(packet, packet.source as PacketAddress);
  const listener6 = listener6At(s, card, packet);
  if (listener6) {
    if (sender === 'outside' && packet.destination === LOOPBACK6) return trace.drop("the host's routing", 'the loopback is not reached from outside');
    return throughListener(s, trace, listener6);
  }
  return sender === 'host' ? fromHost(s, card, trace) : fromOutside(s, card, trace);
}

/** The packet as it is now; null: not IPv4. `oif`: empty for the host. */
function hooked(trace: PacketTrace, iif: string, oif: string): HookedPacket | null {
  const { source, destination, port } = trace;
  if (typeof source !== 'number' || typeof destination !== 'number') return null;
  return { iif, oif, source, destination, protocol: trace.packet.protocol, port, state: 'new' };
}

/** Dropped by a rule, or by a policy at a hook where anka adds no accept; null when none does. */
function blockedOn(s: KernelHostState, trace: PacketTrace, path: readonly HookStage[]): Explanation | null {
  const drop = s.foreignDrop(path);
  return drop && trace.drop(drop.firewall, `a rule of another firewall drops it: ${drop.rule}`);
}

/** Dropped by default where anka's accept is missing. */
function blockedByDefault(s: KernelHostState, trace: PacketTrace, hook: 'input' | 'forward'): Explanation | null {
  const firewall = s.firewalls.find((f) => f.hook === hook && !f.allowed);
  return firewall ? trace.drop(firewall.name, "another firewall drops what it does not know, and anka's accept is not in its chain") : null;
}

/** Dropped by another firewall on the path from a network to the host; null when none does. */
function blockedToHost(s: KernelHostState, trace: PacketTrace, iif: string, redirect: Redirect | null = null): Explanation | null {
  const packet = hooked(trace, iif, '');
  return (packet && blockedOn(s, trace, towardsHost(packet, redirect))) ?? blockedByDefault(s, trace, 'input');
}

/** A rule's listener forwards the packet by a connection of the host's own. */
function throughListener(s: KernelHostState, trace: PacketTrace, match: MatchedRule): Explanation {
  const { card, rule } = match;
  const name = ruleName(match);
  if (card.ip === null) {
    trace.step('host', "the rule's listener accepts it", name);
    const reason = `${card.vmName} has no address yet`;
    return rule.protocol === 'tcp' ? trace.refuse(name, `${reason}: the connection is reset`) : trace.drop(name, reason);
  }
  const network = s.networks.find((n) => n.name === card.type);
  trace.step('host', `the rule's listener forwards it to ${card.vmName}, from the gateway's address`, name);
  if (network) trace.source = gatewayOf(network.subnet);
  trace.destination = card.ip;
  trace.port = rule.guestPort;
  return trace.allow(name, `reaches ${card.vmName} at ${formatEndpoint(card.ip, rule.guestPort)}; ${DEPENDS}`, trace.arrival(card.vmName));
}

function translateTo(trace: PacketTrace, match: MatchedRule): void {
  const ip = match.card.ip as number;
  trace.step('host', `the destination becomes ${formatEndpoint(ip, match.rule.guestPort)}`, ruleName(match));
  trace.destination = ip;
  trace.port = match.rule.guestPort;
}

function fromHost(s: KernelHostState, card: ExplainedCard, trace: PacketTrace): Explanation {
  const p = trace.packet;
  const to = p.destination;
  if (isHostAddress(s, to)) return fromHostToItself(s, card, trace, to);
  const bridged = card.type === 'bridge' && typeof to === 'number' ? hostToBridged(trace, card, s.route({ to }).dev) : null;
  if (bridged) return bridged;
  if (card.type === 'bridge') return trace.allow("the host's routing", 'leaves the host; what is beyond decides', trace.arrival('outside'));
  // rules open ports of the main address
  if (card.isolated && !hostReachesIsolated(p.protocol, p.port, trace.destination === card.ip ? openToHost(card.rules) : []))
    return trace.drop('--no-local', `${card.vmName} is isolated from the host`);
  const from = s.addresses.some((a) => a.address === p.source) ? { from: p.source as number } : {};
  const strayed = typeof to === 'number' ? astray(s, trace, card, s.route({ to, ...from })) : null;
  if (strayed) return strayed;
  const packet = hooked(trace, '', interfaceOf(s, card));
  const blocked = packet && blockedOn(s, trace, fromHostOut(packet));
  if (blocked) return blocked;
  trace.step('host', `sends it to the ${card.type} network`);
  return trace.allow(`${card.type} network`, `reaches ${card.vmName}; ${DEPENDS}`, trace.arrival(card.vmName));
}

const interfaceOf = (s: KernelHostState, card: ExplainedCard): string => s.networks.find((n) => n.name === card.type)?.interface ?? '';

/** A packet for the card that the host does not route to its network; null: it does. */
function astray(s: KernelHostState, trace: PacketTrace, card: ExplainedCard, way: RouteAnswer): Explanation | null {
  if (way.dev === interfaceOf(s, card)) return null;
  const reason = way.failure === null ? `${failureRule(way)} sends it out of ${way.dev}, not to ${card.vmName}` : failureReason(way, card.vmName);
  return trace.drop(failureRule(way), reason);
}

function fromHostToItself(s: KernelHostState, card: ExplainedCard, trace: PacketTrace, to: number): Explanation {
  const p = trace.packet;
  const listener = listenerAt(s, to, p);
  if (isLoopback(to)) {
    if (listener) return throughListener(s, trace, listener);
    return trace.allow('the host itself', `stays on the host and does not reach ${card.vmName}; ${DEPENDS}`, trace.arrival('host'));
  }
  const match = forwardingAt(s, to, p);
  if (!match) {
    if (listener) return throughListener(s, trace, listener);
    return trace.allow('the host itself', `stays on the host: no rule forwards it to ${card.vmName}; ${DEPENDS}`, trace.arrival('host'));
  }
  translateTo(trace, match);
  const { vmName } = match.card;
  return trace.allow(ruleName(match), `reaches ${vmName} at ${formatEndpoint(trace.destination, trace.port)}; ${DEPENDS}`, trace.arrival(vmName));
}

/** Sent by a machine beyond the host. */
function fromOutside(s: KernelHostState, card: ExplainedCard, trace: PacketTrace): Explanation {
  const p = trace.packet;
  const source = trace.originalSource;
  const to = p.destination;
  if (typeof source === 'number' && (isLoopback(source) || subnetContains(MULTICAST, source)))
    return trace.drop("the host's routing", `${formatAddress(source)} is not a valid source from outside`);
  if (card.type === 'bridge' && hasAddress(card, to)) return outsideToBridged(trace, card);
  if (typeof to !== 'number') return trace.drop('IPv6 stays on its network', `no IPv6 route leads from outside to ${card.vmName}`);
  if (isLoopback(to)) return trace.drop("the host's routing", 'the loopback is not reached from outside');
  if (s.networks.some((n) => subnetContains(n.subnet, to)))
    return trace.drop('isolation from outside', `${formatAddress(to)} is reached from outside only through a forwarding rule`);
  const match = forwardingAt(s, to, p);
  if (!match) {
    const listener = listenerAt(s, to, p);
    if (listener) return throughListener(s, trace, listener);
    return trace.allow('no forwarding rule', `reaches the host itself, not ${card.vmName}: no rule forwards it; ${DEPENDS}`, trace.arrival('host'));
  }
  translateTo(trace, match);
  const uplink = typeof source === 'number' ? s.route({ to: source }).dev : null;
  if (uplink && s.forwardingOff.includes(uplink)) return trace.drop(`forwarding off on ${uplink}`, `the host does not forward packets from ${uplink}`);
  const inward = { to: trace.destination as number, from: source as number, ...(uplink ? { iif: uplink } : {}) };
  const strayed = uplink ? astray(s, trace, match.card, s.route(inward)) : null;
  if (strayed) return strayed;
  const inside = hooked(trace, uplink ?? '', interfaceOf(s, match.card));
  const blockedBy = (inside && blockedOn(s, trace, fromOutsideIn({ destination: to, port: p.port }, inside))) ?? blockedByDefault(s, trace, 'forward');
  if (blockedBy) return blockedBy;
  const { vmName } = match.card;
  return trace.allow(ruleName(match), `reaches ${vmName}, which sees the client's own address; ${DEPENDS}`, trace.arrival(vmName));
}

class SentByKernelCard extends SentByCard<KernelHostState> {
  /** Unless another firewall drops them. */
  protected get hostReceivesGroups(): boolean {
    return this.s.firewalls.every((f) => f.hook !== 'input' || f.allowed);
  }

  /** The guard's set of MAC addresses is one for all networks. */
  protected inAddressDomain(type: ExplainedCard['type']): boolean {
    return type !== 'disconnected';
  }

  protected isDhcp(): boolean {
    return this.p.protocol === 'udp' && this.p.port === DHCP_SERVER_PORT;
  }

  #isDns(): boolean {
    const { protocol, port } = this.p;
    return port === DNS_SERVICE_PORT && (protocol === 'tcp' || protocol === 'udp');
  }

  /** To the port of the network's own server. */
  #dhcpRedirect(): Redirect | null {
    const { type } = this.card;
    return type === 'shared' || type === 'host' ? { port: this.s.redirectPorts.dhcp[type], by: 'raw' } : null;
  }

  protected toDhcp(broadcast: boolean): Explanation {
    const others = broadcast ? this.groupReceivers(this.p.destination).map((c) => this.trace.arrival(c.vmName)) : [];
    const blockedBy = blockedToHost(this.s, this.trace, interfaceOf(this.s, this.card), this.#dhcpRedirect());
    if (blockedBy)
      return others.length === 0 ? blockedBy : this.allow(blockedBy.rule, 'other VMs receive it; another firewall drops it for the host', ...others);
    this.trace.step('host', "the network's DHCP server receives it", 'DHCP');
    const reason = broadcast ? 'the DHCP server answers; other VMs receive it too, and none may answer' : 'the DHCP server answers';
    return this.allow('DHCP', reason, this.trace.arrival('host'), ...others);
  }

  protected toHost(subnet: SubnetLike, to: number): Explanation {
    const { card } = this;
    const shared = this.s.networks.find((n) => n.name === 'shared');
    if (card.type === 'host' && shared && subnetContains(shared.subnet, to))
      return this.drop('host network: not even the other gateway', `${formatAddress(to)} is the host's address on the shared network`);
    if (this.#isDns() && (card.type === 'host' || to === gatewayOf(subnet))) return this.#toDns(gatewayOf(subnet));
    if (this.isDhcp() && to === gatewayOf(subnet)) return this.toDhcp(false);
    if (card.isolated && !this.#isRedirectPort()) {
      return this.drop('--no-local', `${card.vmName} is isolated from the host; only the gateway's DHCP and DNS answer`);
    }
    if (!this.#isRedirectPort()) this.#noteConnectionLimit();
    const blockedBy = blockedToHost(this.s, this.trace, interfaceOf(this.s, this.card));
    if (blockedBy) return blockedBy;
    const filtered = this.#filteredBySource(to);
    if (filtered) return filtered;
    const listener = listenerAt(this.s, to, this.p);
    if (listener) return throughListener(this.s, this.trace, listener);
    const lost = this.#lostAnswers(to);
    const answers = lost || (this.p.protocol === 'icmp' ? 'it answers pings' : DEPENDS);
    return this.allow(`${card.type} network`, `reaches the host at ${formatEndpoint(to, this.p.port)}; ${answers}`, this.trace.arrival('host'));
  }

  /** Dropped as the way back to its source leads elsewhere; null: it passes. */
  #filteredBySource(to: number): Explanation | null {
    const source = this.trace.originalSource;
    if (typeof source !== 'number' || source === 0) return null;
    const way = this.s.route({ to, from: source, iif: interfaceOf(this.s, this.card) });
    return way.failure === 'source' ? this.drop(failureRule(way), failureReason(way, formatAddress(to))) : null;
  }

  /**
   * Why answers do not reach the card; empty if they do. `from`: who answers; `dev`: where the answer enters the host,
   * unless the host itself answers.
   */
  #lostAnswers(from: number, dev?: string): string {
    const to = this.trace.originalSource;
    if (typeof to !== 'number' || to === 0) return '';
    const back = this.s.route({ to, from, ...(dev === undefined ? {} : { iif: dev }) });
    if (back.dev === interfaceOf(this.s, this.card)) return '';
    if (back.failure !== null) return `answers are lost: ${failureReason(back, formatAddress(to))}`;
    return `answers are lost: ${failureRule(back)} sends them out of ${back.dev}`;
  }

  #toDns(gateway: number): Explanation {
    this.trace.destination = gateway;
    this.trace.step('host', "redirected to the network's DNS forwarder", 'DNS redirect');
    const redirect: Redirect = { port: this.s.redirectPorts.dns, by: 'nat' };
    const stopped = blockedToHost(this.s, this.trace, interfaceOf(this.s, this.card), redirect) ?? this.#filteredBySource(gateway);
    if (stopped) return stopped;
    const names =
      this.card.type === 'host' ? 'names of VMs and of the host; other names do not resolve' : "names of VMs; other names go to the host's resolvers";
    const lost = this.#lostAnswers(gateway);
    return this.allow('DNS redirect', lost || `answered by the DNS forwarder: ${names}`, this.trace.arrival('host'));
  }

  /** Whether a further connection of this guest still finds room is a matter of its ports. */
  #noteConnectionLimit(): void {
    if (!this.s.atConnectionLimit.includes(this.card.id)) return;
    this.trace.step('host', `${this.card.vmName} has ${MAX_CONNECTIONS} connections or more: a further one may be refused until some end`, 'connection_limit');
  }

  /** An isolated card may address the services at the ports that they are redirected to. */
  #isRedirectPort(): boolean {
    const { protocol, port } = this.p;
    const { dhcp, dns } = this.s.redirectPorts;
    return port !== null && ((protocol === 'udp' && Object.values(dhcp).includes(port)) || ((protocol === 'tcp' || protocol === 'udp') && port === dns));
  }

  #toHost6(): Explanation {
    if (this.card.type === 'host' && this.#isDns())
      return this.drop('host network: names of outside stay unknown', "the host's resolvers do not answer the host network over IPv6");
    const listener = listenerAt(this.s, this.p.destination, this.p);
    if (listener) return throughListener(this.s, this.trace, listener);
    return this.allow(`${this.card.type} network`, `reaches the host; ${DEPENDS}`, this.trace.arrival('host'));
  }

  protected toGateway6(): Explanation {
    return this.#toHost6();
  }

  protected toGlobal6(to: string): Explanation {
    if (this.s.addresses6.includes(to)) return this.#toHost6();
    return this.drop('IPv6 stays on its network', 'IPv6 is not routed beyond the network; guests use it among themselves and with the host');
  }

  protected toNowhere(_to: number, rule: string, reason: string): Explanation {
    return this.drop(rule, reason);
  }

  protected toOutside(to: number): Explanation {
    const { s, card, trace } = this;
    const foreign = s.networks.some((n) => subnetContains(n.subnet, to));
    if (card.type === 'host') {
      if (foreign) return this.drop('host network: not even the other gateway', 'the shared network is not reached from the host network');
      return this.drop('host network: nothing leaves the host', `${formatAddress(to)} is beyond the host`);
    }
    if (foreign) return this.drop('host network', 'a VM of the shared network reaches the host network only through a forwarding rule');
    const bridge = s.networks.find((n) => n.name === card.type)?.interface ?? '';
    if (s.forwardingOff.includes(bridge)) return this.drop(`forwarding off on ${bridge}`, `the host does not forward packets from ${bridge}`);
    const { protocol, port } = this.p;
    const way = s.route({ to, from: trace.originalSource as number, iif: bridge, protocol, ...(port === null ? {} : { port }) });
    if (way.failure !== null) {
      const error = ICMP_ERRORS[way.failure];
      const reason = failureReason(way, formatAddress(to));
      return error === undefined ? this.drop(failureRule(way), reason) : trace.refuse(failureRule(way), `${reason}, and answers "${error}"`);
    }
    if (isHostBroadcast(s.addresses, to))
      return this.allow("the host's routing", 'a broadcast address of the host: the host receives it and does not forward it', trace.arrival('host'));
    return this.#forward(to, way);
  }

  #forward(to: number, way: RouteAnswer): Explanation {
    const { s, trace } = this;
    const dev = way.dev ?? '';
    trace.step('host', `routed out of ${dev}${byWhat(way)}`, 'shared network: outside is allowed');
    this.#noteConnectionLimit();
    const own = s.addresses.find((a) => a.dev === dev);
    const packet = hooked(trace, interfaceOf(s, this.card), dev);
    const blockedBy = (packet && blockedOn(s, trace, towardsOutside(packet, own?.address ?? null))) ?? blockedByDefault(s, trace, 'forward');
    if (blockedBy) return blockedBy;
    trace.step('host', `the source becomes ${own ? formatIpv4(own.address) : `the host's address on ${dev}`}`, 'masquerade');
    if (own) trace.source = own.address;
    const bridgedVm = s.cards.find((c) => c.type === 'bridge' && hasAddress(c, to));
    const bridged = bridgedVm ? hostToBridged(trace, bridgedVm, dev) : null;
    if (bridged) return bridged;
    const answers = s.forwardingOff.includes(dev) ? `answers are lost, as forwarding is off on ${dev}` : this.#lostAnswers(to, dev) || DEPENDS;
    return this.allow('masquerade', `leaves by ${dev} through NAT; ${answers}`, trace.arrival('outside'));
  }

  protected fromBridge(card: ExplainedCard): Explanation {
    return sentByBridged(this.s, card, this.trace, {
      guard6: (source) => this.guard6(source),
      enterHost: () => fromOutside(this.s, card, this.trace),
    });
  }
}
