/**
 * What happens to packets of, and for, a VM of type bridge (net/explain/packet.ts).
 *
 * Theory of operation: such a VM is a machine of the network behind an interface of the host. VMs and the host meet
 * there without anything of ours but the guard between, unless one of them is parted (--no-local), is in another VLAN,
 * or is bridged by macvlan, which the host is no part of. All else is decided by that network: it is told as `outside`.
 *
 * Limits: the guest's own routes are taken to be right. Which machine of the network has an address is not known, nor
 * whether its routers lead back to this host, which drops what comes for its own networks. The host's IPv6 addresses
 * are not known.
 */
import { broadcastOf, subnetContains } from '../../wire/address.ts';
import { isMulticast6, linkLocalOf } from '../../wire/address6.ts';
import {
  DEPENDS,
  EVERYBODY,
  type ExplainedCard,
  type Explanation,
  isHosts,
  LOOPBACK,
  MULTICAST,
  type PacketAddress,
  type Surroundings,
  show,
  type Way,
} from './packet.ts';

/** Two VMs that hear each other but for --no-local. */
function together(a: ExplainedCard, b: ExplainedCard): boolean {
  return b.type === 'bridge' && a.segment !== undefined && a.segment.name === b.segment?.name && a.vlan === b.vlan;
}

/** Why the host and a VM do not reach each other; null when they do. */
function apartFromHost(card: ExplainedCard): { rule: string; reason: string } | null {
  if (card.isolated) return { rule: '--no-local', reason: `${card.vmName} is parted from the host` };
  if (card.vlan !== undefined) return { rule: `VLAN ${card.vlan}`, reason: `${card.vmName} is in VLAN ${card.vlan}, and the host's interface is not` };
  if (card.segment?.hostApart)
    return { rule: 'macvlan', reason: `${card.vmName} is bridged to ${card.segment.name} by macvlan: it and this host cannot reach each other` };
  return null;
}

const ownAddresses = (s: Surroundings, card: ExplainedCard) => s.addresses.filter((a) => card.segment?.hostInterfaces.includes(a.dev));

/** Sent by the host, or through it, to a VM by the interface `dev`; null when the VM is not behind that. */
export function hostToBridged(way: Way, begin: PacketAddress, card: ExplainedCard, dev: string | null): Explanation | null {
  if (dev !== null && !card.segment?.hostInterfaces.includes(dev)) return null;
  const apart = apartFromHost(card);
  if (apart) return way.drop(begin, apart.rule, apart.reason);
  return arriveAtBridged(way, begin, card);
}

/** Sent by a machine of the network, or beyond it. */
export function arriveAtBridged(way: Way, begin: PacketAddress, card: ExplainedCard): Explanation {
  const tag = card.vlan === undefined ? '' : `, VLAN ${card.vlan},`;
  way.step(card.bridge ?? 'uplink', `the Ethernet network${tag} carries it to ${card.vmName}`);
  const reason = `${card.vmName} is a machine of the network behind ${card.bridge}${tag.slice(0, -1)}: nothing of ours stands between; ${DEPENDS}`;
  return way.allow(begin, 'bridge', reason, way.arrival(card.vmName));
}

/** Sent by the VM. `intoHost` goes on where the packet comes in at the host's interface. */
export function fromBridged(s: Surroundings, card: ExplainedCard, way: Way, begin: PacketAddress, intoHost: () => Explanation): Explanation {
  const to = way.packet.destination;
  const name = card.vmName;
  if (!card.segment) return way.drop(begin, 'not plugged in', `${name} is not plugged in at ${card.bridge}: 'anka show ${name}' says why`);
  if (to === card.ip && begin === card.ip) return way.allow(begin, 'the guest itself', 'never leaves the guest', way.arrival(name));
  if (ownAddresses(s, card).some((a) => a.address === begin))
    return way.drop(begin, 'guard: ip_spoof', `${show(begin)} is the host's address, and not for ${name} to use`);
  const { protocol, sourcePort, port } = way.packet;
  if (protocol === 'udp' && ((sourcePort === 67 && port === 68) || (sourcePort === 547 && port === 546)))
    return way.drop(begin, 'guard: rogue_dhcp', `${name} is no DHCP server`);
  way.step('guard', 'the MAC address is its own; other addresses are the outside network’s business', 'guard: mac');
  if (typeof to === 'number' && subnetContains(LOOPBACK, to)) return way.drop(begin, 'the guest itself', 'a guest keeps its loopback to itself');
  const wire = `that network decides on the rest${card.vlan === undefined ? '' : `; its frames are tagged with VLAN ${card.vlan}`}`;
  if (isToMany(s, card, to)) {
    const heard = [...(apartFromHost(card) ? [] : ['host']), 'outside', ...hearers(s, card, to).map((c) => c.vmName)];
    return way.allow(
      begin,
      'bridge',
      `heard behind ${card.bridge} by ${heard.join(', ')}, where it is listened to; ${wire}`,
      ...heard.map((at) => way.arrival(at)),
    );
  }
  const other = s.cards.find(
    (c) => c.id !== card.id && c.type === 'bridge' && c.segment?.name === card.segment?.name && (c.ip === to || linkLocalOf(c.outsideMac) === to),
  );
  if (other) {
    const parted = [card, other].find((c) => c.isolated);
    if (!together(card, other))
      return way.drop(begin, `VLAN ${card.vlan ?? other.vlan}`, `${name} and ${other.vmName} are not in one VLAN: they meet only where that network routes`);
    if (parted) return way.drop(begin, 'guard: isolated', `${parted.vmName} is parted from other VMs (--no-local)`);
    way.step(card.segment.name, 'from card to card');
    return way.allow(begin, 'bridge', `reaches ${other.vmName}; ${DEPENDS}`, way.arrival(other.vmName));
  }
  if (ownAddresses(s, card).some((a) => a.address === to)) {
    const apart = apartFromHost(card);
    if (apart) return way.drop(begin, apart.rule, apart.reason);
    way.step(card.segment.name, 'into the host, as if it had come by the wire');
    return intoHost();
  }
  if (typeof to === 'number' && s.networks.some((n) => subnetContains(n.subnet, to)))
    return way.drop(begin, 'isolation from outside', `${show(to)} is in a network of ours, which is reached from outside only through a forwarding rule`);
  const known = isHosts(s, to) ? `; the host has ${show(to)}, but not behind ${card.bridge}` : '';
  return way.allow(begin, 'bridge', `${name} is a machine of the network behind ${card.bridge}: ${wire}${known}`, way.arrival('outside'));
}

function isToMany(s: Surroundings, card: ExplainedCard, to: PacketAddress): boolean {
  if (typeof to === 'string') return isMulticast6(to);
  return (
    to === EVERYBODY ||
    subnetContains(MULTICAST, to) ||
    ownAddresses(s, card).some((a) => a.prefix < 31 && broadcastOf({ base: a.address, prefix: a.prefix }) === to)
  );
}

/** VMs that hear what this one says to many. One without an address joins no group. */
function hearers(s: Surroundings, card: ExplainedCard, to: PacketAddress): ExplainedCard[] {
  return s.cards.filter(
    (c) => c.id !== card.id && together(card, c) && !c.isolated && !card.isolated && (c.ip !== null || to === EVERYBODY || typeof to === 'string'),
  );
}
