/**
 * Packets of, and for, a VM of type bridge (explanation.ts).
 *
 * Theory of operation: the VM is a machine of the network behind an interface of the host. Only the guard stands
 * between it and other VMs or the host, unless one of them is isolated (--no-local), in another VLAN, or bridged by
 * macvlan, which cuts it off from the host. Everything else that network decides: it is `outside`.
 *
 * Limits: the guest's own routes are taken to be right. Neither the machines of the network nor their routes are known,
 * nor the host's IPv6 addresses.
 */
import { subnetContains } from '../../wire/address.ts';
import { isMulticast6, linkLocalOf } from '../../wire/address6.ts';
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';
import { isLoopback, LIMITED_BROADCAST, MULTICAST } from '../policy/addresses.ts';
import { areIsolated } from '../policy/isolation.ts';
import { isMetadata, isMetadata6 } from '../policy/metadata.ts';
import { DHCP_SERVER_PORT, isDhcpReply } from '../policy/services.ts';
import { DEPENDS, type Explanation, metadataReason, type PacketTrace } from './explanation.ts';
import { filterSent, ITSELF } from './filtered.ts';
import { type ExplainedCard, type HostState, hasAddress, isHostAddress, isHostBroadcast } from './host-state.ts';
import { formatAddress, type Packet, type PacketAddress, sourcePortOf } from './packet.ts';

/** Two VMs share a segment and a VLAN. */
function shareSegment(a: ExplainedCard, b: ExplainedCard): boolean {
  return b.type === 'bridge' && a.segment !== undefined && a.segment.name === b.segment?.name && a.vlan === b.vlan;
}

/** Why the host and a VM do not reach each other; null when they do. */
function separation(card: ExplainedCard, p: Packet): { rule: string; reason: string } | null {
  if (card.vlan !== undefined) return { rule: `VLAN ${card.vlan}`, reason: `${card.vmName} is in VLAN ${card.vlan}, the host's interface is not` };
  if (card.segment?.hostUnreachable)
    return { rule: 'macvlan', reason: `${card.vmName} is bridged to ${card.segment.name} by macvlan: it and this host cannot reach each other` };
  if (!card.isolated) return null;
  const isDhcp = p.protocol === 'udp' && (p.port === DHCP_SERVER_PORT || p.port === DHCP_CLIENT_PORT);
  // a bridge of the host's own: the host may be that network's DHCP server
  if (card.segment?.isHostBridge && isDhcp) return null;
  return { rule: '--no-local', reason: `${card.vmName} is isolated from the host` };
}

/** Spanning tree passes no frames of the card; null: it does. */
function closedPort(trace: PacketTrace, { vmName, segment }: ExplainedCard): Explanation | null {
  return segment?.closed === undefined ? null : trace.drop('spanning tree', `${vmName} has no network yet: ${segment.closed}`);
}

const hostAddressesAt = (s: HostState, card: ExplainedCard) => s.addresses.filter((a) => card.segment?.hostInterfaces.includes(a.dev));

/** Sent or forwarded by the host to a VM, out of interface `dev`; null when the VM is not behind it. */
export function hostToBridged(trace: PacketTrace, card: ExplainedCard, dev: string | null): Explanation | null {
  if (dev !== null && !card.segment?.hostInterfaces.includes(dev)) return null;
  const separated = separation(card, trace.packet);
  if (separated) return trace.drop(separated.rule, separated.reason);
  return outsideToBridged(trace, card);
}

/** Sent by a machine of the network, or from beyond it. */
export function outsideToBridged(trace: PacketTrace, card: ExplainedCard): Explanation {
  const waits = closedPort(trace, card);
  if (waits) return waits;
  const vlan = card.vlan === undefined ? '' : ` in VLAN ${card.vlan}`;
  trace.step(card.bridge ?? 'uplink', `the Ethernet network carries it to ${card.vmName}${vlan}`);
  const reason = `${card.vmName} is a machine of the network behind ${card.bridge}${vlan}, and anka filters nothing on the way; ${DEPENDS}`;
  return trace.allow('bridge', reason, trace.arrival(card.vmName));
}

/** The guard for bridged VMs; null: the packet passes. */
function guard(s: HostState, card: ExplainedCard, trace: PacketTrace, guard6: (source: string) => Explanation | null): Explanation | null {
  const source = trace.originalSource;
  const { protocol, port } = trace.packet;
  if (typeof source === 'string') {
    const forbidden = guard6(source);
    if (forbidden) return forbidden;
  } else {
    if (s.cards.some((c) => hostAddressesAt(s, c).some((a) => a.address === source)))
      return trace.drop('guard: ip_spoof', `${formatAddress(source)} is the host's address: ${card.vmName} may not use it`);
    if (protocol === 'udp' && isDhcpReply(sourcePortOf(trace.packet), port ?? -1))
      return trace.drop('guard: rogue_dhcp', `${card.vmName} may not act as a DHCP server`);
  }
  trace.step('guard', 'the MAC address is its own; the outside network decides which IPv4 addresses it may use', 'guard: mac');
  return null;
}

export interface BridgedHooks {
  guard6(source: string): Explanation | null;
  /** Continues where the packet enters the host by its interface. */
  enterHost(): Explanation;
}

export function sentByBridged(s: HostState, card: ExplainedCard, trace: PacketTrace, hooks: BridgedHooks): Explanation {
  const to = trace.packet.destination;
  const name = card.vmName;
  if (!card.segment) return trace.drop('not attached', `${name} is not attached to ${card.bridge}: 'anka show ${name}' prints the reason`);
  if (hasAddress(card, to) && hasAddress(card, trace.originalSource)) return trace.allow(ITSELF, 'never leaves the guest', trace.arrival(name));
  const forbidden = guard(s, card, trace, (source) => hooks.guard6(source)) ?? filterSent(s, card, trace) ?? closedPort(trace, card);
  if (forbidden) return forbidden;
  if (!s.metadata && (typeof to === 'number' ? isMetadata(to) : isMetadata6(to))) return trace.drop('metadata', metadataReason(to));
  if (typeof to === 'number' && isLoopback(to)) return trace.drop('the guest itself', 'a guest sends nothing to its loopback over the network');
  if (isToGroup(s, card, to)) return toGroup(s, card, trace);
  const other = s.cards.find(
    (c) => c.id !== card.id && c.type === 'bridge' && c.segment?.name === card.segment?.name && (hasAddress(c, to) || linkLocalOf(c.outsideMac) === to),
  );
  if (other) return toOtherVm(card, other, trace);
  if (hostAddressesAt(s, card).some((a) => a.address === to)) {
    const separated = separation(card, trace.packet);
    if (separated) return trace.drop(separated.rule, separated.reason);
    trace.step(card.segment.name, "enters the host by the host's own interface");
    return hooks.enterHost();
  }
  if (typeof to === 'number' && s.networks.some((n) => subnetContains(n.subnet, to)))
    return trace.drop('isolation from outside', `${formatAddress(to)} is in a network of anka's, reached from outside only through a forwarding rule`);
  const known = isHostAddress(s, to) ? `; the host has ${formatAddress(to)}, but not behind ${card.bridge}` : '';
  return trace.allow('bridge', `${name} is a machine of the network behind ${card.bridge}: ${networkDecides(card)}${known}`, trace.arrival('outside'));
}

const networkDecides = (card: ExplainedCard): string =>
  `that network decides the rest${card.vlan === undefined ? '' : `; frames carry the tag of VLAN ${card.vlan}`}`;

function toOtherVm(card: ExplainedCard, other: ExplainedCard, trace: PacketTrace): Explanation {
  if (!shareSegment(card, other)) {
    const reason = `${card.vmName} and ${other.vmName} are not in one VLAN: only that network's routers connect them`;
    return trace.drop(`VLAN ${card.vlan ?? other.vlan}`, reason);
  }
  if (areIsolated(card, other)) return trace.drop('guard: isolated', `${(card.isolated ? card : other).vmName} is isolated from other VMs (--no-local)`);
  const waits = closedPort(trace, other);
  if (waits) return waits;
  trace.step(card.segment?.name ?? 'bridge', 'from VM to VM');
  return trace.allow('bridge', `reaches ${other.vmName}; ${DEPENDS}`, trace.arrival(other.vmName));
}

function isToGroup(s: HostState, card: ExplainedCard, to: PacketAddress): boolean {
  if (typeof to === 'string') return isMulticast6(to);
  return to === LIMITED_BROADCAST || subnetContains(MULTICAST, to) || isHostBroadcast(hostAddressesAt(s, card), to);
}

function toGroup(s: HostState, card: ExplainedCard, trace: PacketTrace): Explanation {
  const to = trace.packet.destination;
  // one without an address joins no group
  const vms = s.cards.filter(
    (c) =>
      c.id !== card.id &&
      shareSegment(card, c) &&
      c.segment?.closed === undefined &&
      !areIsolated(c, card) &&
      (c.ip !== null || to === LIMITED_BROADCAST || typeof to === 'string'),
  );
  const receivers = [...(separation(card, trace.packet) ? [] : ['host']), 'outside', ...vms.map((c) => c.vmName)];
  const reason = `delivered behind ${card.bridge} to ${receivers.join(', ')}, if they listen; ${networkDecides(card)}`;
  return trace.allow('bridge', reason, ...receivers.map((at) => trace.arrival(at)));
}
