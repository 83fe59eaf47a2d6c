/**
 * `anka doctor` on other firewalls (B93): chains that drop what they do not know, and rules that drop guests' packets.
 *
 * Theory of operation: sample packets of each network, as its guests send and get them, are followed through the other
 * firewalls' rules (foreign-rules.ts) at every hook that they pass (hook-path.ts). Chains that may drop them and cannot
 * be followed are named.
 */
import { run } from '../../../host/exec.ts';
import { type Link, listAddresses } from '../../../host/links.ts';
import { readSysctl } from '../../../host/sysctl.ts';
import { fromHostOut, fromOutsideIn, type HookedPacket, type HookStage, towardsHost, towardsOutside } from '../../../net/explain/hook-path.ts';
import { LIMITED_BROADCAST } from '../../../net/policy/addresses.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import { formatSubnet, gatewayOf, parseIpv4 } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import type { RoutedNetwork } from '../../doctor/routing.ts';
import type { DesiredNic, DoctorFinding } from '../../engine.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT, tapName } from '../names.ts';
import { type ForeignChain, findFirewalls, type ListedRules, listRules, listXtables, OUR_PORTS } from './firewalls.ts';
import {
  acceptCommand,
  accepts,
  doubtfulFilters,
  type ForeignFilter,
  filterName,
  filterOf,
  foreignDrop,
  foreignFilters,
  letsPass,
  transit,
  type UnfollowedChain,
  unfollowedChains,
} from './foreign-filters.ts';
import { hasLegacyTable, PACKET_TABLES } from './legacy-tables.ts';

/** TEST-NET-3 (RFC 5737) stands for the outside. */
const OUTSIDE = parseIpv4('203.0.113.1') as number;

/** A port at which the host reaches its guests. */
const SSH_PORT = 22;

interface Sample {
  path: readonly HookStage[];
  /** `answer`: what comes back from outside. */
  way: 'from guest' | 'to guest' | 'answer';
  /** In words that follow "drops". */
  what: string;
}

/** A network, with the taps of its guests and the host's address at its uplink. */
interface ExaminedNetwork extends RoutedNetwork {
  taps: readonly string[];
  address: number | null;
}

/** `bridges`: those of the host's own, with their VMs. `nics`: all that there should be. */
export async function firewallFindings(
  routed: readonly RoutedNetwork[],
  bridges: ReadonlyMap<Link, readonly DesiredNic[]>,
  nics: readonly DesiredNic[],
): Promise<DoctorFinding[]> {
  const addresses = await listAddresses();
  const networks = routed.map((n): ExaminedNetwork => {
    const taps = nics.flatMap((nic) => (nic.type === n.network.name ? tapName(nic.id) : []));
    return { ...n, taps, address: parseIpv4(addresses.get(n.uplink ?? '')?.[0]?.split('/')[0] ?? '') };
  });
  const rules = await listRules();
  const filters = foreignFilters(rules, await listXtables(rules.nft));
  const closed = new Set<ForeignFilter>();
  const used = networks.length > 0 ? networks.map((n) => n.bridge) : Object.values(BRIDGES);
  const defaults = byDefault(findFirewalls(rules), { filters, closed, bridges: used });
  const open = filters.filter((f) => !closed.has(f));
  const found = [
    ...defaults,
    ...networks.flatMap((n) => byRule(open, n)),
    ...notEvaluated(rules, open, networks),
    ...(await onBridges(filters, bridges)),
    ...(await unreadable()),
  ];
  return found.length > 0 ? found : [{ id: 'firewall', level: 'ok', message: "no other firewall drops guests' packets", remedy: '' }];
}

/** Chains that drop what no rule accepts. Adds those without an accept for us to `closed`. `bridges`: our networks'. */
function byDefault(
  found: readonly ForeignChain[],
  { filters, closed, bridges }: { filters: readonly ForeignFilter[]; closed: Set<ForeignFilter>; bridges: readonly string[] },
): DoctorFinding[] {
  return found.map((f): DoctorFinding => {
    const base = filterOf(f, filters);
    const allowed = letsPass(f, filters);
    if (!allowed && base) closed.add(base);
    const directions = f.hook === 'forward' ? (['in', 'out'] as const) : (['in'] as const);
    // nothing is forwarded for the host network; the shell would replace a bare asterisk
    const devices = f.family === 'bridge' ? [OUR_PORTS.replace('*', '\\*')] : bridges.filter((b) => f.hook === 'input' || b === BRIDGES.shared);
    const commands = devices.flatMap((device) => directions.map((d) => acceptCommand(base ?? f, d, device)));
    return {
      id: `firewall.${f.owner}`,
      level: allowed ? 'ok' : 'warning',
      message: `${f.owner} drops packets by default in chain ${f.family} ${f.table} ${f.chain} (${f.hook})${f.allowed ? "; anka's accept rule is in place" : ''}`,
      remedy: allowed ? '' : `${commands.map((c) => `run '${c}'`).join(' and ')}; anka does so by itself within 10 s while a VM runs`,
    };
  });
}

/** Packets of a network's guests, with all that they are on their path. */
function samplesOf(n: ExaminedNetwork): Sample[] {
  const { network, bridge, guests, uplink, taps, address } = n;
  const { name, subnet } = network;
  const gateway = gatewayOf(subnet);
  const guest = guests[0] ?? gateway + 1;
  const toHost: HookedPacket = { iif: bridge, oif: '', source: guest, destination: gateway, protocol: 'udp', port: DNS_SERVICE_PORT, state: 'new' };
  const atTaps = taps.map((iif): HookStage => ({ hook: 'ingress', from: -Infinity, to: Infinity, packet: { ...toHost, iif, state: 'invalid' } }));
  const discover = { ...toHost, source: 0, destination: LIMITED_BROADCAST, port: DHCP_SERVER_PORT };
  const toGuest: HookedPacket = { iif: '', oif: bridge, source: gateway, destination: guest, protocol: 'udp', port: null, state: 'established' };
  // connection tracking knows the answer to a broadcast only if the guest has an address
  const offers = (['new', 'established'] as const).flatMap((state) => fromHostOut({ ...toGuest, port: DHCP_CLIENT_PORT, state }));
  const samples: Sample[] = [
    ...atTaps.map((s): Sample => ({ path: [s], way: 'from guest', what: `what a guest of the ${name} network sends at ${s.packet.iif}` })),
    { path: towardsHost(discover, { port: DHCP_PORTS[name], by: 'raw' }), way: 'from guest', what: `DHCP of guests of the ${name} network` },
    { path: towardsHost(toHost, { port: DNS_PORT, by: 'nat' }), way: 'from guest', what: `DNS queries of guests of the ${name} network` },
    { path: offers, way: 'to guest', what: `DHCP answers to guests of the ${name} network` },
    { path: fromHostOut(toGuest), way: 'to guest', what: `DNS answers to guests of the ${name} network` },
    {
      path: fromHostOut({ ...toGuest, protocol: 'tcp', port: SSH_PORT, state: 'new' }),
      way: 'to guest',
      what: `what this host sends to guests of the ${name} network`,
    },
  ];
  if (name === 'host' || uplink === null) return samples;
  const out = { ...toHost, oif: uplink, destination: OUTSIDE, protocol: 'tcp', port: 443 };
  const back = { ...toGuest, iif: uplink, source: OUTSIDE, protocol: 'tcp' };
  const first = address === null ? null : { destination: address, port: null };
  samples.push({ path: towardsOutside(out, address), way: 'from guest', what: `what guests of the ${name} network send to outside` });
  samples.push({ path: fromOutsideIn(first, back), way: 'answer', what: `answers to guests of the ${name} network` });
  return samples;
}

/** Single rules, and policies at hooks where anka adds no accept. What other chains do by default does not matter. */
function byRule(filters: readonly ForeignFilter[], network: ExaminedNetwork): DoctorFinding[] {
  const seen = new Set<string>();
  return samplesOf(network).flatMap((sample): DoctorFinding[] => {
    const drop = foreignDrop(filters, sample.path);
    if (drop === null) return [];
    const remedy = remedyFor(drop.filter, sample, network);
    // once for each remedy
    const key = `${drop.rule} ${filterName(drop.filter)} ${remedy}`;
    if (seen.has(key)) return [];
    seen.add(key);
    return [{ id: 'firewall.rule', level: 'error', message: `another firewall (${filterName(drop.filter)}) drops ${sample.what}: ${drop.rule}`, remedy }];
  });
}

const CONNTRACK_PRIORITY = -200;

/** How the packet gets past the filter. */
function remedyFor(filter: ForeignFilter, { way, path }: Sample, { bridge, uplink, network }: ExaminedNetwork): string {
  const run = (command: string): string => `if guests are not meant, run '${command}'`;
  if (way === 'from guest' && filter.hook === 'postrouting' && filter.by !== 'nft')
    return run(`${filter.by} -t ${filter.table} -I ${filter.chain} -s ${formatSubnet(network.subnet)} -o ${uplink} -j ACCEPT`);
  if (way === 'answer' && (filter.hook === 'ingress' || filter.hook === 'prerouting')) {
    if (filter.priority <= CONNTRACK_PRIORITY || filter.hook === 'ingress') return `change it so that answers that enter by ${uplink} pass`;
    if (filter.by !== 'nft') return run(`${filter.by} -t ${filter.table} -I ${filter.chain} -i ${uplink} -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`);
    return run(`nft insert rule ${filter.family} ${filter.table} ${filter.chain} iifname ${uplink} ct state established,related accept`);
  }
  const device = filter.hook === 'ingress' ? (path.find((s) => filter.devices.includes(s.packet.iif))?.packet.iif ?? bridge) : bridge;
  return run(acceptCommand(filter, way === 'from guest' ? 'in' : 'out', device));
}

/** Chains that may drop guests' packets, as far as they are understood. */
function notEvaluated(rules: ListedRules, filters: readonly ForeignFilter[], networks: readonly ExaminedNetwork[]): DoctorFinding[] {
  const interfaces = networks.flatMap(({ bridge, uplink, taps }) => [bridge, ...taps, ...(uplink === null ? [] : [uplink])]);
  const port = networks.flatMap((n) => n.taps)[0] ?? OUR_PORTS;
  const samples = networks.flatMap(samplesOf);
  const dropping = new Set(samples.flatMap(({ path }) => foreignDrop(filters, path)?.filter ?? []));
  const doubtful = new Set(samples.flatMap(({ path }) => doubtfulFilters(filters, path)));
  const ofFilter = [...doubtful].filter((f) => !dropping.has(f)).map((f) => finding(f, 'some conditions of its rules'));
  return [...unfollowedChains(rules, networks.length > 0 ? interfaces : [], port).map((c) => finding(c, `chains of this kind`)), ...ofFilter];
}

function finding(c: UnfollowedChain | ForeignFilter, what: string): DoctorFinding {
  const by = 'by' in c ? c.by : 'nft';
  const command = by === 'nft' ? `nft list table ${c.family} ${c.table}` : `${by} -t ${c.table} -S`;
  const name = 'by' in c ? filterName(c) : `chain ${c.family} ${c.table} ${c.chain}`;
  return {
    id: 'firewall.unevaluated',
    level: 'warning',
    message: `another firewall (${name}, hook ${c.hook}) may drop guests' packets: anka does not evaluate ${what}`,
    remedy: `if guests lack a network, see '${command}'`,
  };
}

/** Frames between ports of the host's own bridges pass the forward chains where br_netfilter has them pass. */
async function onBridges(filters: readonly ForeignFilter[], bridges: ReadonlyMap<Link, readonly DesiredNic[]>): Promise<DoctorFinding[]> {
  const everywhere = (await readSysctl('net/bridge/bridge-nf-call-iptables')) === '1';
  return [...bridges].flatMap(([bridge, nics]): DoctorFinding[] => {
    if (!everywhere && !bridge.callsIptables) return [];
    const packet = transit(bridge.name, bridge.name);
    const path: HookStage[] = [{ hook: 'forward', from: -Infinity, to: Infinity, packet }];
    const closed = filters.find((f) => f.hook === 'forward' && !accepts(f, packet) && (f.chains.get(f.chain)?.policy === 'drop' || foreignDrop([f], path)));
    if (!closed) return [];
    const vms = nics.map((n) => n.vmName).join(', ');
    const command = acceptCommand(closed, 'in', bridge.name).replace(
      bridge.name,
      closed.by === 'nft' ? `${bridge.name} oifname ${bridge.name}` : `${bridge.name} -o ${bridge.name}`,
    );
    return [
      {
        id: 'firewall.bridge',
        level: 'error',
        message: `frames on ${bridge.name} pass the host's firewall (bridge-nf-call-iptables), and ${filterName(closed)} drops them: ${vms} cannot reach the network`,
        remedy: `run '${command}'`,
      },
    ];
  });
}

/** Tables of iptables-legacy without the program that reads them. */
async function unreadable(): Promise<DoctorFinding[]> {
  const isMissing = async (): Promise<boolean> =>
    run('iptables-legacy', ['-V']).then(
      () => false,
      () => true,
    );
  const tables = await Promise.all((['filter', ...PACKET_TABLES] as const).map((t) => hasLegacyTable(t)));
  if (!tables.includes(true) || !(await isMissing())) return [];
  const message = 'this host has rules of iptables-legacy, which are not visible without that program: they may drop packets of guests';
  return [{ id: 'firewall.unreadable', level: 'warning', message, remedy: "run 'apt-get install iptables'" }];
}
