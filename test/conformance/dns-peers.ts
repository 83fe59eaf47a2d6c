/**
 * Real DNS programs as peers, from scripts/dns-peers.sh or installed. Each runs in a namespace, with files of its own
 * where it would use those of the system.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Namespace, until, type World } from '../world/world.ts';

const UNPACKED = fileURLToPath(new URL('../../.cache/dns-peers', import.meta.url));
const PLACES: Record<string, string[]> = {
  unbound: ['/usr/sbin/unbound'],
  'systemd-resolved': ['/lib/systemd/systemd-resolved', '/usr/lib/systemd/systemd-resolved'],
  dnsmasq: ['/usr/sbin/dnsmasq'],
  dnsperf: ['/usr/bin/dnsperf'],
};

/** Path of a program; undefined if there is none. */
export function peer(program: keyof typeof PLACES): string | undefined {
  return [UNPACKED, ''].flatMap((root) => (PLACES[program] ?? []).map((p) => root + p)).find((p) => existsSync(p));
}

/** Where unpacked programs find their libraries. */
const LIBRARIES = {
  LD_LIBRARY_PATH: ['usr/lib', 'lib'].flatMap((d) => [d, ...subdirectories(d)].map((x) => join(UNPACKED, x))).join(':'),
};

function subdirectories(directory: string): string[] {
  const path = join(UNPACKED, directory);
  if (!existsSync(path)) return [];
  const below = readdirSync(path, { withFileTypes: true }).flatMap((e) =>
    e.isDirectory() && /^(.*-linux-gnu|systemd)$/.test(e.name) ? [join(directory, e.name)] : [],
  );
  return below.flatMap((d) => [d, ...subdirectories(d)]);
}

/** The environment of peers: they find their libraries. */
export const peerEnvironment = (program: string): Record<string, string> => (peer(program)?.startsWith(UNPACKED) ? LIBRARIES : {});

/** Names that each upstream server knows. */
export const RECORDS = {
  /** Its address says who answered: see `addressAt`. */
  name: 'www.example.test',
  /** A TXT record that fits no UDP answer of 1232 bytes. */
  large: ['large.example.test', 'x'.repeat(1400)],
} as const;

/** The address of that name at the server with this address. */
export const addressAt = (server: string): string => server.replace(/^.*\./, '203.0.113.');

export interface PeerRole {
  world: World;
  ns: Namespace;
  /** Where it listens, on port 53. */
  address: string;
  /** A forwarder of all queries to this server; absent: it knows `RECORDS`. */
  upstream?: string;
}

/** Starts a program and waits until it answers. Returns a file with what it logged. */
export async function startPeer(program: 'unbound' | 'systemd-resolved' | 'dnsmasq', role: PeerRole): Promise<string> {
  const dir = join(role.world.dir, `${program}-${role.address}`);
  mkdirSync(dir, { recursive: true });
  const log = join(dir, 'log');
  writeFileSync(log, '');
  const command = { unbound, dnsmasq, 'systemd-resolved': resolved }[program](role, dir);
  const child = role.ns.spawn(['sh', '-c', `exec "$@" >>${log} 2>&1`, 'sh', ...command], peerEnvironment(program));
  const answers = (): Promise<string | null> => role.ns.ask(`dig +time=1 +tries=1 @${role.address} www.example.test`);
  await until(`${program} answers`, async () => {
    if (child.exitCode !== null) throw new Error(`${program} has exited: ${readFileSync(log, 'utf8')}`);
    return /status: (NOERROR|NXDOMAIN|SERVFAIL|REFUSED)/.test((await answers()) ?? '');
  });
  return log;
}

function unbound({ address, upstream }: PeerRole, dir: string): string[] {
  const [name, ip] = [RECORDS.name, addressAt(address)];
  const [largeName, text] = RECORDS.large;
  const strings = text
    .match(/.{1,250}/g)
    ?.map((t) => `"${t}"`)
    .join(' ');
  const zone = upstream
    ? `forward-zone:\n  name: "."\n  forward-addr: ${upstream}\n`
    : `  local-zone: "example.test." static\n  local-data: "${name}. 60 IN A ${ip}"\n  local-data: '${largeName}. 60 IN TXT ${strings}'\n  local-zone: "." refuse\n`;
  const server = ['server:', `  interface: ${address}`, '  username: ""', '  chroot: ""', `  directory: "${dir}"`, '  pidfile: ""', '  use-syslog: no'];
  const options = ['do-daemonize: no', 'module-config: "iterator"', 'access-control: 0.0.0.0/0 allow', 'do-not-query-localhost: no', 'do-ip6: no'];
  const lan = ['unblock-lan-zones: yes', 'insecure-lan-zones: yes', 'local-zone: "test." nodefault', 'num-threads: 1', 'verbosity: 2'];
  writeFileSync(join(dir, 'unbound.conf'), `${[...server, ...[...options, ...lan].map((o) => `  ${o}`)].join('\n')}\n${zone}`);
  return [peer('unbound') as string, '-d', '-p', '-c', join(dir, 'unbound.conf')];
}

function dnsmasq({ address, upstream }: PeerRole): string[] {
  const [name, ip] = [RECORDS.name, addressAt(address)];
  const [largeName, text] = RECORDS.large;
  const known = upstream
    ? [`--server=${upstream}`]
    : ['--local=/example.test/', `--host-record=${name},${ip}`, `--txt-record=${largeName},${(text.match(/.{1,250}/g) ?? []).join(',')}`];
  const own = ['--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--no-hosts', '--user=root', '--bind-interfaces', '--log-facility=-', '--log-queries'];
  return [peer('dnsmasq') as string, '-k', ...own, `--listen-address=${address}`, '--auth-ttl=60', ...known];
}

/** As a server it answers by a hosts file: it has no zones. It runs without a bus. */
function resolved({ address, upstream }: PeerRole, dir: string): string[] {
  const etc = join(dir, 'etc');
  mkdirSync(join(etc, 'systemd'), { recursive: true });
  const [name, ip] = [RECORDS.name, addressAt(address)];
  const stub = /^127\.0\.0\.5[34]$/.test(address) ? 'yes' : `no\nDNSStubListenerExtra=${address}`;
  writeFileSync(
    join(etc, 'systemd/resolved.conf'),
    `[Resolve]\nDNS=${upstream ?? ''}\nFallbackDNS=\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nDNSSEC=no\nCache=no\nDNSStubListener=${stub}\n`,
  );
  writeFileSync(join(etc, 'hosts'), upstream ? '127.0.0.1 localhost\n' : `${ip} ${name}\n`);
  writeFileSync(join(etc, 'resolv.conf'), '');
  writeFileSync(join(etc, 'nsswitch.conf'), 'passwd: files\ngroup: files\nhosts: files\n');
  writeFileSync(join(etc, 'passwd'), 'root:x:0:0::/:/bin/sh\nsystemd-resolve:x:996:996::/:/bin/false\n');
  writeFileSync(join(etc, 'group'), 'root:x:0:\nsystemd-resolve:x:996:\n');
  writeFileSync(join(etc, 'machine-id'), '0123456789abcdef0123456789abcdef\n');
  const own = ['mount -t tmpfs tmpfs /run', 'mkdir -p /run/systemd', `mount --bind ${etc} /etc`, 'exec "$@"'].join(' && ');
  return ['unshare', '-m', 'env', 'SYSTEMD_LOG_LEVEL=debug', 'sh', '-c', own, 'sh', peer('systemd-resolved') as string];
}
