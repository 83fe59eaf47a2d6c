/** `anka doctor` on the user engine: faults and limits of this host, and their remedies (B93). Read-only. */
import { landlockAbi } from '../../host/ffi/landlock.ts';
import type { Route } from '../../host/links.ts';
import { Routing } from '../../host/routing.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { accelerationFinding } from '../doctor/acceleration.ts';
import { programFindings } from '../doctor/programs.ts';
import { type DnsForwarderProcess, resolverFindings } from '../doctor/resolvers.ts';
import { ownRouting } from '../doctor/routing.ts';
import { storageFindings } from '../doctor/storage.ts';
import { subnetFindings } from '../doctor/subnet-clash.ts';
import type { DesiredState, DoctorFinding } from '../engine.ts';
import { portRange } from './port-range.ts';
import { socketsWithin } from './sockets/socket-limit.ts';

/** Concurrent connections that the guests of one network should be able to open. */
const ENOUGH_CONNECTIONS = 1000;

/** The process that sends guests' ICMP echo requests; not always this one (docs/decisions/0012). */
export interface Pinger {
  groups: readonly number[];
  /** The owner of these groups, as the finding names it. */
  whose: string;
  /** What a running network process has found out; null when none runs. */
  allowed: boolean | null;
}

/** What the engine knows of its host. */
export interface HostFacts {
  /** The host's routes without those of anka. */
  foreignRoutes: readonly Route[];
  forwarders: readonly DnsForwarderProcess[];
  pinger: Pinger;
  /** User id of the network processes. */
  uid: number;
  /** The limit of open files of a network process. */
  openFiles: number;
  /** To which anka writes. */
  directories: readonly string[];
}

export async function examineHost(
  desired: DesiredState,
  { foreignRoutes, forwarders, pinger, uid, openFiles, directories }: HostFacts,
): Promise<DoctorFinding[]> {
  return [
    ...(await programFindings()),
    accelerationFinding(process.getuid?.() ?? 0),
    await ping(pinger),
    await lowPorts(desired),
    files(openFiles),
    ownFiles(),
    ...subnetFindings(desired.networks, foreignRoutes),
    ...(await routing(uid)),
    ...(await portRange()),
    ...(await storageFindings(directories)),
    ...(await resolverFindings(desired, forwarders)),
  ];
}

/** Nothing is known where the system is not Linux. */
async function routing(uid: number): Promise<DoctorFinding[]> {
  const known = await Routing.read().catch(() => null);
  return known ? ownRouting(known, uid) : [];
}

/** Ping sockets: whether a group of the pinging process is in the range that may open them. */
async function ping(pinger: Pinger): Promise<DoctorFinding> {
  const text = await readSysctl('net/ipv4/ping_group_range');
  const [low, high] = (text ?? '1 0').trim().split(/\s+/).map(Number) as [number, number];
  const allowed = pinger.allowed ?? pinger.groups.some((g) => g >= low && g <= high);
  if (allowed) return { id: 'rights.ping', level: 'ok', message: 'guests can ping outside addresses', remedy: '' };
  return {
    id: 'rights.ping',
    level: 'warning',
    message: `guests cannot ping outside addresses: net.ipv4.ping_group_range (${low} ${high}) excludes ${pinger.whose}; TCP and UDP are not affected`,
    remedy: 'run \'sysctl -w net.ipv4.ping_group_range="0 2147483647"\' as root',
  };
}

async function lowPorts(desired: DesiredState): Promise<DoctorFinding> {
  const first = Number((await readSysctl('net/ipv4/ip_unprivileged_port_start')) ?? '1024');
  const barred = process.getuid?.() === 0 ? [] : desired.nics.flatMap((n) => n.rules.filter((r) => r.hostPort < first).map((r) => `${n.vmName}/${r.name}`));
  if (barred.length === 0) return { id: 'rights.ports', level: 'ok', message: 'every forwarded port is allowed', remedy: '' };
  return {
    id: 'rights.ports',
    level: 'error',
    message: `host ports below ${first} require root: ${barred.join(', ')}`,
    remedy: `choose host ports from ${first} up, or run 'sysctl -w net.ipv4.ip_unprivileged_port_start=80' as root`,
  };
}

/** Node raises the soft limit to the hard one at start, so this is the hard limit. */
function files(limit: number): DoctorFinding {
  const connections = Math.floor(socketsWithin(limit));
  if (connections >= ENOUGH_CONNECTIONS)
    return { id: 'limits.files', level: 'ok', message: "the limit of open files is high enough for guests' connections", remedy: '' };
  return {
    id: 'limits.files',
    level: 'warning',
    message: `a network process may open ${limit} files (hard limit, 'ulimit -Hn'): its guests together are limited to ${connections} TCP connections to outside; more are not answered`,
    remedy:
      "as root, add 'USER hard nofile 1048576' to /etc/security/limits.conf (or set LimitNOFILE= in the service that starts anka); then stop your VMs, run 'anka network reset' and 'anka daemon stop', and log in again",
  };
}

function ownFiles(): DoctorFinding {
  if (process.platform !== 'linux')
    return { id: 'rights.files', level: 'ok', message: 'this system has no Landlock: network processes can open your files', remedy: '' };
  if (landlockAbi() > 0) return { id: 'rights.files', level: 'ok', message: 'network processes can open only their own files', remedy: '' };
  return {
    id: 'rights.files',
    level: 'warning',
    message: 'this kernel has no Landlock: network processes, which parse packets of guests, can open every file that you can',
    remedy: "boot Linux 5.13 or later with 'landlock' in the kernel parameter 'lsm='",
  };
}
