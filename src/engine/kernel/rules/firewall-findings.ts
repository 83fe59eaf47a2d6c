/**
 * `anka doctor` on other firewalls (B93): chains that drop what they do not know, and rules that drop guests' packets.
 *
 * Theory of operation: sample packets of each network, as its guests send and get them, are followed through the other
 * firewalls' rules (foreign-rules.ts).
 */
import { run } from '../../../host/exec.ts';
import type { Link } from '../../../host/links.ts';
import { readSysctl } from '../../../host/sysctl.ts';
import type { HookedPacket } from '../../../net/explain/kernel-engine.ts';
import { LIMITED_BROADCAST } from '../../../net/policy/addresses.ts';
import { gatewayOf, parseIpv4 } from '../../../wire/address.ts';
import type { RoutedNetwork } from '../../doctor/routing.ts';
import type { DesiredNic, DoctorFinding } from '../../engine.ts';
import { BRIDGES, DHCP_PORTS, DNS_PORT } from '../names.ts';
import { type ForeignChain, findFirewalls, listRules, OUR_PORTS } from './firewalls.ts';
import { acceptCommand, accepts, type ForeignFilter, filterName, filterOf, foreignDrop, foreignFilters, letsPass, transit } from './foreign-filters.ts';
import { hasLegacyTable } from './legacy-tables.ts';

/** TEST-NET-3 (RFC 5737) stands for the outside. */
const OUTSIDE = parseIpv4('203.0.113.1') as number;

interface Sample {
  hook: 'forward' | 'input';
  packet: HookedPacket;
  /** In words that follow "drops". */
  what: string;
}

/** `bridges`: those of the host's own, with their VMs. */
export async function firewallFindings(networks: readonly RoutedNetwork[], bridges: ReadonlyMap<Link, readonly DesiredNic[]>): Promise<DoctorFinding[]> {
  const rules = await listRules();
  const filters = foreignFilters(rules);
  const closed = new Set<ForeignFilter>();
  const used = networks.length > 0 ? networks.map((n) => n.bridge) : Object.values(BRIDGES);
  const defaults = byDefault(findFirewalls(rules), { filters, closed, bridges: used });
  const open = filters.filter((f) => !closed.has(f));
  const found = [...defaults, ...networks.flatMap((n) => byRule(open, n)), ...(await onBridges(filters, bridges)), ...(await unreadable())];
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

function samplesOf({ network, bridge, guests, uplink }: RoutedNetwork): Sample[] {
  const { name, subnet } = network;
  const gateway = gatewayOf(subnet);
  const guest = guests[0] ?? gateway + 1;
  const toHost = { iif: bridge, oif: '', protocol: 'udp', state: 'new' as const };
  const dhcp = { ...toHost, source: 0, destination: LIMITED_BROADCAST, port: DHCP_PORTS[name] };
  const samples: Sample[] = [
    { hook: 'input', packet: dhcp, what: `DHCP of guests of the ${name} network` },
    { hook: 'input', packet: { ...toHost, source: guest, destination: gateway, port: DNS_PORT }, what: `DNS queries of guests of the ${name} network` },
  ];
  if (name === 'host' || uplink === null) return samples;
  const out = { iif: bridge, oif: uplink, source: guest, destination: OUTSIDE, protocol: 'tcp', port: 443, state: 'new' as const };
  const back = { iif: uplink, oif: bridge, source: OUTSIDE, destination: guest, protocol: 'tcp', port: null, state: 'established' as const };
  samples.push({ hook: 'forward', packet: out, what: `what guests of the ${name} network send to outside` });
  samples.push({ hook: 'forward', packet: back, what: `answers to guests of the ${name} network` });
  return samples;
}

/** Single rules: what their chain does by default does not matter. */
function byRule(filters: readonly ForeignFilter[], network: RoutedNetwork): DoctorFinding[] {
  const seen = new Set<string>();
  return samplesOf(network).flatMap(({ hook, packet, what }): DoctorFinding[] => {
    const drop = foreignDrop(filters, hook, packet);
    if (drop === null || seen.has(`${drop.rule} ${filterName(drop.filter)}`)) return [];
    seen.add(`${drop.rule} ${filterName(drop.filter)}`);
    const direction = packet.oif === network.bridge ? 'out' : 'in';
    return [
      {
        id: 'firewall.rule',
        level: 'error',
        message: `another firewall (${filterName(drop.filter)}) drops ${what}: ${drop.rule}`,
        remedy: `if guests are not meant, run '${acceptCommand(drop.filter, direction, network.bridge)}'`,
      },
    ];
  });
}

/** Frames between ports of the host's own bridges pass the forward chains where br_netfilter has them pass. */
async function onBridges(filters: readonly ForeignFilter[], bridges: ReadonlyMap<Link, readonly DesiredNic[]>): Promise<DoctorFinding[]> {
  const everywhere = (await readSysctl('net/bridge/bridge-nf-call-iptables')) === '1';
  return [...bridges].flatMap(([bridge, nics]): DoctorFinding[] => {
    if (!everywhere && !bridge.callsIptables) return [];
    const packet = transit(bridge.name, bridge.name);
    const closed = filters.find(
      (f) => f.hook === 'forward' && !accepts(f, packet) && (f.chains.get(f.chain)?.policy === 'drop' || foreignDrop([f], 'forward', packet)),
    );
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
  if (!(await hasLegacyTable()) || !(await isMissing())) return [];
  const message = 'this host has rules of iptables-legacy, which are not visible without that program: they may drop packets of guests';
  return [{ id: 'firewall.unreadable', level: 'warning', message, remedy: "run 'apt-get install iptables'" }];
}
