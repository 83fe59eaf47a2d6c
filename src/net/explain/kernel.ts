/**
 * What the kernel engine and its host do with a packet (net/explain/packet.ts): forwarding rules, routing, isolation,
 * masquerade, other firewalls, bridges. Limits: another firewall counts by its policy, not by its single rules.
 */
import { broadcastOf, formatIpv4, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { arriveAtBridged, fromBridged, hostToBridged } from './bridge.ts';
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

export interface KernelSurroundings extends Surroundings {
  networks: readonly (Surroundings['networks'][number] & { interface: string })[];
  /** Interfaces on which IPv4 forwarding is off. */
  forwardingOff: readonly string[];
  /** Chains of others that drop by policy. `allowed`: our accept is in it. */
  firewalls: readonly { name: string; hook: 'forward' | 'input'; allowed: boolean }[];
}

/** What happens to a packet of, or for, the card. */
export function explainKernel(s: KernelSurroundings, card: ExplainedCard, packet: Packet): Explanation {
  const sender = senderOf(s, card, packet);
  if (typeof sender === 'object') return new FromKernelCard(s, sender, packet).follow();
  const begin = packet.source as PacketAddress;
  const way = new Way(packet, begin);
  return sender === 'host' ? fromHost(s, card, way, begin) : fromOutside(s, card, way, begin);
}

const blocking = (s: KernelSurroundings, hook: 'forward' | 'input') => s.firewalls.find((f) => f.hook === hook && !f.allowed) ?? null;

/** The listener of a rule carries it on, by a connection of the host's own. */
function throughListener(s: KernelSurroundings, way: Way, begin: PacketAddress, card: ExplainedCard, rule: ExplainedRule): Explanation {
  const name = ruleName(card, rule);
  if (card.ip === null) {
    const reason = `${card.vmName} has no address yet`;
    way.step('host', "the rule's listener takes it", name);
    return rule.protocol === 'tcp' ? way.refuse(begin, name, `${reason}: the connection is reset`) : way.drop(begin, name, reason);
  }
  const network = s.networks.find((n) => n.name === card.type);
  way.step('host', `the rule's listener carries it on to ${card.vmName}, from the gateway's address`, name);
  if (network) way.source = gatewayOf(network.subnet);
  way.destination = card.ip;
  way.port = rule.guestPort;
  return way.allow(begin, name, `reaches ${card.vmName} at ${place(card.ip, rule.guestPort)}; ${DEPENDS}`, way.arrival(card.vmName));
}

function translateTo(way: Way, card: ExplainedCard, rule: ExplainedRule): void {
  way.step('host', `the destination becomes ${place(card.ip as number, rule.guestPort)}`, ruleName(card, rule));
  way.destination = card.ip as number;
  way.port = rule.guestPort;
}

/** Sent by the host itself. */
function fromHost(s: KernelSurroundings, card: ExplainedCard, way: Way, begin: PacketAddress): Explanation {
  const p = way.packet;
  const to = p.destination;
  if (isHosts(s, to)) {
    if (subnetContains(LOOPBACK, to)) {
      const listener = ruleAt(s, to, p, true);
      if (listener) return throughListener(s, way, begin, listener.card, listener.rule);
      return way.allow(begin, 'the host itself', `stays on the host, and does not reach ${card.vmName}; ${DEPENDS}`, way.arrival('host'));
    }
    const found = ruleAt(s, to, p);
    if (!found) {
      const waiting = ruleAt(s, to, p, true);
      if (waiting) return throughListener(s, way, begin, waiting.card, waiting.rule);
      return way.allow(begin, 'the host itself', `stays on the host: no rule forwards it to ${card.vmName}; ${DEPENDS}`, way.arrival('host'));
    }
    translateTo(way, found.card, found.rule);
    const name = ruleName(found.card, found.rule);
    return way.allow(begin, name, `reaches ${found.card.vmName} at ${place(way.destination, way.port)}; ${DEPENDS}`, way.arrival(found.card.vmName));
  }
  const bridged = card.type === 'bridge' && typeof to === 'number' ? hostToBridged(way, begin, card, routeTo(s, to)?.dev ?? null) : null;
  if (bridged) return bridged;
  if (card.type === 'bridge') return way.allow(begin, 'the host’s routing', 'leaves the host; what is beyond decides', way.arrival('outside'));
  if (card.isolated) {
    const served = (p.protocol === 'udp' && p.port === 68) || card.rules.some((r) => r.protocol === p.protocol && r.guestPort === p.port);
    if (!served) return way.drop(begin, '--no-local', `${card.vmName} is parted from the host`);
  }
  way.step('host', `sends it into the ${card.type} network`);
  return way.allow(begin, `${card.type} network`, `reaches ${card.vmName}; ${DEPENDS}`, way.arrival(card.vmName));
}

/** Sent by a machine beyond the host. */
function fromOutside(s: KernelSurroundings, card: ExplainedCard, way: Way, begin: PacketAddress): Explanation {
  const p = way.packet;
  const to = p.destination;
  if (typeof begin === 'number' && (subnetContains(LOOPBACK, begin) || subnetContains(MULTICAST, begin)))
    return way.drop(begin, 'the host’s routing', `${show(begin)} is no source that can come from outside`);
  if (card.type === 'bridge' && to === card.ip) return arriveAtBridged(way, begin, card);
  if (typeof to !== 'number') return way.drop(begin, 'IPv6 stays on its network', `no IPv6 leads from outside to ${card.vmName}`);
  if (subnetContains(LOOPBACK, to)) return way.drop(begin, 'the host’s routing', 'the loopback is not reached from outside');
  if (s.networks.some((n) => subnetContains(n.subnet, to)))
    return way.drop(begin, 'isolation from outside', `${show(to)} is reached from outside only through a forwarding rule`);
  const found = ruleAt(s, to, p);
  if (!found) {
    const waiting = ruleAt(s, to, p, true);
    if (waiting) return throughListener(s, way, begin, waiting.card, waiting.rule);
    return way.allow(begin, 'no forwarding rule', `reaches the host itself, not ${card.vmName}: no rule forwards it; ${DEPENDS}`, way.arrival('host'));
  }
  translateTo(way, found.card, found.rule);
  const uplink = typeof begin === 'number' ? routeTo(s, begin) : null;
  if (uplink && s.forwardingOff.includes(uplink.dev))
    return way.drop(begin, `forwarding off on ${uplink.dev}`, 'the host does not forward what comes in there');
  const wall = blocking(s, 'forward');
  if (wall) return way.drop(begin, wall.name, 'another firewall drops what it does not know, and our accept is not in it');
  const name = ruleName(found.card, found.rule);
  return way.allow(begin, name, `reaches ${found.card.vmName}, which sees the client's own address; ${DEPENDS}`, way.arrival(found.card.vmName));
}

/** Sent by a VM. */
class FromKernelCard extends FromCard<KernelSurroundings> {
  protected readonly hostHears = true;
  protected readonly isolatedClaims = false;

  protected toDhcp(all: boolean): Explanation {
    const wall = all ? null : blocking(this.s, 'input');
    if (wall) return this.drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
    this.way.step('host', 'the DHCP server of the network takes it', 'DHCP');
    const others = all ? this.hearers(this.p.destination).map((c) => this.way.arrival(c.vmName)) : [];
    const reason = all ? 'the DHCP server answers; other VMs hear it too, and none may answer' : 'the DHCP server answers';
    return this.allow('DHCP', reason, this.way.arrival('host'), ...others);
  }

  protected toHost(subnet: SubnetLike, to: number): Explanation {
    const { protocol, port } = this.p;
    const card = this.card;
    const shared = this.s.networks.find((n) => n.name === 'shared');
    if (card.type === 'host' && shared && subnetContains(shared.subnet, to))
      return this.drop('host network: not even the other gateway', `${show(to)} is the host's address on the shared network`);
    const dns = port === 53 && (protocol === 'tcp' || protocol === 'udp') && (card.type === 'host' || to === gatewayOf(subnet));
    const dhcp = protocol === 'udp' && port === 67;
    if (dns) {
      this.way.step('host', 'handed to the DNS forwarder of the network', 'DNS redirect');
      const wall = blocking(this.s, 'input');
      if (wall) return this.drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
      const names = card.type === 'host' ? 'names of VMs and of the host; others are unknown there' : "names of VMs, and all others by the host's resolvers";
      return this.allow('DNS redirect', `answered by the DNS forwarder: ${names}`, this.way.arrival('host'));
    }
    if (card.isolated && !dhcp) return this.drop('--no-local', `${card.vmName} is parted from the host; only DHCP and DNS of the gateway answer`);
    if (dhcp) return this.toDhcp(false);
    const wall = blocking(this.s, 'input');
    if (wall) return this.drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
    const found = ruleAt(this.s, to, this.p, true);
    if (found) return throughListener(this.s, this.way, this.begin, found.card, found.rule);
    const reason = `reaches the host at ${place(to, port)}; ${protocol === 'icmp' ? 'it answers pings' : DEPENDS}`;
    return this.allow(`${card.type} network`, reason, this.way.arrival('host'));
  }

  protected toGateway6(): Explanation {
    const { protocol, port } = this.p;
    if (this.card.type === 'host' && port === 53 && (protocol === 'tcp' || protocol === 'udp'))
      return this.drop('host network: names of outside stay unknown', 'no resolver of the host answers there by IPv6');
    return this.allow(`${this.card.type} network`, `reaches the host; ${DEPENDS}`, this.way.arrival('host'));
  }

  protected beyond(to: number): Explanation {
    const s = this.s;
    const card = this.card;
    const foreign = s.networks.find((n) => subnetContains(n.subnet, to));
    if (card.type === 'host') {
      if (foreign) return this.drop('host network: not even the other gateway', 'the shared network is not reached from the host network');
      return this.drop('host network: nothing leaves the host', `${show(to)} is beyond the host`);
    }
    if (foreign) return this.drop('host network', 'nothing of the shared network reaches a VM of the host network, but through a forwarding rule');
    const bridge = s.networks.find((n) => n.name === card.type)?.interface ?? '';
    if (s.forwardingOff.includes(bridge)) return this.drop(`forwarding off on ${bridge}`, 'the host does not forward what comes in there');
    const route = routeTo(s, to);
    if (!route) return this.way.refuse(this.begin, 'the host’s routing', `the host has no route to ${show(to)}: it answers that the network cannot be reached`);
    const own = s.addresses.find((a) => a.dev === route.dev);
    if (s.addresses.some((a) => a.prefix < 31 && broadcastOf({ base: a.address, prefix: a.prefix }) === to))
      return this.allow('the host’s routing', 'a broadcast address of the host: it is heard by the host, and not sent out', this.way.arrival('host'));
    this.way.step('host', `routed by ${route.dev}`, 'shared network: outside is allowed');
    const wall = blocking(s, 'forward');
    if (wall) return this.drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
    this.way.step('host', `the source becomes ${own ? formatIpv4(own.address) : `the host's address on ${route.dev}`}`, 'masquerade');
    if (own) this.way.source = own.address;
    const there = s.cards.find((c) => c.type === 'bridge' && c.ip === to);
    const bridged = there ? hostToBridged(this.way, this.begin, there, route.dev) : null;
    if (bridged) return bridged;
    const back = s.forwardingOff.includes(route.dev) ? `; its answers are lost, as forwarding is off on ${route.dev}` : `; ${DEPENDS}`;
    return this.allow('masquerade', `leaves by ${route.dev} through NAT${back}`, this.way.arrival('outside'));
  }

  protected bridged(card: ExplainedCard): Explanation {
    return fromBridged(this.s, card, this.way, this.begin, () => fromOutside(this.s, card, this.way, this.begin));
  }
}
