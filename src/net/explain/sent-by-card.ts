/**
 * A packet that a VM sends, as far as both engines treat it alike (explanation.ts): link, guard, other VMs of the
 * network. Subclasses add what one engine does.
 */
import { broadcastOf, formatSubnet, gatewayOf, type SubnetLike, subnetContains } from '../../wire/address.ts';
import { isLinkLocal6, isMulticast6, linkLocalOf, wordsOfIpv6 } from '../../wire/address6.ts';
import { canClaim, isLoopback, LIMITED_BROADCAST, MULTICAST, networkAddresses, THIS_NETWORK } from '../policy/addresses.ts';
import { eui64MacOf, isForbiddenSource6 } from '../policy/addresses6.ts';
import { areIsolated } from '../policy/isolation.ts';
import { isLinkLocal, isMetadata, isMetadata6 } from '../policy/metadata.ts';
import { isDhcp6Reply, isDhcpReply, isDhcpRequest } from '../policy/services.ts';
import { type Arrival, DEPENDS, type Explanation, metadataReason, PacketTrace } from './explanation.ts';
import { filterSent, ITSELF } from './filtered.ts';
import { type ExplainedCard, type HostState, hasAddress, isHostAddress } from './host-state.ts';
import { formatAddress, type Packet, type PacketAddress, sourcePortOf } from './packet.ts';

export abstract class SentByCard<S extends HostState> {
  protected readonly s: S;
  protected readonly card: ExplainedCard;
  protected readonly p: Packet;
  protected readonly trace: PacketTrace;

  constructor(s: S, card: ExplainedCard, p: Packet) {
    this.s = s;
    this.card = card;
    this.p = p;
    this.trace = new PacketTrace(p, p.source ?? (typeof p.destination === 'string' ? linkLocalOf(card.outsideMac) : (card.ip ?? 0)));
  }

  protected drop(rule: string, reason: string): Explanation {
    return this.trace.drop(rule, reason);
  }

  protected allow(rule: string, reason: string, ...arrives: Arrival[]): Explanation {
    return this.trace.allow(rule, reason, ...arrives);
  }

  explain(): Explanation {
    const { card } = this;
    const source = this.trace.originalSource;
    const to = this.p.destination;
    if (card.type === 'disconnected') return this.drop('disconnected', `${card.vmName} is unplugged`);
    if (card.type === 'bridge') return this.fromBridge(card);
    const network = this.s.networks.find((n) => n.name === card.type);
    if (!network) return this.drop(`${card.type} network`, `the ${card.type} network does not exist`);
    if (typeof to === 'string' || typeof source === 'string') return this.#explain6(String(source), String(to));
    if (hasAddress(card, to) && hasAddress(card, source)) return this.allow(ITSELF, 'never leaves the guest', this.trace.arrival(card.vmName));
    const forbidden = this.#guard(network.subnet, source) ?? filterSent(this.s, card, this.trace);
    if (forbidden) return forbidden;
    if (!this.s.metadata && isMetadata(to)) return this.toNowhere(to, 'metadata', metadataReason(to));
    if (isLoopback(to)) return this.toNowhere(to, "host's loopback", "no guest reaches the host's loopback");
    if (to === LIMITED_BROADCAST || to === broadcastOf(network.subnet) || subnetContains(MULTICAST, to)) return this.#toGroup(to);
    if (subnetContains(THIS_NETWORK, to)) return this.toNowhere(to, "the host's routing", `${formatAddress(to)} is not a valid destination`);
    if (isHostAddress(this.s, to)) return this.toHost(network.subnet, to);
    if (subnetContains(network.subnet, to)) return this.#toNeighbour(to);
    if (isLinkLocal(to) && !isMetadata(to)) return this.toNowhere(to, 'link-local', `no router forwards to ${formatAddress(to)} (RFC 3927)`);
    return this.toOutside(to);
  }

  /** The guard (B91): a card sends only from its own addresses. Null: the packet passes. */
  #guard(subnet: SubnetLike, source: number): Explanation | null {
    const { protocol, port } = this.p;
    const { vmName } = this.card;
    const isUdp = protocol === 'udp';
    if (isUdp && isDhcpReply(sourcePortOf(this.p), port ?? -1)) return this.drop('guard: rogue_dhcp', `${vmName} may not act as a DHCP server`);
    if (source === 0 && isUdp && isDhcpRequest(sourcePortOf(this.p), port ?? -1)) {
      this.trace.step('guard', 'a guest without an address may send DHCP requests', 'DHCP');
      return null;
    }
    if (source === 0) return this.drop('guard: ip_spoof', `${vmName} has no address yet and may send only DHCP requests`);
    if (hasAddress(this.card, source) || source === this.card.reservedIp) {
      this.trace.step('guard', `${formatAddress(source)} is the address of ${vmName}`, 'guard: address');
      return null;
    }
    const owner = this.#ownerOf(source);
    if (canClaim(subnet, source, owner !== null)) {
      this.trace.step('guard', `${formatAddress(source)} is free: ${vmName} may claim it by ARP`, 'guard: claim');
      return null;
    }
    if (owner !== null) return this.drop('guard: ip_spoof', `${formatAddress(source)} belongs to ${owner}, not to ${vmName}${this.#takeover(source)}`);
    return this.drop('guard: ip_spoof', `${formatAddress(source)} is outside ${vmName}'s network ${formatSubnet(subnet)}`);
  }

  /** How a virtual address would move. */
  #takeover(address: number): string {
    const holder = this.s.cards.find((c) => c.virtual.includes(address));
    return holder ? `; it is virtual: ${this.card.vmName} may claim it by ARP once ${holder.vmName} no longer answers for it` : '';
  }

  #ownerOf(address: number): string | null {
    const card = this.s.cards.find(
      (c) => c.id !== this.card.id && (c.type === 'shared' || c.type === 'host') && (hasAddress(c, address) || c.reservedIp === address),
    );
    if (card) return card.vmName;
    const network = this.s.networks.find((n) => networkAddresses(n.subnet).includes(address));
    if (!network) return null;
    return address === gatewayOf(network.subnet) ? 'the gateway' : `the ${network.name} network as a whole`;
  }

  /**
   * The guard on IPv6 sources: forbidden ones, and those that another MAC address's interface ID names. Null: the
   * packet passes, unless another card holds the address, which is not known here.
   */
  protected guard6(source: string): Explanation | null {
    const { vmName, outsideMac } = this.card;
    if (this.p.protocol === 'udp' && isDhcp6Reply(sourcePortOf(this.p), this.p.port ?? -1))
      return this.drop('guard: rogue_dhcp', `${vmName} may not act as a DHCP server`);
    if (typeof this.p.source !== 'string') return null;
    const [w0, w1, w2, w3] = wordsOfIpv6(source);
    if (isForbiddenSource6(w0, w1, w2)) return this.drop('guard: ip_spoof', `no guest may send from ${source}`);
    const mac = eui64MacOf(w2, w3);
    if (mac === outsideMac) return null;
    if (this.s.networks.some((n) => n.gatewayMac === mac && this.inAddressDomain(n.name)))
      return this.drop('guard: ip_spoof', `${source} belongs to the gateway`);
    const owner = this.s.cards.find((c) => c.outsideMac === mac && this.inAddressDomain(c.type));
    return owner ? this.drop('guard: ip_spoof', `${source} is made from the MAC address of ${owner.vmName}`) : null;
  }

  /**
   * VMs that receive what this one sends to a group. One without an address joins no group and has no broadcast
   * address.
   */
  protected groupReceivers(to: PacketAddress): ExplainedCard[] {
    return this.s.cards.filter(
      (c) =>
        c.id !== this.card.id &&
        c.type === this.card.type &&
        (c.ip !== null || to === LIMITED_BROADCAST || typeof to === 'string') &&
        !areIsolated(c, this.card),
    );
  }

  #toNeighbour(to: number): Explanation {
    const { card } = this;
    const other = this.s.cards.find((c) => hasAddress(c, to) && c.type === card.type);
    if (!other) return this.drop('no such address', `no VM on the ${card.type} network has ${formatAddress(to)}: ARP is not answered`);
    return this.#toCard(other);
  }

  #toCard(other: ExplainedCard): Explanation {
    const { card } = this;
    if (areIsolated(card, other)) return this.drop('guard: isolated', `${(card.isolated ? card : other).vmName} is isolated from other VMs (--no-local)`);
    this.trace.step('bridge', `from VM to VM on the ${card.type} network`);
    return this.allow(`${card.type} network`, `reaches ${other.vmName}; ${DEPENDS}`, this.trace.arrival(other.vmName));
  }

  #explain6(source: string, to: string): Explanation {
    const { card } = this;
    const forbidden = this.guard6(source) ?? filterSent(this.s, card, this.trace);
    if (forbidden) return forbidden;
    const network = this.s.networks.find((n) => n.name === card.type);
    const isolated = (): Explanation => this.drop('guard: isolated', `${card.vmName} is isolated from other VMs and from the host (--no-local)`);
    if (isMulticast6(to)) return card.isolated ? isolated() : this.#toListeners(to);
    if (!this.s.metadata && isMetadata6(to)) return this.drop('metadata', metadataReason(to));
    if (!isLinkLocal6(to)) return card.isolated ? isolated() : this.toGlobal6(to);
    const other = this.s.cards.find((c) => c.type === card.type && linkLocalOf(c.outsideMac) === to);
    if (other) return this.#toCard(other);
    if (card.isolated) return isolated();
    if (network && linkLocalOf(network.gatewayMac) === to) return this.toGateway6();
    return this.allow(`${card.type} network`, `reaches the VM that has ${to}, if any`);
  }

  /** Broadcast and IPv4 multicast. */
  #toGroup(to: number): Explanation {
    if (!subnetContains(MULTICAST, to) && this.isDhcp()) return this.toDhcp(true);
    if (this.card.isolated) return this.drop('--no-local', `${this.card.vmName} is isolated from other VMs and from the host`);
    return this.#toListeners(to);
  }

  #toListeners(to: PacketAddress): Explanation {
    const { type } = this.card;
    const arrivals = this.groupReceivers(to).map((c) => this.trace.arrival(c.vmName));
    if (this.hostReceivesGroups) arrivals.push(this.trace.arrival('host'));
    const receivers = arrivals.map((a) => (a.at === 'host' ? 'the host' : a.at)).join(', ') || 'nobody at present';
    const isMulticast = typeof to === 'string' ? isMulticast6(to) : subnetContains(MULTICAST, to);
    const reason = isMulticast
      ? `stays on the ${type} network: delivered to ${receivers}, if they joined the group; multicast is not routed`
      : `delivered on the ${type} network to ${receivers}; broadcasts are not routed`;
    return this.allow(`${type} network`, reason, ...arrivals);
  }

  /** Interface IDs made from MAC addresses on networks of this type are barred to this card. */
  protected abstract inAddressDomain(type: ExplainedCard['type']): boolean;
  /** The host has an interface on the network, which receives broadcast and multicast. */
  protected abstract readonly hostReceivesGroups: boolean;
  /** The packet is one for the DHCP server. */
  protected abstract isDhcp(): boolean;
  protected abstract toDhcp(broadcast: boolean): Explanation;
  /** To an address of the host, or of a gateway. */
  protected abstract toHost(subnet: SubnetLike, to: number): Explanation;
  /** To the gateway's link-local IPv6 address. */
  protected abstract toGateway6(): Explanation;
  /** To an IPv6 address beyond the link, by a card that is not isolated. */
  protected abstract toGlobal6(to: string): Explanation;
  /** To an address that no guest reaches, whatever the host's routes. */
  protected abstract toNowhere(to: number, rule: string, reason: string): Explanation;
  /** To an address that is neither the host's nor of this network. */
  protected abstract toOutside(to: number): Explanation;
  protected abstract fromBridge(card: ExplainedCard): Explanation;
}
