/** What the kernel engine reports: networks, NICs and counters, composed from what its parts know. */
import { type Link, listLinks } from '../../host/links.ts';
import { readCounters } from '../../host/netlink/link-messages.ts';
import type { DesiredNetwork, DesiredNic, DesiredState, EngineProblem, NicStats, ObservedNetwork, ObservedNic, ObservedState } from '../engine.ts';
import type { NicAddresses } from './addresses/nic-addresses.ts';
import { waitingPort, waitText } from './bridging/spanning-tree.ts';
import { BRIDGES, tapName } from './names.ts';
import { DROP_REASONS } from './rules/drop-reasons.ts';
import { readDrops } from './rules/kept-elements.ts';
import type { ServiceStatus } from './service/config.ts';

export interface Knowledge {
  desired: DesiredState;
  problems: EngineProblem[];
  status: ServiceStatus | null;
  addresses: NicAddresses;
  /** What does not work for a bridge-type NIC, in one sentence; empty when nothing. */
  limitOf: (id: string) => string;
}

type Drops = Map<string, Map<string, number>>;

export async function observeState(known: Knowledge): Promise<ObservedState> {
  const links = await listLinks();
  return {
    problems: known.problems,
    networks: known.desired.networks.map((n) => observeNetwork(n, known, links)),
    nics: known.desired.nics.map((n) => observeNic(n, known, links)),
  };
}

function observeNetwork({ name }: DesiredNetwork, { status, problems }: Knowledge, links: readonly Link[]): ObservedNetwork {
  const served = status?.networks.find((n) => n.name === name);
  const problem = problems.find((p) => p.object === `network:${name}` || p.object === 'host');
  const up = links.some((l) => l.name === BRIDGES[name] && l.up);
  return {
    name,
    interface: BRIDGES[name],
    healthy: up && !problem && (served?.dhcpListening ?? false) && (served?.dnsListening ?? false),
    leases: served?.leases ?? 0,
    poolSize: served?.poolSize ?? 0,
    message: problem?.message ?? served?.message ?? '',
  };
}

function observeNic(nic: DesiredNic, known: Knowledge, links: readonly Link[]): ObservedNic {
  const status = known.status?.nics.find((n) => n.id === nic.id);
  const tap = tapName(nic.id);
  const { ip, source, addresses } = known.addresses.addressesOf(nic);
  const waiting = nic.type === 'bridge' ? waitingPort(nic, links) : null;
  const limit = waiting ? waitText(waiting) : nic.type === 'bridge' ? known.limitOf(nic.id) : '';
  return {
    id: nic.id,
    ip,
    source,
    addresses,
    leaseExpires: source === 'static' ? null : (status?.leaseExpires ?? null),
    lastDhcp: status?.lastDhcp ?? null,
    backend: tap,
    healthy: isAttached(nic, links) && waiting === null && !known.problems.some((p) => p.object === `nic:${nic.id}`),
    isUnused: !links.some((l) => l.name === tap && l.tun?.isOpen),
    ...(limit ? { limit } : {}),
    rules: nic.rules.map((r) => {
      if (nic.type !== 'shared' && nic.type !== 'host') return { name: r.name, active: false, reason: `port forwarding has no use on type ${nic.type}` };
      const listener = status?.rules.find((x) => x.name === r.name);
      const active = listener?.listening ?? false;
      return { name: r.name, active, reason: active ? '' : (listener?.reason ?? 'the network service does not answer') };
    }),
  };
}

/** The NIC's tap is in the bridge of its network, or in none when it is disconnected. */
function isAttached(nic: DesiredNic, links: readonly Link[]): boolean {
  const master = links.find((l) => l.name === tapName(nic.id))?.master ?? null;
  if (nic.type === 'disconnected') return master === null;
  return nic.type === 'bridge' ? master !== null : master === BRIDGES[nic.type];
}

function dropsOf(nics: readonly DesiredNic[]): Drops {
  return nics.length > 0 ? readDrops(nics) : new Map();
}

function dropsOfTap(tap: string, drops: Drops): Record<string, number> {
  return Object.fromEntries(
    DROP_REASONS.flatMap((reason) => {
      const count = drops.get(reason)?.get(tap);
      return count ? [[reason, count]] : [];
    }),
  );
}

export async function readStats(nics: readonly DesiredNic[]): Promise<NicStats[]> {
  const counters = new Map(readCounters().map((c) => [c.name, c]));
  const drops = dropsOf(nics);
  return nics.flatMap(({ id }) => {
    const tap = tapName(id);
    const c = counters.get(tap);
    if (!c) return [];
    // the host's tap receives what the guest sends
    return [{ id, rxPackets: c.txPackets, rxBytes: c.txBytes, txPackets: c.rxPackets, txBytes: c.rxBytes, drops: dropsOfTap(tap, drops) }];
  });
}
