/**
 * What happens to a packet of, or for, a VM, and which rule decides (B93). Pure: from what is desired and seen of the host to an explanation.
 *
 * Theory of operation: the packet is followed through the places where the engines decide, in their order: the card's cable, the guard, the bridge, the host's own
 * addresses (DNS, DHCP, forwarding listeners), routing, isolation, masquerade, and other firewalls. The contract suite sends the packets that are explained, and compares.
 * The packet is about one VM. It is one that comes to it when its destination is the VM, or a port or an address of the host, and its source is somebody
 * else's; in every other case the VM sends it, also with a source that is not its own.
 *
 * Limits: it is the first packet of a flow. Whether a service answers is not known here. Another firewall counts by its policy, not by its single rules; routes are those
 * of the main table. The MAC address is taken to be the card's own.
 */
import { broadcastOf, formatIpv4, formatSubnet, gatewayOf, type SubnetLike, subnetContains } from '../wire/address.ts';
import { isLinkLocal6, isMulticast6, linkLocalOf } from '../wire/address6.ts';

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
}

/** What is known of the host and of everything that runs on it. */
export interface Surroundings {
  networks: readonly { name: 'shared' | 'host'; subnet: SubnetLike; interface: string; gatewayMac: number }[];
  cards: readonly ExplainedCard[];
  /** The host's own addresses, those on our networks too. */
  addresses: readonly { dev: string; address: number; prefix: number }[];
  /** Routes of the main table. */
  routes: readonly (SubnetLike & { dev: string })[];
  /** Interfaces on which IPv4 forwarding is off. */
  forwardingOff: readonly string[];
  /** Chains of others that drop by policy. `allowed`: our accept is in it. */
  firewalls: readonly { name: string; hook: 'forward' | 'input'; allowed: boolean }[];
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
  /** `host`, `outside`, or a VM's name. */
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

const LOOPBACK: SubnetLike = { base: 0x7f000000, prefix: 8 };
const MULTICAST: SubnetLike = { base: 0xe0000000, prefix: 4 };
const ZERO_NET: SubnetLike = { base: 0, prefix: 8 };
const EVERYBODY = 0xffffffff;
const DEPENDS = 'whether it is answered depends on the service there';

const show = (a: PacketAddress): string => (typeof a === 'number' ? formatIpv4(a) : a);
const place = (a: PacketAddress, port: number | null): string => (port === null ? show(a) : typeof a === 'number' ? `${show(a)}:${port}` : `[${a}]:${port}`);

/** The packet's way, as far as it was followed. */
class Way {
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

/** What happens to a packet of, or for, the card. */
export function explain(s: Surroundings, card: ExplainedCard, packet: Packet): Explanation {
  const sender = senderOf(s, card, packet);
  if (typeof sender === 'object') return new FromCard(s, sender, packet).follow();
  const begin = packet.source as PacketAddress;
  const way = new Way(packet, begin);
  return sender === 'host' ? fromHost(s, card, way, begin) : fromOutside(s, card, way, begin);
}

function isHosts(s: Surroundings, address: PacketAddress): address is number {
  return typeof address === 'number' && (subnetContains(LOOPBACK, address) || s.addresses.some((a) => a.address === address));
}

const isGateway = (s: Surroundings, address: PacketAddress): boolean => s.networks.some((n) => gatewayOf(n.subnet) === address);

/** Who sends it: a card, the host, or somebody outside. */
function senderOf(s: Surroundings, card: ExplainedCard, p: Packet): ExplainedCard | 'host' | 'outside' {
  if (p.source === null || p.source === card.ip) return card;
  const ours = isHosts(s, p.destination) && (!isGateway(s, p.destination) || ruleAt(s, p.destination, p, true)?.card === card);
  if (p.destination !== card.ip && !ours) return card;
  const other = s.cards.find((c) => c.ip === p.source);
  if (other) return other;
  return isHosts(s, p.source) ? 'host' : 'outside';
}

/** The forwarding rule for a port of the host: one for that very address before one for all. `listeners`: also those whose guest has no address. */
function ruleAt(s: Surroundings, address: number, p: { protocol: PacketProtocol; port: number | null }, listeners = false) {
  const all = s.cards.flatMap((card) =>
    (card.type === 'shared' || card.type === 'host') && (listeners || card.ip !== null)
      ? card.rules.filter((r) => r.protocol === p.protocol && r.hostPort === p.port).map((rule) => ({ card, rule }))
      : [],
  );
  return all.find(({ rule }) => rule.hostIp === address) ?? all.find(({ rule }) => rule.hostIp === 0) ?? null;
}

const routeTo = (s: Surroundings, address: number) =>
  s.routes
    .filter((r) => subnetContains(r, address))
    .reduce<Surroundings['routes'][number] | null>((best, r) => (best && best.prefix >= r.prefix ? best : r), null);

const blocking = (s: Surroundings, hook: 'forward' | 'input') => s.firewalls.find((f) => f.hook === hook && !f.allowed) ?? null;

const ruleName = (card: ExplainedCard, rule: ExplainedRule): string => `port forwarding '${rule.name}' of ${card.vmName}`;

/** The listener of a rule carries it on, by a connection of the host's own. */
function throughListener(s: Surroundings, way: Way, begin: PacketAddress, card: ExplainedCard, rule: ExplainedRule): Explanation {
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
function fromHost(s: Surroundings, card: ExplainedCard, way: Way, begin: PacketAddress): Explanation {
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
  if (card.type === 'bridge') return bridgedArrival(way, begin, card);
  if (card.isolated) {
    const served = (p.protocol === 'udp' && p.port === 68) || card.rules.some((r) => r.protocol === p.protocol && r.guestPort === p.port);
    if (!served) return way.drop(begin, '--no-local', `${card.vmName} is parted from the host`);
  }
  way.step('host', `sends it into the ${card.type} network`);
  return way.allow(begin, `${card.type} network`, `reaches ${card.vmName}; ${DEPENDS}`, way.arrival(card.vmName));
}

/** Sent by a machine beyond the host. */
function fromOutside(s: Surroundings, card: ExplainedCard, way: Way, begin: PacketAddress): Explanation {
  const p = way.packet;
  const to = p.destination;
  if (typeof begin === 'number' && (subnetContains(LOOPBACK, begin) || subnetContains(MULTICAST, begin)))
    return way.drop(begin, 'the host’s routing', `${show(begin)} is no source that can come from outside`);
  if (typeof to !== 'number' || (card.type === 'bridge' && to === card.ip)) return bridgedArrival(way, begin, card);
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

function bridgedArrival(way: Way, begin: PacketAddress, card: ExplainedCard): Explanation {
  if (card.type !== 'bridge') return way.drop(begin, 'IPv6 stays on its network', `no IPv6 leads from outside to ${card.vmName}`);
  way.step(card.bridge ?? 'uplink', `the Ethernet network carries it to ${card.vmName}`);
  return way.allow(
    begin,
    'bridge',
    `${card.vmName} is a machine of the network behind ${card.bridge}: nothing of ours stands between`,
    way.arrival(card.vmName),
  );
}

/** Sent by a VM. */
class FromCard {
  readonly #s: Surroundings;
  readonly #card: ExplainedCard;
  readonly #p: Packet;
  readonly #way: Way;
  readonly #begin: PacketAddress;

  constructor(s: Surroundings, card: ExplainedCard, p: Packet) {
    this.#s = s;
    this.#card = card;
    this.#p = p;
    this.#begin = p.source ?? (typeof p.destination === 'string' ? linkLocalOf(card.outsideMac) : (card.ip ?? 0));
    this.#way = new Way(p, this.#begin);
  }

  #drop(rule: string, reason: string): Explanation {
    return this.#way.drop(this.#begin, rule, reason);
  }

  #allow(rule: string, reason: string, ...arrives: Arrival[]): Explanation {
    return this.#way.allow(this.#begin, rule, reason, ...arrives);
  }

  follow(): Explanation {
    const card = this.#card;
    const to = this.#p.destination;
    if (card.type === 'disconnected') return this.#drop('disconnected', `the cable of ${card.vmName} is out`);
    if (card.type === 'bridge') return this.#bridged();
    if (typeof to === 'string' || typeof this.#begin === 'string') return this.#ipv6(String(to));
    const network = this.#s.networks.find((n) => n.name === card.type);
    if (!network) return this.#drop(`${card.type} network`, 'the network is not there');
    if (to === card.ip && this.#begin === card.ip) return this.#allow('the guest itself', 'never leaves the guest', this.#way.arrival(card.vmName));
    const stopped = this.#guard(network.subnet);
    if (stopped) return stopped;
    if (subnetContains(LOOPBACK, to))
      return this.#drop("the host's loopback is its own", 'a guest keeps it to itself; what is sent out nevertheless is dropped by the host');
    if (to === EVERYBODY || to === broadcastOf(network.subnet) || subnetContains(MULTICAST, to)) return this.#toMany(to);
    if (subnetContains(ZERO_NET, to)) return this.#drop('the host’s routing', `${show(to)} is nobody's address`);
    if (isHosts(this.#s, to)) return this.#toHost(network.subnet, to);
    if (subnetContains(network.subnet, to)) return this.#toNeighbour(to);
    return this.#beyond(to);
  }

  /** The guard (B91): a card speaks with its own address. */
  #guard(subnet: SubnetLike): Explanation | null {
    const source = this.#begin as number;
    const { protocol, sourcePort, port } = this.#p;
    const name = this.#card.vmName;
    const asks = protocol === 'udp' && port === 67;
    if (protocol === 'udp' && sourcePort === 67 && port === 68) return this.#drop('guard: rogue_dhcp', `${name} is no DHCP server`);
    if (source === 0 && asks) this.#way.step('guard', 'a guest without an address may ask for one', 'DHCP');
    else if (source === 0) return this.#drop('guard: ip_spoof', `${name} has no address yet, and may only ask for one by DHCP`);
    else if (source === this.#card.ip || source === this.#card.reservedIp)
      this.#way.step('guard', `${show(source)} is the address of ${name}`, 'guard: address');
    else {
      const owner = this.#ownerOf(source);
      if (owner) return this.#drop('guard: ip_spoof', `${show(source)} belongs to ${owner}, not to ${name}`);
      if (!subnetContains(subnet, source)) return this.#drop('guard: ip_spoof', `${show(source)} is outside the network ${formatSubnet(subnet)} of ${name}`);
      if (this.#card.isolated) return this.#drop('guard: isolated', `${name} is parted (--no-local), and may not take an address by itself`);
      this.#way.step('guard', `${show(source)} is nobody's: ${name} may take it by claiming it with ARP`, 'guard: claim');
    }
    return null;
  }

  #ownerOf(address: number): string | null {
    const card = this.#s.cards.find(
      (c) => c.id !== this.#card.id && c.type !== 'bridge' && c.type !== 'disconnected' && (c.ip === address || c.reservedIp === address),
    );
    if (card) return card.vmName;
    const n = this.#s.networks.find((x) => address === x.subnet.base || address === gatewayOf(x.subnet) || address === broadcastOf(x.subnet));
    return n ? (address === gatewayOf(n.subnet) ? 'the gateway' : `the ${n.name} network as a whole`) : null;
  }

  /** Guests that hear what this one says to many. One without an address knows no broadcast address of its network, and joins no group. */
  #hearers(to: PacketAddress): ExplainedCard[] {
    return this.#s.cards.filter(
      (c) =>
        c.id !== this.#card.id &&
        c.type === this.#card.type &&
        (c.ip !== null || to === EVERYBODY || typeof to === 'string') &&
        !c.isolated &&
        !this.#card.isolated,
    );
  }

  #toMany(to: number): Explanation {
    const { protocol, port } = this.#p;
    const isolated = this.#card.isolated;
    const multicast = subnetContains(MULTICAST, to);
    const others = this.#hearers(to).map((c) => this.#way.arrival(c.vmName));
    if (!multicast && protocol === 'udp' && port === 67) {
      this.#way.step('host', 'the DHCP server of the network takes it', 'DHCP');
      const arrival = { ...this.#way.arrival('host') };
      return this.#allow('DHCP', 'the DHCP server answers; other VMs hear it too, and none may answer', arrival, ...others);
    }
    if (isolated) return this.#drop('--no-local', `${this.#card.vmName} is parted from other VMs and from the host`);
    const heard = others.length > 0 ? `${others.map((o) => o.at).join(', ')} and the host` : 'the host';
    const reason = multicast
      ? `stays on the ${this.#card.type} network: heard there by ${heard}, where the group is listened to; it is not routed`
      : `heard by ${heard} on the ${this.#card.type} network; it does not leave it`;
    return this.#allow(`${this.#card.type} network`, reason, ...others, this.#way.arrival('host'));
  }

  #toHost(subnet: SubnetLike, to: number): Explanation {
    const { protocol, port } = this.#p;
    const card = this.#card;
    const shared = this.#s.networks.find((n) => n.name === 'shared');
    if (card.type === 'host' && shared && subnetContains(shared.subnet, to))
      return this.#drop('host network: not even the other gateway', `${show(to)} is the host's address on the shared network`);
    const dns = port === 53 && (protocol === 'tcp' || protocol === 'udp') && (card.type === 'host' || to === gatewayOf(subnet));
    const dhcp = protocol === 'udp' && port === 67;
    if (dns) {
      this.#way.step('host', 'handed to the DNS forwarder of the network', 'DNS redirect');
      const wall = blocking(this.#s, 'input');
      if (wall) return this.#drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
      const names = card.type === 'host' ? 'names of VMs and of the host; others are unknown there' : "names of VMs, and all others by the host's resolvers";
      return this.#allow('DNS redirect', `answered by the DNS forwarder: ${names}`, this.#way.arrival('host'));
    }
    if (card.isolated && !dhcp) return this.#drop('--no-local', `${card.vmName} is parted from the host; only DHCP and DNS of the gateway answer`);
    const wall = blocking(this.#s, 'input');
    if (wall) return this.#drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
    if (dhcp) {
      this.#way.step('host', 'the DHCP server of the network takes it', 'DHCP');
      return this.#allow('DHCP', 'the DHCP server answers', this.#way.arrival('host'));
    }
    const found = ruleAt(this.#s, to, this.#p, true);
    if (found) return throughListener(this.#s, this.#way, this.#begin, found.card, found.rule);
    const reason = `reaches the host at ${place(to, port)}; ${protocol === 'icmp' ? 'it answers pings' : DEPENDS}`;
    return this.#allow(`${card.type} network`, reason, this.#way.arrival('host'));
  }

  #toNeighbour(to: number): Explanation {
    const other = this.#s.cards.find((c) => c.ip === to && c.type === this.#card.type);
    if (!other) return this.#drop('nobody has the address', `no VM on the ${this.#card.type} network has ${show(to)}: ARP is not answered`);
    const parted = [this.#card, other].find((c) => c.isolated);
    if (parted) return this.#drop('guard: isolated', `${parted.vmName} is parted from other VMs (--no-local)`);
    this.#way.step('bridge', `from card to card on the ${this.#card.type} network`);
    return this.#allow(`${this.#card.type} network`, `reaches ${other.vmName}; ${DEPENDS}`, this.#way.arrival(other.vmName));
  }

  #beyond(to: number): Explanation {
    const s = this.#s;
    const card = this.#card;
    const foreign = s.networks.find((n) => subnetContains(n.subnet, to));
    if (card.type === 'host') {
      if (foreign) return this.#drop('host network: not even the other gateway', 'the shared network is not reached from the host network');
      return this.#drop('host network: nothing leaves the host', `${show(to)} is beyond the host`);
    }
    if (foreign) return this.#drop('host network', 'nothing of the shared network reaches a VM of the host network, but through a forwarding rule');
    const bridge = s.networks.find((n) => n.name === card.type)?.interface ?? '';
    if (s.forwardingOff.includes(bridge)) return this.#drop(`forwarding off on ${bridge}`, 'the host does not forward what comes in there');
    const route = routeTo(s, to);
    if (!route)
      return this.#way.refuse(this.#begin, 'the host’s routing', `the host has no route to ${show(to)}: it answers that the network cannot be reached`);
    const own = s.addresses.find((a) => a.dev === route.dev);
    if (s.addresses.some((a) => a.prefix < 31 && broadcastOf({ base: a.address, prefix: a.prefix }) === to))
      return this.#allow('the host’s routing', 'a broadcast address of the host: it is heard by the host, and not sent out', this.#way.arrival('host'));
    this.#way.step('host', `routed by ${route.dev}`, 'shared network: outside is allowed');
    const wall = blocking(s, 'forward');
    if (wall) return this.#drop(wall.name, 'another firewall drops what it does not know, and our accept is not in it');
    this.#way.step('host', `the source becomes ${own ? formatIpv4(own.address) : `the host's address on ${route.dev}`}`, 'masquerade');
    if (own) this.#way.source = own.address;
    const back = s.forwardingOff.includes(route.dev) ? `; its answers are lost, as forwarding is off on ${route.dev}` : `; ${DEPENDS}`;
    return this.#allow('masquerade', `leaves by ${route.dev} through NAT${back}`, this.#way.arrival('outside'));
  }

  #ipv6(to: string): Explanation {
    const card = this.#card;
    const network = this.#s.networks.find((n) => n.name === card.type);
    if (this.#s.networks.some((n) => linkLocalOf(n.gatewayMac) === this.#begin)) return this.#drop('guard: ip_spoof', `${this.#begin} is the gateway's`);
    if (this.#p.protocol === 'udp' && this.#p.sourcePort === 547 && this.#p.port === 546)
      return this.#drop('guard: rogue_dhcp', `${card.vmName} is no DHCP server`);
    if (isMulticast6(to)) {
      if (card.isolated) return this.#drop('guard: isolated', `${card.vmName} is parted from other VMs and the host`);
      const others = this.#hearers(to).map((c) => this.#way.arrival(c.vmName));
      return this.#allow(
        `${card.type} network`,
        'heard on the network, where the group is listened to; it does not leave it',
        ...others,
        this.#way.arrival('host'),
      );
    }
    if (!isLinkLocal6(to)) return this.#drop('IPv6 stays on its network', 'there is no IPv6 way out: guests speak it with each other on their network');
    if (card.isolated) return this.#drop('guard: isolated', `${card.vmName} is parted from other VMs and the host`);
    const other = this.#s.cards.find((c) => c.type === card.type && linkLocalOf(c.outsideMac) === to);
    if (other?.isolated) return this.#drop('guard: isolated', `${other.vmName} is parted from other VMs (--no-local)`);
    if (other) return this.#allow(`${card.type} network`, `reaches ${other.vmName}; ${DEPENDS}`, this.#way.arrival(other.vmName));
    if (network && linkLocalOf(network.gatewayMac) === to) {
      const dns = card.type === 'host' && this.#p.port === 53 && (this.#p.protocol === 'tcp' || this.#p.protocol === 'udp');
      if (dns) return this.#drop('host network: names of outside stay unknown', 'no resolver of the host answers there by IPv6');
      return this.#allow(`${card.type} network`, `reaches the host; ${DEPENDS}`, this.#way.arrival('host'));
    }
    return this.#allow(`${card.type} network`, `reaches whoever has ${to} on the network`);
  }

  #bridged(): Explanation {
    const card = this.#card;
    const to = this.#p.destination;
    const other = this.#s.cards.find((c) => c.id !== card.id && c.ip === to && c.type === 'bridge' && c.bridge === card.bridge);
    const parted = other && [card, other].find((c) => c.isolated);
    if (parted) return this.#drop('guard: isolated', `${parted.vmName} is parted from other VMs (--no-local)`);
    if (card.isolated && isHosts(this.#s, to)) return this.#drop('--no-local', `${card.vmName} is parted from the host`);
    this.#way.step('guard', 'the MAC address is its own; addresses are the outside network’s business', 'guard: mac');
    const tag = card.vlan === undefined ? '' : `, tagged with VLAN ${card.vlan}`;
    const at = other ? other.vmName : isHosts(this.#s, to) ? 'host' : 'outside';
    return this.#allow(
      'bridge',
      `${card.vmName} is a machine of the network behind ${card.bridge}${tag}; that network decides on the rest`,
      this.#way.arrival(at),
    );
  }
}
