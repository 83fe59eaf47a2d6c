/**
 * `anka doctor` on the kernel engine: faults of this host that break the networks, and their remedies (B93). Read-only.
 */
import { accessSync, constants } from 'node:fs';
import { foreignMacDoubt } from '../../host/ethernet.ts';
import { ebpfRefusal } from '../../host/ffi/bpf.ts';
import { listLinks, listRoutes, type Route } from '../../host/links.ts';
import { listTable } from '../../host/nft.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { programFindings, type RequiredProgram } from '../doctor/programs.ts';
import { type DnsForwarderProcess, resolverFindings } from '../doctor/resolvers.ts';
import { subnetFindings } from '../doctor/subnet-clash.ts';
import type { DesiredState, DoctorFinding, ObservedNic } from '../engine.ts';
import { isOurs } from './link-plan.ts';
import { BRIDGES, cardBridgeNames, segmentNames, TABLES, tapName } from './names.ts';
import { findFirewalls } from './rules/firewalls.ts';

const PROGRAMS: RequiredProgram[] = [
  ['ip', ['-V'], 'iproute2'],
  ['nft', ['--version'], 'nftables'],
];

/** `observed`: the NICs as the engine observes them. */
export async function examineHost(
  desired: DesiredState,
  observed: readonly ObservedNic[],
  forwarders: readonly DnsForwarderProcess[],
): Promise<DoctorFinding[]> {
  return [
    ...(await programFindings(PROGRAMS)),
    rights(),
    ...(await firewalls()),
    ...subnetFindings(desired.networks, await foreignRoutes()),
    ...(await forwarding(desired)),
    ...ports(desired, observed),
    ...(await resolverFindings(desired, forwarders)),
    ...interfaces(desired, observed),
    ...ebpf(),
    ...(await leftovers(desired)),
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
      remedy: "'modprobe tun' as root, or 'anka config engine user'",
    };
  }
}

async function firewalls(): Promise<DoctorFinding[]> {
  const found = await findFirewalls();
  if (found.length === 0) return [{ id: 'firewall', level: 'ok', message: 'no other firewall drops packets by default', remedy: '' }];
  return found.map((f) => ({
    id: `firewall.${f.owner}`,
    level: f.allowed ? 'ok' : 'warning',
    message: `${f.owner} drops packets by default in chain ${f.family} ${f.table} ${f.chain} (${f.hook})${f.allowed ? "; anka's accept rule is in place" : ''}`,
    remedy: f.allowed
      ? ''
      : f.owner === 'ufw'
        ? `'ufw allow in on ${BRIDGES.shared}' and 'ufw route allow in on ${BRIDGES.shared}'`
        : `accept ${BRIDGES.shared} and ${BRIDGES.host} in that chain; anka adds the rules when a VM starts`,
  }));
}

async function foreignRoutes(): Promise<Route[]> {
  const ours = Object.values(BRIDGES) as string[];
  return (await listRoutes()).filter((r) => !ours.includes(r.dev));
}

async function forwarding(desired: DesiredState): Promise<DoctorFinding[]> {
  const off: string[] = [];
  const devices = new Set([...desired.networks.map((n) => BRIDGES[n.name] as string), ...(await listRoutes()).filter((r) => r.isDefault).map((r) => r.dev)]);
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

/** Interfaces with bridged VMs whose frames the network beyond may drop. */
function interfaces(desired: DesiredState, observed: readonly ObservedNic[]): DoctorFinding[] {
  const names = new Set(desired.nics.flatMap((n) => (n.type === 'bridge' && n.bridge ? [n.bridge] : [])));
  const limited = desired.nics.flatMap((n): DoctorFinding[] => {
    const limit = observed.find((s) => s.id === n.id)?.limit;
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
  return [...doubts, ...limited];
}

async function leftovers(desired: DesiredState): Promise<DoctorFinding[]> {
  const wanted = new Set([
    ...desired.networks.map((n) => BRIDGES[n.name] as string),
    ...desired.nics.map((n) => tapName(n.id)),
    ...desired.nics.flatMap((n) =>
      n.type === 'bridge' && n.bridge ? [...Object.values(segmentNames(n.bridge)), ...Object.values(cardBridgeNames(n.id))] : [],
    ),
  ]);
  const left = (await listLinks()).filter((l) => isOurs(l) && !wanted.has(l.name)).map((l) => `interface ${l.name}`);
  if (desired.networks.length === 0)
    for (const [family, table] of TABLES) if ((await listTable(family, table)) !== null) left.push(`nft table ${family} ${table}`);
  if (left.length === 0) return [{ id: 'leftovers', level: 'ok', message: 'no unused anka objects', remedy: '' }];
  return [{ id: 'leftovers', level: 'warning', message: `unused anka objects: ${left.join(', ')}`, remedy: 'anka network reset' }];
}
