/**
 * `anka doctor` on the kernel engine: faults of this host that break the networks, and their remedies (B93). Read-only.
 */
import { accessSync, constants } from 'node:fs';
import { foreignMacDoubt, interfaceIndex } from '../../host/ethernet.ts';
import { ebpfRefusal } from '../../host/ffi/bpf.ts';
import { type Link, listLinks, listRoutes, type Route } from '../../host/links.ts';
import { tableExists } from '../../host/netlink/tables.ts';
import { Routing } from '../../host/routing.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { vhostRefusal } from '../../host/vhost.ts';
import { accelerationFinding } from '../doctor/acceleration.ts';
import { programFindings, type RequiredProgram } from '../doctor/programs.ts';
import { type DnsForwarderProcess, resolverFindings } from '../doctor/resolvers.ts';
import { guestRouting, type RoutedNetwork, routedNetwork } from '../doctor/routing.ts';
import { storageFindings } from '../doctor/storage.ts';
import { subnetFindings } from '../doctor/subnet-clash.ts';
import type { DesiredState, DoctorFinding, ObservedNic } from '../engine.ts';
import { hostBridges, spanningTreeFindings, waitingPort } from './bridging/spanning-tree.ts';
import { isOurs } from './link-plan.ts';
import { ALL_TABLES, BRIDGES, cardBridgeNames, segmentNames, tapName } from './names.ts';
import { findFlowFeatures } from './rules/applied-flow-table.ts';
import { firewallFindings } from './rules/firewall-findings.ts';

const PROGRAMS: RequiredProgram[] = [
  ['ip', ['-V'], 'iproute2'],
  ['nft', ['--version'], 'nftables'],
];

/** arp_ignore: answer for no local address. */
const ARP_SILENT = 8;

/** `observed`: the NICs as the engine observes them. `directories`: those to which anka writes. */
export async function examineHost(
  desired: DesiredState,
  observed: readonly ObservedNic[],
  forwarders: readonly DnsForwarderProcess[],
  directories: readonly string[],
): Promise<DoctorFinding[]> {
  const links = await listLinks();
  const routing = await Routing.read();
  const networks = routedNetworks(routing, desired, observed);
  return [
    ...(await programFindings(PROGRAMS)),
    rights(),
    accelerationFinding(0),
    vhost(),
    ...(await firewallFindings(networks, hostBridges(desired, links), desired.nics)),
    ...subnetFindings(desired.networks, await foreignRoutes()),
    ...guestRouting(routing, networks),
    ...(await forwarding(desired, networks)),
    ...(await connections()),
    ...ports(desired, observed),
    ...(await resolverFindings(desired, forwarders)),
    ...interfaces(desired, observed, links),
    ...ebpf(),
    ...(await addressResolution()),
    ...(await storageFindings(directories)),
    ...(await leftovers(desired, links)),
  ];
}

function rights(): DoctorFinding {
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
    return { id: 'rights.tun', level: 'ok', message: '/dev/net/tun can be opened', remedy: '' };
  } catch (cause) {
    return {
      id: 'rights.tun',
      level: 'error',
      message: `/dev/net/tun cannot be opened (${(cause as NodeJS.ErrnoException).code})`,
      remedy: "run 'modprobe tun' as root, or 'anka config engine user'",
    };
  }
}

function vhost(): DoctorFinding {
  const refusal = vhostRefusal();
  if (refusal === null) return { id: 'rights.vhost', level: 'ok', message: '/dev/vhost-net can be opened', remedy: '' };
  const message = `${refusal}: QEMU moves the frames of VMs, at a lower rate and with more CPU time`;
  return { id: 'rights.vhost', level: 'warning', message, remedy: "run 'modprobe vhost_net' as root, and start the VMs again" };
}

async function foreignRoutes(): Promise<Route[]> {
  const ours = Object.values(BRIDGES) as string[];
  return (await listRoutes()).filter((r) => !ours.includes(r.dev));
}

/** Networks whose bridges exist. */
function routedNetworks(routing: Routing, desired: DesiredState, observed: readonly ObservedNic[]): RoutedNetwork[] {
  return desired.networks.flatMap((network): RoutedNetwork[] => {
    const bridge = BRIDGES[network.name];
    if (interfaceIndex(bridge) === null) return [];
    const cards = new Set(desired.nics.flatMap((n) => (n.type === network.name ? n.id : [])));
    const guests = observed.flatMap((n) => (cards.has(n.id) ? n.addresses.map((a) => a.ip) : []));
    return [routedNetwork(routing, network, bridge, guests)];
  });
}

async function forwarding(desired: DesiredState, networks: readonly RoutedNetwork[]): Promise<DoctorFinding[]> {
  const off: string[] = [];
  const defaults = (await listRoutes()).flatMap((r) => (r.isDefault ? r.dev : []));
  const devices = new Set<string>([...networks.flatMap(({ bridge, uplink }) => [bridge, uplink ?? bridge]), ...defaults]);
  for (const dev of devices) if ((await readSysctl(`net/ipv4/conf/${dev}/forwarding`)) === '0') off.push(dev);
  if (off.length === 0) return [{ id: 'forwarding', level: 'ok', message: 'IP forwarding is on where it is needed', remedy: '' }];
  return [
    {
      id: 'forwarding',
      level: desired.nics.length > 0 ? 'error' : 'ok',
      message: `IP forwarding is off on ${off.join(', ')}${desired.nics.length > 0 ? '' : ' (anka enables it when a VM starts)'}`,
      remedy: desired.nics.length > 0 ? off.map((d) => `sysctl -w net.ipv4.conf.${d}.forwarding=1`).join('; ') : '',
    },
  ];
}

/** What the kernel does for guests' connections. */
async function connections(): Promise<DoctorFinding[]> {
  const { timeouts, count } = await findFlowFeatures();
  const found: DoctorFinding[] = [];
  if (!timeouts)
    found.push({
      id: 'connections.timeouts',
      level: 'warning',
      message: "nft has no timeouts for connections here: silent and half-closed ones of VMs expire by this host's own settings",
      remedy: "'modprobe nft_ct'; the kernel needs CONFIG_NF_CONNTRACK_TIMEOUT",
    });
  if (!count)
    found.push({
      id: 'connections.limit',
      level: 'warning',
      message: 'nft does not count connections here: one VM can fill the connection table of this host',
      remedy: "'modprobe nft_connlimit'; the kernel needs CONFIG_NFT_CONNLIMIT",
    });
  return found.length > 0 ? found : [{ id: 'connections', level: 'ok', message: 'connections of VMs have a timeout and a limit', remedy: '' }];
}

/** Port forwarding rules whose host port cannot be opened. */
function ports(desired: DesiredState, observed: readonly ObservedNic[]): DoctorFinding[] {
  const taken = desired.nics.flatMap((nic) => {
    const rules = observed.find((s) => s.id === nic.id)?.rules ?? [];
    return nic.rules.flatMap((rule) => {
      const reason = rules.find((r) => r.name === rule.name)?.reason ?? '';
      return /^another program holds|^no right to open|^this host has no address/.test(reason) ? [{ nic, rule, reason }] : [];
    });
  });
  if (taken.length === 0) return [{ id: 'ports', level: 'ok', message: 'every forwarded port is open', remedy: '' }];
  return taken.map(({ nic, rule, reason }) => ({
    id: 'ports.taken',
    level: 'error',
    message: `rule '${rule.name}' of ${nic.vmName} is inactive: ${reason}`,
    remedy: `stop that program ('ss -H -l${rule.protocol === 'tcp' ? 't' : 'u'}np sport = :${rule.hostPort}' shows it), or give the rule another port`,
  }));
}

function ebpf(): DoctorFinding[] {
  const refusal = ebpfRefusal();
  if (refusal === null) return [{ id: 'rights.ebpf', level: 'ok', message: 'eBPF programs can be loaded', remedy: '' }];
  return [
    {
      id: 'rights.ebpf',
      level: 'warning',
      message: `${refusal}: --mac and --vlan are unavailable, and bridged VMs and this host cannot reach each other`,
      remedy: 'grant the daemon CAP_BPF (in a container: allow bpf(2)), or add the interface to a bridge and pass that bridge with -b',
    },
  ];
}

/** The host answers ARP for its own addresses; with arp_ignore 8 it does for none. */
async function addressResolution(): Promise<DoctorFinding[]> {
  const off: string[] = [];
  for (const dev of ['all', ...Object.values(BRIDGES)]) if (Number(await readSysctl(`net/ipv4/conf/${dev}/arp_ignore`)) >= ARP_SILENT) off.push(dev);
  if (off.length === 0) return [{ id: 'arp', level: 'ok', message: 'the host answers ARP for the gateways', remedy: '' }];
  const message = `net.ipv4.conf.${off.join(', ')}.arp_ignore is ${ARP_SILENT}: the host answers no ARP, so guests do not find their gateway`;
  return [{ id: 'arp', level: 'error', message, remedy: `run '${off.map((dev) => `sysctl -w net.ipv4.conf.${dev}.arp_ignore=0`).join('; ')}'` }];
}

/** Interfaces with bridged VMs whose frames the network beyond may drop. */
function interfaces(desired: DesiredState, observed: readonly ObservedNic[], links: readonly Link[]): DoctorFinding[] {
  const names = new Set(desired.nics.flatMap((n) => (n.type === 'bridge' && n.bridge ? [n.bridge] : [])));
  const limited = desired.nics.flatMap((n): DoctorFinding[] => {
    const limit = waitingPort(n, links) ? undefined : observed.find((s) => s.id === n.id)?.limit;
    const remedy = `add ${n.bridge} to a bridge and run 'anka modify ${n.vmName} set network-card -b BRIDGE', or allow eBPF`;
    return limit ? [{ id: 'bridge.macvlan', level: 'warning', message: `${n.vmName} is ${limit}`, remedy }] : [];
  });
  const doubts = [...names].flatMap((name): DoctorFinding[] => {
    const doubt = foreignMacDoubt(name);
    if (doubt === null) return [{ id: 'bridge', level: 'ok', message: `no known problem for VMs on ${name}`, remedy: '' }];
    return [
      {
        id: 'bridge.foreign-mac',
        level: 'warning',
        message: doubt,
        remedy: "allow several MAC addresses there, or run 'anka modify VM set network-card -t shared'",
      },
    ];
  });
  return [...doubts, ...limited, ...spanningTreeFindings(desired, links)];
}

async function leftovers(desired: DesiredState, links: readonly Link[]): Promise<DoctorFinding[]> {
  const wanted = new Set([
    ...desired.networks.map((n) => BRIDGES[n.name] as string),
    ...desired.nics.map((n) => tapName(n.id)),
    ...desired.nics.flatMap((n) =>
      n.type === 'bridge' && n.bridge ? [...Object.values(segmentNames(n.bridge)), ...Object.values(cardBridgeNames(n.id))] : [],
    ),
  ]);
  const left = links.filter((l) => isOurs(l) && !wanted.has(l.name)).map((l) => `interface ${l.name}`);
  if (desired.networks.length === 0) for (const [family, table] of ALL_TABLES) if (tableExists(family, table)) left.push(`nft table ${family} ${table}`);
  if (left.length === 0) return [{ id: 'leftovers', level: 'ok', message: 'no unused anka objects', remedy: '' }];
  return [{ id: 'leftovers', level: 'warning', message: `unused anka objects: ${left.join(', ')}`, remedy: "run 'anka network reset'" }];
}
