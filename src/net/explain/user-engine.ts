/**
 * What the user engine does with a packet (explanation.ts): its gateway answers for itself, and sends the rest from
 * sockets of the host, so that the host's own routing decides.
 *
 * Limits: the host's firewall, which an ordinary user may not read, is not known.
 */
import { formatIpv4, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { HOST_ON_LOOPBACK, isGroupOrReserved, isLoopback, LOOPBACK } from '../policy/addresses.ts';
import { isForAnyAddress } from '../policy/forwarding.ts';
import { answersDns, type GatewayNetwork, gatewayReach, type Reach } from '../policy/gateway-reach.ts';
import { isDhcpRequest } from '../policy/services.ts';
import { DEPENDS, type Explanation, PacketTrace } from './explanation.ts';
import { filterReceived } from './filtered.ts';
import {
  type ExplainedCard,
  type HostState,
  isHostAddress,
  isHostBroadcast,
  LOOPBACK6,
  listener6At,
  listenerAt,
  type MatchedRule,
  ruleName,
  senderOf,
} from './host-state.ts';
import { formatAddress, formatEndpoint, type Packet, type PacketAddress, sourcePortOf } from './packet.ts';
import { byWhat, failureReason, failureRule, ICMP_ERRORS } from './routing.ts';
import { SentByCard } from './sent-by-card.ts';

export interface UserHostState extends HostState {
  /** The host's address that the gateways stand for; null while it has none. */
  primary: number | null;
  /** The network process may send echo requests to outside (`ping_group_range`). */
  mayPing: boolean;
}

/** What happens to a packet of, or for, the card. */
export function explainUser(s: UserHostState, card: ExplainedCard, packet: Packet): Explanation {
  return filterReceived(s, packet, unfiltered(s, card, packet));
}

function unfiltered(s: UserHostState, card: ExplainedCard, packet: Packet): Explanation {
  const sender = senderOf(s, card, packet);
  if (typeof sender === 'object') return new SentByUserCard(s, sender, packet).explain();
  const source = packet.source as PacketAddress;
  const trace = new PacketTrace(packet, source);
  const to = packet.destination;
  const listener6 = listener6At(s, card, packet);
  if (listener6) {
    if (sender === 'outside' && to === LOOPBACK6) return trace.drop("the host's routing", 'the loopback is not reached from outside');
    return throughListener(s, trace, listener6);
  }
  if (typeof to !== 'number') return trace.drop('IPv6 stays on its network', `no IPv6 route leads to ${card.vmName}`);
  if (isHostAddress(s, to) && s.networks.every((n) => gatewayOf(n.subnet) !== to)) {
    if (sender === 'outside' && (isLoopback(to) || typeof source !== 'number' || isLoopback(source)))
      return trace.drop("the host's routing", 'the loopback is not reached from outside');
    const listener = listenerAt(s, to, packet);
    if (listener) return throughListener(s, trace, listener);
    return trace.allow('no forwarding rule', `reaches the host itself, not ${card.vmName}: no rule forwards it; ${DEPENDS}`, trace.arrival('host'));
  }
  const noInterface = `the host has no interface on the ${card.type} network`;
  if (sender === 'outside')
    return trace.drop('isolation from outside', `${formatAddress(to)} is reached from outside only through a forwarding rule: ${noInterface}`);
  const hint = `${noInterface}; use 'anka ssh ${card.vmName}' or 'anka nc ${card.vmName} PORT'`;
  const way = s.route({ to });
  if (way.failure !== null) return trace.refuse(failureRule(way), hint);
  return trace.drop("the host's routing", `leaves by ${way.dev} and is lost: ${hint}`);
}

/** A rule's listener forwards the packet to the guest, which sees the client's own address. */
function throughListener(s: UserHostState, trace: PacketTrace, match: MatchedRule): Explanation {
  const { card, rule } = match;
  const name = ruleName(match);
  trace.step('host', "the rule's listener accepts it", name);
  if (card.ip === null) {
    const reason = `${card.vmName} has no address yet`;
    return rule.protocol === 'tcp' ? trace.refuse(name, `${reason}: the connection is reset`) : trace.drop(name, reason);
  }
  const network = s.networks.find((n) => n.name === card.type);
  if (network && (typeof trace.source === 'string' || isLoopback(trace.source))) {
    trace.step('gateway', `a client ${typeof trace.source === 'string' ? 'by IPv6' : 'on the loopback'} appears as the gateway`, name);
    trace.source = gatewayOf(network.subnet);
  }
  trace.destination = card.ip;
  trace.port = rule.guestPort;
  return trace.allow(name, `reaches ${card.vmName} at ${formatEndpoint(card.ip, rule.guestPort)}; ${DEPENDS}`, trace.arrival(card.vmName));
}

class SentByUserCard extends SentByCard<UserHostState> {
  protected readonly hostReceivesGroups = false;

  /** Each network is a process with a guard of its own. */
  protected inAddressDomain(type: ExplainedCard['type']): boolean {
    return type === this.card.type;
  }

  protected isDhcp(): boolean {
    return this.p.protocol === 'udp' && isDhcpRequest(sourcePortOf(this.p), this.p.port ?? -1);
  }

  protected toDhcp(): Explanation {
    return this.allow('DHCP', "the network's DHCP server answers; no other VM receives it", this.trace.arrival('gateway'));
  }

  protected toGateway6(): Explanation {
    return this.drop('the gateway is IPv4 only', 'nobody on the network has that IPv6 address');
  }

  protected toGlobal6(): Explanation {
    return this.drop('IPv6 stays on its network', 'IPv6 is not routed beyond the network; guests use it among themselves');
  }

  protected fromBridge(card: ExplainedCard): Explanation {
    return this.drop('bridge type', `type bridge needs the kernel engine: ${card.vmName} is attached to nothing`);
  }

  protected toNowhere(_to: number, rule: string, reason: string): Explanation {
    return this.p.protocol === 'other' ? this.#protocolUnreachable() : this.drop(rule, reason);
  }

  /** The card's network, as its process knows it. */
  #from(): GatewayNetwork {
    const { networks, metadata } = this.s;
    const network = networks.find((n) => n.name === this.card.type) as HostState['networks'][number];
    return { network, metadata, otherSubnets: networks.filter((n) => n !== network).map((n) => n.subnet) };
  }

  #isHosts(to: number): boolean {
    return this.s.addresses.some((a) => a.address === to) && this.s.networks.every((n) => gatewayOf(n.subnet) !== to);
  }

  #reach(to: number): Reach {
    return gatewayReach(this.#from(), this.card.isolated, to, this.#isHosts(to));
  }

  protected toHost(subnet: SubnetLike, to: number): Explanation {
    const { protocol, port } = this.p;
    const { card } = this;
    if ((protocol === 'tcp' || protocol === 'udp') && answersDns(this.#from(), to, this.#isHosts(to), port ?? 0)) return this.#toDns();
    if (to === gatewayOf(subnet) && this.isDhcp()) return this.toDhcp();
    if (protocol === 'other') return this.#protocolUnreachable();
    const reach = this.#reach(to);
    if (reach === 'isolated') return this.drop('--no-local', `${card.vmName} is isolated from the host; only the gateway's DHCP and DNS answer`);
    if (reach === 'prohibited') return this.toOutside(to);
    if (reach === 'gateway' && protocol === 'icmp')
      return this.allow(`${card.type} network`, 'the gateway answers pings itself', this.trace.arrival('gateway'));
    return this.#toRealAddress(to, reach === 'gateway');
  }

  #toDns(): Explanation {
    const names =
      this.card.type === 'host' ? 'names of VMs and of the host; other names do not resolve' : "names of VMs; other names go to the host's resolvers";
    return this.allow('DNS', `answered by the DNS forwarder: ${names}`, this.trace.arrival('gateway'));
  }

  /** The gateway's address stands for the host's primary one. */
  #toRealAddress(to: number, isGateway: boolean): Explanation {
    const { s, card, trace } = this;
    const { protocol, port } = this.p;
    const real = isGateway ? s.primary : to;
    const listener = listenerAt(s, real ?? to, this.p);
    if (isGateway && real !== null) {
      const why = real === HOST_ON_LOOPBACK ? ': the host has only its loopback, and what listens on 127.0.0.1 is not reached' : '';
      trace.step('gateway', `stands for the host's own address ${formatAddress(real)}${why}`);
    }
    // a listener of this network for every address is reached by the loopback, and so appears as the gateway
    if (listener && isForAnyAddress(listener.rule) && listener.card.type === card.type) {
      trace.source = LOOPBACK.base + 1;
      return throughListener(s, trace, listener);
    }
    if (real === null) {
      const reason = 'the host has no address but its loopback: the gateway has none to stand for';
      return protocol === 'tcp' ? trace.refuse(`${card.type} network`, `${reason}, and resets the connection`) : this.drop(`${card.type} network`, reason);
    }
    trace.destination = real;
    trace.source = real;
    if (listener) return throughListener(s, trace, listener);
    if (protocol === 'icmp' && !s.mayPing) return this.#noPingRight();
    const reason = `reaches the host at ${formatEndpoint(real, port)}, as if the host had sent it; ${protocol === 'icmp' ? 'it answers pings' : DEPENDS}`;
    return this.allow(`${card.type} network`, reason, trace.arrival('host'));
  }

  #protocolUnreachable(): Explanation {
    return this.trace.refuse('TCP, UDP and echo only', 'the gateway forwards no other protocol and answers "protocol unreachable"');
  }

  #noPingRight(): Explanation {
    return this.drop('net.ipv4.ping_group_range', 'the host does not let an ordinary user send echo requests');
  }

  protected toOutside(to: number): Explanation {
    const { s, card, trace } = this;
    if (isGroupOrReserved(to)) return this.drop('the gateway', `${formatAddress(to)} is not the address of one machine`);
    if (this.p.protocol === 'other') return this.#protocolUnreachable();
    if (this.#reach(to) === 'prohibited') {
      if (s.networks.some((n) => n.name !== card.type && subnetContains(n.subnet, to)))
        return this.drop(`${card.type} network`, 'the other network is reached only through a forwarding rule');
      if (card.type === 'host') return this.drop('host network: nothing leaves the host', `${formatAddress(to)} is beyond the host`);
      return this.drop(`${card.type} network`, `${formatAddress(to)} is not reached through the gateway`);
    }
    if (this.p.protocol === 'icmp' && !s.mayPing) return this.#noPingRight();
    const way = s.route({ to, protocol: this.p.protocol, ...(this.p.port === null ? {} : { port: this.p.port }) });
    if (way.failure !== null) {
      const reason = failureReason(way, formatAddress(to));
      // a TCP socket cannot be connected, whatever the reason
      const error = ICMP_ERRORS[way.failure] ?? (this.p.protocol === 'tcp' ? ICMP_ERRORS.unreachable : undefined);
      return error === undefined
        ? this.drop(failureRule(way), reason)
        : trace.refuse(failureRule(way), `${reason}; the guest receives an ICMP error, "${error}"`);
    }
    if (isHostBroadcast(s.addresses, to))
      return trace.refuse("the host's sockets", `${formatAddress(to)} is a broadcast address of the host: sockets send to single machines only`);
    const own = way.source ?? s.addresses.find((a) => a.dev === way.dev)?.address ?? s.primary;
    trace.step('gateway', `a socket of the host sends it, from ${own === null ? `the host's address on ${way.dev}` : formatIpv4(own)}`, 'host socket');
    if (own !== null) trace.source = own;
    return this.allow('host socket', `leaves by ${way.dev}${byWhat(way)}; ${DEPENDS}`, trace.arrival('outside'));
  }
}
