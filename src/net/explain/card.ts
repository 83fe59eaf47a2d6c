/**
 * A packet that a VM sends, as far as both engines do the same with it (net/explain/packet.ts): cable, guard, its
 * neighbours on the network. What is the engine's own is left to the classes that extend this one.
 */
import { broadcastOf, formatSubnet, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { isLinkLocal6, isMulticast6, linkLocalOf } from '../../wire/address6.ts';
import {
  type Arrival,
  DEPENDS,
  EVERYBODY,
  type ExplainedCard,
  type Explanation,
  isHosts,
  LOOPBACK,
  MULTICAST,
  type Packet,
  type PacketAddress,
  type Surroundings,
  show,
  Way,
  ZERO_NET,
} from './packet.ts';

export abstract class FromCard<S extends Surroundings> {
  protected readonly s: S;
  protected readonly card: ExplainedCard;
  protected readonly p: Packet;
  protected readonly way: Way;
  protected readonly begin: PacketAddress;

  constructor(s: S, card: ExplainedCard, p: Packet) {
    this.s = s;
    this.card = card;
    this.p = p;
    this.begin = p.source ?? (typeof p.destination === 'string' ? linkLocalOf(card.outsideMac) : (card.ip ?? 0));
    this.way = new Way(p, this.begin);
  }

  protected drop(rule: string, reason: string): Explanation {
    return this.way.drop(this.begin, rule, reason);
  }

  protected allow(rule: string, reason: string, ...arrives: Arrival[]): Explanation {
    return this.way.allow(this.begin, rule, reason, ...arrives);
  }

  follow(): Explanation {
    const card = this.card;
    const to = this.p.destination;
    if (card.type === 'disconnected') return this.drop('disconnected', `the cable of ${card.vmName} is out`);
    if (card.type === 'bridge') return this.bridged(card);
    if (typeof to === 'string' || typeof this.begin === 'string') return this.#ipv6(String(to));
    const network = this.s.networks.find((n) => n.name === card.type);
    if (!network) return this.drop(`${card.type} network`, 'the network is not there');
    if (to === card.ip && this.begin === card.ip) return this.allow('the guest itself', 'never leaves the guest', this.way.arrival(card.vmName));
    const stopped = this.#guard(network.subnet);
    if (stopped) return stopped;
    if (subnetContains(LOOPBACK, to))
      return this.drop("the host's loopback is its own", 'a guest keeps it to itself; what is sent out nevertheless is dropped by the host');
    if (to === EVERYBODY || to === broadcastOf(network.subnet) || subnetContains(MULTICAST, to)) return this.#toMany(to);
    if (subnetContains(ZERO_NET, to)) return this.drop('the host’s routing', `${show(to)} is nobody's address`);
    if (isHosts(this.s, to)) return this.toHost(network.subnet, to);
    if (subnetContains(network.subnet, to)) return this.#toNeighbour(to);
    return this.beyond(to);
  }

  /** The guard (B91): a card speaks with its own address. */
  #guard(subnet: SubnetLike): Explanation | null {
    const source = this.begin as number;
    const { protocol, sourcePort, port } = this.p;
    const name = this.card.vmName;
    const asks = protocol === 'udp' && port === 67;
    if (protocol === 'udp' && sourcePort === 67 && port === 68) return this.drop('guard: rogue_dhcp', `${name} is no DHCP server`);
    if (source === 0 && asks) this.way.step('guard', 'a guest without an address may ask for one', 'DHCP');
    else if (source === 0) return this.drop('guard: ip_spoof', `${name} has no address yet, and may only ask for one by DHCP`);
    else if (source === this.card.ip || source === this.card.reservedIp) this.way.step('guard', `${show(source)} is the address of ${name}`, 'guard: address');
    else {
      const owner = this.#ownerOf(source);
      if (owner) return this.drop('guard: ip_spoof', `${show(source)} belongs to ${owner}, not to ${name}`);
      if (!subnetContains(subnet, source)) return this.drop('guard: ip_spoof', `${show(source)} is outside the network ${formatSubnet(subnet)} of ${name}`);
      if (this.card.isolated && !this.isolatedClaims)
        return this.drop('guard: isolated', `${name} is parted (--no-local), and may not take an address by itself`);
      this.way.step('guard', `${show(source)} is nobody's: ${name} may take it by claiming it with ARP`, 'guard: claim');
    }
    return null;
  }

  #ownerOf(address: number): string | null {
    const card = this.s.cards.find(
      (c) => c.id !== this.card.id && c.type !== 'bridge' && c.type !== 'disconnected' && (c.ip === address || c.reservedIp === address),
    );
    if (card) return card.vmName;
    const n = this.s.networks.find((x) => address === x.subnet.base || address === gatewayOf(x.subnet) || address === broadcastOf(x.subnet));
    return n ? (address === gatewayOf(n.subnet) ? 'the gateway' : `the ${n.name} network as a whole`) : null;
  }

  /**
   * Guests that hear what this one says to many. One without an address knows no broadcast address of its network, and
   * joins no group.
   */
  protected hearers(to: PacketAddress): ExplainedCard[] {
    return this.s.cards.filter(
      (c) =>
        c.id !== this.card.id &&
        c.type === this.card.type &&
        (c.ip !== null || to === EVERYBODY || typeof to === 'string') &&
        !c.isolated &&
        !this.card.isolated,
    );
  }

  #toNeighbour(to: number): Explanation {
    const other = this.s.cards.find((c) => c.ip === to && c.type === this.card.type);
    if (!other) return this.drop('nobody has the address', `no VM on the ${this.card.type} network has ${show(to)}: ARP is not answered`);
    const parted = [this.card, other].find((c) => c.isolated);
    if (parted) return this.drop('guard: isolated', `${parted.vmName} is parted from other VMs (--no-local)`);
    this.way.step('bridge', `from card to card on the ${this.card.type} network`);
    return this.allow(`${this.card.type} network`, `reaches ${other.vmName}; ${DEPENDS}`, this.way.arrival(other.vmName));
  }

  #ipv6(to: string): Explanation {
    const card = this.card;
    const network = this.s.networks.find((n) => n.name === card.type);
    if (this.s.networks.some((n) => linkLocalOf(n.gatewayMac) === this.begin)) return this.drop('guard: ip_spoof', `${this.begin} is the gateway's`);
    if (this.p.protocol === 'udp' && this.p.sourcePort === 547 && this.p.port === 546)
      return this.drop('guard: rogue_dhcp', `${card.vmName} is no DHCP server`);
    if (isMulticast6(to)) {
      if (card.isolated) return this.drop('guard: isolated', `${card.vmName} is parted from other VMs and the host`);
      return this.#heard(to);
    }
    if (!isLinkLocal6(to)) return this.drop('IPv6 stays on its network', 'there is no IPv6 way out: guests speak it with each other on their network');
    if (card.isolated) return this.drop('guard: isolated', `${card.vmName} is parted from other VMs and the host`);
    const other = this.s.cards.find((c) => c.type === card.type && linkLocalOf(c.outsideMac) === to);
    if (other?.isolated) return this.drop('guard: isolated', `${other.vmName} is parted from other VMs (--no-local)`);
    if (other) return this.allow(`${card.type} network`, `reaches ${other.vmName}; ${DEPENDS}`, this.way.arrival(other.vmName));
    if (network && linkLocalOf(network.gatewayMac) === to) return this.toGateway6();
    return this.allow(`${card.type} network`, `reaches whoever has ${to} on the network`);
  }

  #toMany(to: number): Explanation {
    const { protocol, port } = this.p;
    if (!subnetContains(MULTICAST, to) && protocol === 'udp' && port === 67) return this.toDhcp(true);
    if (this.card.isolated) return this.drop('--no-local', `${this.card.vmName} is parted from other VMs and from the host`);
    return this.#heard(to);
  }

  /** What is said to many. */
  #heard(to: PacketAddress): Explanation {
    const arrivals = this.hearers(to).map((c) => this.way.arrival(c.vmName));
    if (this.hostHears) arrivals.push(this.way.arrival('host'));
    const heard = arrivals.map((a) => (a.at === 'host' ? 'the host' : a.at)).join(', ') || 'nobody now';
    const group = typeof to === 'string' ? isMulticast6(to) : subnetContains(MULTICAST, to);
    const reason = group
      ? `stays on the ${this.card.type} network: heard there by ${heard}, where the group is listened to; it is not routed`
      : `heard on the ${this.card.type} network by ${heard}; it does not leave it`;
    return this.allow(`${this.card.type} network`, reason, ...arrivals);
  }

  /** A parted card may take an address by itself. */
  protected abstract readonly isolatedClaims: boolean;
  /** The host is a station of the network, and hears what is said to all. */
  protected abstract readonly hostHears: boolean;
  /** The DHCP server is asked. `all`: by a frame to everybody. */
  protected abstract toDhcp(all: boolean): Explanation;
  /** To an address of the host, or of a gateway. */
  protected abstract toHost(subnet: SubnetLike, to: number): Explanation;
  /** To the gateway's own IPv6 address. */
  protected abstract toGateway6(): Explanation;
  /** To an address that is neither the host's nor of this network. */
  protected abstract beyond(to: number): Explanation;
  protected abstract bridged(card: ExplainedCard): Explanation;
}
