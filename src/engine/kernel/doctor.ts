/** What on this host breaks the networks, or would, and how to mend it (B93). Looks only, changes nothing. */
import { accessSync, constants } from 'node:fs';
import { run } from '../../host/exec.ts';
import { listLinks, listRoutes } from '../../host/links.ts';
import { readResolvers } from '../../host/resolvers.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { formatSubnet, subnetsOverlap } from '../../wire/address.ts';
import type { DesiredState, DoctorFinding } from '../engine.ts';
import { findFirewalls } from './firewalls.ts';
import { BRIDGES, tapName } from './names.ts';
import { isOurs } from './plan.ts';

const NEEDED: [program: string, args: string[], pkg: string][] = [
  ['ip', ['-V'], 'iproute2'],
  ['nft', ['--version'], 'nftables'],
  ['qemu-system-x86_64', ['--version'], 'qemu-system-x86'],
  ['qemu-img', ['--version'], 'qemu-utils'],
  ['ssh', ['-V'], 'openssh-client'],
];

export async function examineHost(desired: DesiredState): Promise<DoctorFinding[]> {
  const findings = [
    ...(await programs()),
    rights(),
    ...(await firewalls()),
    ...(await subnets(desired)),
    ...(await forwarding(desired)),
    resolvers(),
    ...(await leftovers(desired)),
  ];
  return findings;
}

async function programs(): Promise<DoctorFinding[]> {
  const missing: string[] = [];
  for (const [program, args, pkg] of NEEDED) await run(program, args).catch(() => missing.push(pkg));
  if (missing.length === 0) return [{ id: 'programs', level: 'ok', message: 'all programs that are needed are installed', remedy: '' }];
  return [{ id: 'programs', level: 'error', message: `programs are missing: ${missing.join(', ')}`, remedy: `apt-get install ${missing.join(' ')}` }];
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
  if (found.length === 0) return [{ id: 'firewall', level: 'ok', message: 'no other firewall drops by policy', remedy: '' }];
  return found.map((f) => ({
    id: `firewall.${f.owner}`,
    level: f.allowed ? 'ok' : 'warning',
    message: `${f.owner} drops by policy in chain ${f.family} ${f.table} ${f.chain} (${f.hook})${f.allowed ? '; our accept is in it' : ''}`,
    remedy: f.allowed
      ? ''
      : f.owner === 'ufw'
        ? `'ufw allow in on ${BRIDGES.shared}' and 'ufw route allow in on ${BRIDGES.shared}'`
        : `accept ${BRIDGES.shared} and ${BRIDGES.host} in it; anka does so by itself when a VM starts`,
  }));
}

async function subnets(desired: DesiredState): Promise<DoctorFinding[]> {
  const routes = await listRoutes();
  const ours = Object.values(BRIDGES) as string[];
  const clashes = desired.networks.flatMap((n) =>
    routes.filter((r) => !r.isDefault && !ours.includes(r.dev) && subnetsOverlap(r, n.subnet)).map((r) => ({ n, r })),
  );
  if (clashes.length === 0) return [{ id: 'subnet', level: 'ok', message: 'no route of this host touches our subnets', remedy: '' }];
  return clashes.map(({ n, r }) => ({
    id: 'subnet.clash',
    level: 'error',
    message: `the ${n.name} network's ${formatSubnet(n.subnet)} clashes with the route to ${formatSubnet(r)} through ${r.dev}`,
    remedy: `'anka config ${n.name}_subnet 192.168.N.0/24' with a free N`,
  }));
}

async function forwarding(desired: DesiredState): Promise<DoctorFinding[]> {
  const off: string[] = [];
  const devices = new Set([...desired.networks.map((n) => BRIDGES[n.name] as string), ...(await listRoutes()).filter((r) => r.isDefault).map((r) => r.dev)]);
  for (const dev of devices) if ((await readSysctl(`net/ipv4/conf/${dev}/forwarding`)) === '0') off.push(dev);
  if (off.length === 0) return [{ id: 'forwarding', level: 'ok', message: 'packets are forwarded on every interface that needs it', remedy: '' }];
  return [
    {
      id: 'forwarding',
      level: desired.nics.length > 0 ? 'error' : 'ok',
      message: `forwarding is off on ${off.join(', ')}${desired.nics.length > 0 ? '' : ' (switched on when a VM starts)'}`,
      remedy: desired.nics.length > 0 ? off.map((d) => `sysctl -w net.ipv4.conf.${d}.forwarding=1`).join('; ') : '',
    },
  ];
}

function resolvers(): DoctorFinding {
  const servers = readResolvers();
  if (servers.length > 0) return { id: 'resolver', level: 'ok', message: `names are asked of ${servers.join(', ')}`, remedy: '' };
  return {
    id: 'resolver',
    level: 'warning',
    message: '/etc/resolv.conf names no server: guests cannot resolve outside names',
    remedy: "name one there, or 'anka config dns_servers ADDRESS'",
  };
}

async function leftovers(desired: DesiredState): Promise<DoctorFinding[]> {
  const wanted = new Set([...desired.networks.map((n) => BRIDGES[n.name] as string), ...desired.nics.map((n) => tapName(n.id))]);
  const left = (await listLinks()).filter((l) => isOurs(l) && !wanted.has(l.name)).map((l) => l.name);
  if (left.length === 0) return [{ id: 'leftovers', level: 'ok', message: 'nothing of ours is left over', remedy: '' }];
  return [{ id: 'leftovers', level: 'warning', message: `interfaces of ours that belong to no VM: ${left.join(', ')}`, remedy: 'anka network reset' }];
}
