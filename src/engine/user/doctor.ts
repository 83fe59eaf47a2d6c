/**
 * What on this host limits or breaks the networks of the user engine, and how to mend it (B93). Looks only, changes
 * nothing.
 */
import { accessSync, constants } from 'node:fs';
import { run } from '../../host/exec.ts';
import { landlockAbi } from '../../host/ffi/landlock.ts';
import { readSysctl } from '../../host/sysctl.ts';
import { type Asker, resolverFindings } from '../doctor/resolvers.ts';
import type { DesiredState, DoctorFinding, EngineProblem } from '../engine.ts';
import { socketsWithin } from './sockets/socket-limit.ts';

const NEEDED: [program: string, args: string[], pkg: string][] = [
  ['qemu-system-x86_64', ['--version'], 'qemu-system-x86'],
  ['qemu-img', ['--version'], 'qemu-utils'],
  ['ssh', ['-V'], 'openssh-client'],
];

/** Connections that the guests of a network should be able to have open at once. */
const ENOUGH_CONNECTIONS = 1000;

/** Who sends guests' echoes: not always this process (docs/decisions/0012). */
export interface Pinger {
  groups: readonly number[];
  /** Whose groups they are, in words. */
  whose: string;
  /** What a network process that runs has found out; null when there is none. */
  allowed: boolean | null;
}

/** `clashes` are the subnet problems that `validate` finds, `openFiles` what a network process may have open. */
export async function examineHost(
  desired: DesiredState,
  clashes: readonly EngineProblem[],
  askers: readonly Asker[],
  pinger: Pinger,
  openFiles: number,
): Promise<DoctorFinding[]> {
  return [
    await programs(),
    acceleration(),
    await ping(pinger),
    await lowPorts(desired),
    files(openFiles),
    ownFiles(),
    ...subnets(clashes),
    ...(await resolverFindings(desired, askers)),
  ];
}

async function programs(): Promise<DoctorFinding> {
  const missing: string[] = [];
  for (const [program, args, pkg] of NEEDED) await run(program, args).catch(() => missing.push(pkg));
  if (missing.length === 0) return { id: 'programs', level: 'ok', message: 'all programs that are needed are installed', remedy: '' };
  return { id: 'programs', level: 'error', message: `programs are missing: ${missing.join(', ')}`, remedy: `apt-get install ${missing.join(' ')}` };
}

function acceleration(): DoctorFinding {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return { id: 'rights.kvm', level: 'ok', message: '/dev/kvm can be opened', remedy: '' };
  } catch (cause) {
    const absent = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    return {
      id: 'rights.kvm',
      level: 'warning',
      message: absent ? 'this host has no /dev/kvm: guests are emulated, and slow' : '/dev/kvm may not be opened by you: guests are emulated, and slow',
      remedy: absent ? "switch virtualisation on in the firmware, or 'modprobe kvm' as root" : "'usermod -aG kvm YOU' as root, then log in again",
    };
  }
}

/** Ping sockets: whether the group of whoever pings is in the range that may open them. */
async function ping(pinger: Pinger): Promise<DoctorFinding> {
  const text = await readSysctl('net/ipv4/ping_group_range');
  const [low, high] = (text ?? '1 0').trim().split(/\s+/).map(Number) as [number, number];
  const allowed = pinger.allowed ?? pinger.groups.some((g) => g >= low && g <= high);
  if (allowed) return { id: 'rights.ping', level: 'ok', message: 'guests can ping outside addresses', remedy: '' };
  return {
    id: 'rights.ping',
    level: 'warning',
    message: `guests cannot ping outside addresses: net.ipv4.ping_group_range (${low} ${high}) leaves ${pinger.whose} out; TCP and UDP are not concerned`,
    remedy: "sysctl -w net.ipv4.ping_group_range='0 2147483647'",
  };
}

async function lowPorts(desired: DesiredState): Promise<DoctorFinding> {
  const first = Number((await readSysctl('net/ipv4/ip_unprivileged_port_start')) ?? '1024');
  const barred = process.getuid?.() === 0 ? [] : desired.nics.flatMap((n) => n.rules.filter((r) => r.hostPort < first).map((r) => `${n.vmName}/${r.name}`));
  if (barred.length === 0) return { id: 'rights.ports', level: 'ok', message: 'every forwarded port may be opened', remedy: '' };
  return {
    id: 'rights.ports',
    level: 'error',
    message: `host ports below ${first} need root: ${barred.join(', ')}`,
    remedy: `choose host ports from ${first} up, or 'sysctl -w net.ipv4.ip_unprivileged_port_start=80'`,
  };
}

/** Node has raised the limit as far as it may be, so it is the hard one. */
function files(limit: number): DoctorFinding {
  const connections = Math.floor(socketsWithin(limit));
  if (connections >= ENOUGH_CONNECTIONS)
    return { id: 'limits.files', level: 'ok', message: "the limit of open files leaves room for guests' connections", remedy: '' };
  return {
    id: 'limits.files',
    level: 'warning',
    message: `a network's process may have ${limit} files open (hard limit, 'ulimit -Hn'): all its guests together can have ${connections} TCP connections beyond this host, and further ones are not answered`,
    remedy:
      "as root: a line 'YOU hard nofile 1048576' in /etc/security/limits.conf (or LimitNOFILE= of the service that starts anka); then stop your VMs, 'anka network reset', 'anka daemon stop', and log in again",
  };
}

function ownFiles(): DoctorFinding {
  if (process.platform !== 'linux')
    return { id: 'rights.files', level: 'ok', message: "this system has no Landlock: a network's process may open your files", remedy: '' };
  if (landlockAbi() > 0) return { id: 'rights.files', level: 'ok', message: "a network's process opens no files but its own", remedy: '' };
  return {
    id: 'rights.files',
    level: 'warning',
    message: "this kernel has no Landlock: a network's process, which reads what guests send, may open all files that you may",
    remedy: "Linux 5.13 or later with 'landlock' among the 'lsm=' of its command line",
  };
}

function subnets(clashes: readonly EngineProblem[]): DoctorFinding[] {
  if (clashes.length === 0) return [{ id: 'subnet', level: 'ok', message: 'no route of this host touches our subnets', remedy: '' }];
  return clashes.map((c) => ({
    id: 'subnet.clash',
    level: 'error',
    message: c.message,
    remedy: "'anka config shared_subnet' or 'host_subnet' with a free one",
  }));
}
