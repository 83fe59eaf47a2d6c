/**
 * What the user engine does with a packet (net/explain/packet.ts): its gateway answers for itself, and carries the rest
 * to host sockets, so that the host's own routing decides.
 *
 * Limits: what the host's firewall does to the network process's sockets is not known here, as an ordinary user may not
 * read it.
 */
import { broadcastOf, formatIpv4, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { FromCard } from './card.ts';
import {
  DEPENDS,
  type ExplainedCard,
  type ExplainedRule,
  type Explanation,
  isHosts,
  LOOPBACK,
  MULTICAST,
  type Packet,
  type PacketAddress,
  place,
  routeTo,
  ruleAt,
  ruleName,
  type Surroundings,
  senderOf,
  show,
  Way,
} from './packet.ts';

export interface UserSurroundings extends Surroundings {
  /** The host's address that the gateways stand for; null while it has none. */
  primary: number | null;
  /** The network process may send echoes to outside (`ping_group_range`). */
  mayPing: boolean;
}

/** What happens to a packet of, or for, the card. */
export function explainUser(s: UserSurroundings, card: ExplainedCard, packet: Packet): Explanation {
  const sender = senderOf(s, card, packet);
  if (typeof sender === 'object') return new FromUserCard(s, sender, packet).follow();
  const begin = packet.source as PacketAddress;
  const way = new Way(packet, begin);
  const to = packet.destination;
  if (typeof to !== 'number') return way.drop(begin, 'IPv6 stays on its network', `no IPv6 leads to ${card.vmName}`);
  if (isHosts(s, to) && s.networks.every((n) => !subnetContains(n.subnet, to))) {
    if (sender === 'outside' && (subnetContains(LOOPBACK, to) || typeof begin !== 'number' || subnetContains(LOOPBACK, begin)))
      return way.drop(begin, 'the host’s routing', 'the loopback is not reached from outside');
    const found = ruleAt(s, to, packet, true);
    if (found) return throughListener(s, way, begin, found.card, found.rule);
    const stays = `the host itself, not ${card.vmName}: no rule forwards it`;
    return way.allow(begin, 'no forwarding rule', `reaches ${stays}; ${DEPENDS}`, way.arrival('host'));
  }
  const inside = `the host has no interface on the ${card.type} network`;
  if (sender === 'outside') return way.drop(begin, 'isolation from outside', `${show(to)} is reached only through a forwarding rule: ${inside}`);
  const hint = `${inside}; 'anka ssh ${card.vmName}' and 'anka nc ${card.vmName} PORT' lead in`;
  const route = routeTo(s, to);
  if (!route) return way.refuse(begin, 'the host’s routing', hint);
  return way.drop(begin, 'the host’s routing', `leaves by ${route.dev} and is lost, as ${hint}`);
}

/** The listener of a rule leads it to the guest, who sees the client's own address. */
function throughListener(s: UserSurroundings, way: Way, begin: PacketAddress, card: ExplainedCard, rule: ExplainedRule): Explanation {
  const name = ruleName(card, rule);
  way.step('host', "the rule's listener takes it", name);
  if (card.ip === null) {
    const reason = `${card.vmName} has no address yet`;
    return rule.protocol === 'tcp' ? way.refuse(begin, name, `${reason}: the connection is reset`) : way.drop(begin, name, reason);
  }
  const network = s.networks.find((n) => n.name === card.type);
  if (network && typeof way.source === 'number' && subnetContains(LOOPBACK, way.source)) {
    way.step('gateway', 'a client on the loopback appears as the gateway', name);
    way.source = gatewayOf(network.subnet);
  }
  way.destination = card.ip;
  way.port = rule.guestPort;
  return way.allow(begin, name, `reaches ${card.vmName} at ${place(card.ip, rule.guestPort)}; ${DEPENDS}`, way.arrival(card.vmName));
}

/** Sent by a VM. */
class FromUserCard extends FromCard<UserSurroundings> {
  protected readonly hostHears = false;
  protected readonly isolatedClaims = true;

  protected toDhcp(): Explanation {
    return this.allow('DHCP', 'the DHCP server of the network answers; no other VM hears it', this.way.arrival('gateway'));
  }

  protected toGateway6(): Explanation {
    return this.drop('the gateway speaks IPv4 only', 'nobody on the network has that IPv6 address');
  }

  protected bridged(card: ExplainedCard): Explanation {
    return this.drop('bridge type', `bridge type needs the kernel engine: ${card.vmName} is joined to nothing`);
  }

  protected toHost(subnet: SubnetLike, to: number): Explanation {
    const { protocol, port } = this.p;
    const { card } = this;
    const isOwnGateway = to === gatewayOf(subnet);
    if (!isOwnGateway && this.#foreign(to)) return this.beyond(to);
    if (isOwnGateway && port === 53 && (protocol === 'tcp' || protocol === 'udp')) {
      const names = card.type === 'host' ? 'names of VMs and of the host; others are unknown there' : "names of VMs, and all others by the host's resolvers";
      return this.allow('DNS', `answered by the DNS forwarder: ${names}`, this.way.arrival('gateway'));
    }
    if (isOwnGateway && protocol === 'udp' && port === 67) return this.toDhcp();
    if (protocol === 'other') return this.#noProtocol();
    if (card.isolated) return this.drop('--no-local', `${card.vmName} is parted from the host; only DHCP and DNS of the gateway answer`);
    if (isOwnGateway && protocol === 'icmp') return this.allow(`${card.type} network`, 'the gateway answers pings by itself', this.way.arrival('gateway'));
    const real = isOwnGateway ? this.s.primary : to;
    if (real === null) return this.drop(`${card.type} network`, 'the host has no address but its loopback, and the gateway stands for none');
    if (isOwnGateway) this.way.step('gateway', `stands for the host's own address ${show(real)}`);
    this.way.destination = real;
    this.way.source = real;
    const found = ruleAt(this.s, real, this.p, true);
    if (found) {
      // a listener of this network for every address is reached by the loopback, and so appears as the gateway
      if (found.rule.hostIp === 0 && found.card.type === card.type) this.way.source = LOOPBACK.base + 1;
      return throughListener(this.s, this.way, this.begin, found.card, found.rule);
    }
    if (protocol === 'icmp' && !this.s.mayPing) return this.#noPing();
    const reason = `reaches the host at ${place(real, port)}, as if the host had sent it; ${protocol === 'icmp' ? 'it answers pings' : DEPENDS}`;
    return this.allow(`${card.type} network`, reason, this.way.arrival('host'));
  }

  /** An address of another network of ours. */
  #foreign(to: number): boolean {
    return this.s.networks.some((n) => n.name !== this.card.type && subnetContains(n.subnet, to));
  }

  #noProtocol(): Explanation {
    return this.way.refuse(this.begin, 'TCP, UDP and echo only', 'the gateway carries nothing else to outside, and says that the protocol cannot be reached');
  }

  #noPing(): Explanation {
    return this.drop('net.ipv4.ping_group_range', 'the host gives an ordinary user no right to send echoes');
  }

  protected beyond(to: number): Explanation {
    const { s, card, way } = this;
    const { protocol } = this.p;
    if (protocol === 'other') return this.#noProtocol();
    if (this.#foreign(to)) return this.drop(`${card.type} network`, 'our other network is reached only through a forwarding rule');
    if (card.type === 'host') return this.drop('host network: nothing leaves the host', `${show(to)} is beyond the host`);
    if (to >= MULTICAST.base) return this.drop('the gateway', `${show(to)} is no address of one machine`);
    if (protocol === 'icmp' && !s.mayPing) return this.#noPing();
    const route = routeTo(s, to);
    if (!route) return way.refuse(this.begin, 'the host’s routing', `the host has no route to ${show(to)}: the guest is told`);
    if (s.addresses.some((a) => a.prefix < 31 && broadcastOf({ base: a.address, prefix: a.prefix }) === to))
      return way.refuse(this.begin, 'the host’s sockets', `${show(to)} is a broadcast address of a network of the host: only one machine can be spoken to`);
    const own = s.addresses.find((a) => a.dev === route.dev)?.address ?? s.primary;
    way.step('gateway', `a socket of the host carries it, from ${own === null ? `the host's address on ${route.dev}` : formatIpv4(own)}`, 'host socket');
    if (own !== null) way.source = own;
    return this.allow('host socket', `leaves by ${route.dev}; ${DEPENDS}`, way.arrival('outside'));
  }
}
