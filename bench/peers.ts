/**
 * The user engine's network process and the programs that it is compared with. Each runs in a world of its own: a guest
 * (a namespace behind the shim) that reaches outside, and two host ports forwarded to the guest's servers. All run
 * without privileges, except slirp4netns, which enters the guest's namespace.
 */
import { spawnSync } from 'node:child_process';
import { chownSync, mkdirSync, readFileSync } from 'node:fs';
import { request } from 'node:http';
import { createConnection } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NicStats } from '../src/engine/engine.ts';
import type { NetworkConfig, NetworkNic } from '../src/engine/user/process/config.ts';
import { LineClient } from '../src/lib/json-lines.ts';
import { version } from '../src/lib/version.ts';
import { dhcp, macText, nic, rule, SUBNETS } from '../test/contract/guest-tools.ts';
import { AS_ORDINARY_USER, ORDINARY } from '../test/world/remote-engine.ts';
import { joinTap, OFFLOAD, shimmedGuest } from '../test/world/shim.ts';
import { type Namespace, until, World } from '../test/world/world.ts';
import { IPERF_PORT, PROBE_PORT } from './probe.ts';

export const HOST_IPERF = 15201;
export const HOST_PROBE = 17000;
const GUEST_IP = '192.168.64.2';
const GATEWAY = '192.168.64.1';
const FORWARDS = [
  [HOST_IPERF, IPERF_PORT],
  [HOST_PROBE, PROBE_PORT],
] as const;
const NETWORK_PROCESS = fileURLToPath(new URL('../dist/engine/user/process/network-main.js', import.meta.url));

/** A running program. */
export interface Peer {
  world: World;
  guest: Namespace;
  /** Its processes, for its CPU time and memory. */
  pids(): number[];
  /** Processes of the shim, if it has one. */
  shim(): number[];
}

/** A program that can be started with an MTU, if it is installed (`present`). */
export interface PeerProgram {
  name: string;
  version(): string;
  mtus: readonly number[];
  present(): boolean;
  start(mtu: number): Promise<Peer>;
}

function onPath(program: string): boolean {
  return (process.env['PATH'] ?? '').split(delimiter).some((d) => {
    try {
      return readFileSync(join(d, program)).length > 0;
    } catch {
      return false;
    }
  });
}

/** The first line of what a program prints as its version. */
function printedVersion(program: string): string {
  const { stdout, stderr } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  return `${stdout}${stderr}`.split('\n').find((line) => /\d/.test(line)) ?? 'unknown';
}

/** The version of an installed Debian package. */
function packageVersion(name: string): string {
  return /^Version: (.+)$/m.exec(spawnSync('dpkg-query', ['-s', name], { encoding: 'utf8' }).stdout)?.[1] ?? 'unknown';
}

/** A process's command line; empty if it has exited. */
function commandOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').replaceAll('\0', ' ');
  } catch {
    return '';
  }
}

/** Processes of a namespace whose command line contains `text`. */
function pidsOf(ns: Namespace, text: string): number[] {
  const all = ns.run(`ip netns pids ${ns.name}`).split('\n');
  return all.filter((p) => p !== '' && commandOf(p).includes(text)).map(Number);
}

/** A command with its output redirected to a file. */
function quietly(log: string, ...argv: string[]): string[] {
  return ['sh', '-c', 'exec "$@" >"$0" 2>&1', log, ...argv];
}

/**
 * Starts a program, and attaches the guest's tap to its socket when it listens there. Throws if the program exits
 * before.
 */
async function attach(world: World, guest: Namespace, socket: string, argv: readonly string[]): Promise<void> {
  const log = join(world.dir, 'log');
  const program = world.host.spawn(quietly(log, ...AS_ORDINARY_USER, ...argv));
  await new Promise<void>((resolve, reject) => {
    const onExit = (): void => reject(new Error(`${argv[0]} exited: ${readFileSync(log, 'utf8').trim()}`));
    program.once('exit', onExit);
    joinTap(guest, 'eth0', 'dial', socket, OFFLOAD)
      .finally(() => program.off('exit', onExit))
      .then(resolve, reject);
  });
}

/**
 * Sets TCP's buffers in a namespace, before a program opens its sockets there. Those to receive are Linux's by default.
 * One to send takes more than the other end's window, from the start: without delay the kernel's tuning keeps it small,
 * and passt drops what does not fit, which a guest without SACK sends again after a timeout.
 */
function setBuffers(ns: Namespace): void {
  ns.run('sysctl -qw net.ipv4.tcp_rmem="4096 131072 6291456" net.ipv4.tcp_wmem="4096 16777216 16777216"');
}

/** A world, and a directory in it for an ordinary user. */
function begin(name: string): { world: World; dir: string } {
  const world = new World(name);
  const dir = join(world.dir, 'run');
  mkdirSync(dir);
  chownSync(dir, ORDINARY, ORDINARY);
  // else programs that let the kernel close connections run out of ports, and only TIME_WAIT is measured
  for (const ns of [world.host, world.outside]) {
    setBuffers(ns);
    ns.run('sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range="1024 65000"');
  }
  return { world, dir };
}

async function plainGuest(world: World, mtu: number, address = GUEST_IP, gateway = GATEWAY): Promise<Namespace> {
  const guest = world.namespace('g1');
  setBuffers(guest);
  guest.run(`ip tuntap add dev eth0 mode tap && ip link set eth0 address ${macText(1)} mtu ${mtu} txqueuelen 20000 up`);
  guest.run(`ip addr add ${address}/24 dev eth0; ip route add default via ${gateway}`);
  return guest;
}

/** The user engine's network process, from dist. */
export class OurNetwork {
  readonly world: World;
  readonly guests: Namespace[] = [];
  readonly dir: string;
  readonly #mtu: number;
  #client: LineClient | null = null;
  #nics: NetworkNic[] = [];

  constructor(name: string, mtu: number) {
    ({ world: this.world, dir: this.dir } = begin(name));
    this.#mtu = mtu;
  }

  async start(): Promise<void> {
    const control = join(this.dir, 'net.sock');
    const files = ['--control', control, '--leases', join(this.dir, 'leases'), '--log', join(this.dir, 'log')];
    this.world.host.spawn([...AS_ORDINARY_USER, process.execPath, NETWORK_PROCESS, ...files]);
    const socket = await until('the network process listens', () => {
      const s = createConnection(control);
      return new Promise<typeof s | null>((resolve) => s.once('connect', () => resolve(s)).once('error', () => resolve(null)));
    });
    this.#client = new LineClient(socket, () => {});
  }

  /** Frames and bytes that a card has sent. */
  async sentBy(n: number): Promise<{ frames: number; bytes: number }> {
    const all = (await this.#client?.call('stats', {})) as NicStats[];
    const card = all.find((c) => c.id === `nic${n}`);
    return { frames: card?.txPackets ?? 0, bytes: card?.txBytes ?? 0 };
  }

  pids(): number[] {
    return pidsOf(this.world.host, 'network-main');
  }

  /** The socket on which the card's guest listens. */
  socket(n: number): string {
    return join(this.dir, `nic${n}.sock`);
  }

  /** Adds a card whose guest is already listening. */
  async plug(n: number, rules = n === 1 ? FORWARDS.map(([h, g]) => rule(h, g)) : []): Promise<void> {
    const mac = 0x564545000000 + n;
    this.#nics.push({ ...nic(n), id: `nic${n}`, vmName: `vm${n}`, outsideMac: mac, insideMac: mac, mtu: this.#mtu, rules, socket: this.socket(n) });
    const network = { name: 'shared', subnet: SUBNETS.shared, mtu: this.#mtu } as const;
    const config: NetworkConfig = { network, dnsServers: [], dnsForward: true, nics: this.#nics };
    await this.#client?.call('configure', config);
  }

  /** Adds a guest behind a shim, with a lease. */
  async addGuest(n: number): Promise<Namespace> {
    const mac = `56:45:45:00:00:${n.toString(16).padStart(2, '0')}`;
    const guest = await shimmedGuest(this.world, `g${n}`, mac, this.socket(n), this.#mtu, OFFLOAD);
    setBuffers(guest);
    guest.run('ip link set eth0 txqueuelen 20000');
    await this.plug(n);
    if (!(await dhcp(this.world, guest))) throw new Error(`guest ${n} has no address`);
    this.guests.push(guest);
    return guest;
  }
}

const anka: PeerProgram = {
  name: 'anka',
  version: () => `anka ${version()}, Node ${process.versions.node}`,
  mtus: [1500, 65_520],
  present: () => true,
  async start(mtu) {
    const net = new OurNetwork('ba-', mtu);
    await net.start();
    const guest = await net.addGuest(1);
    return { world: net.world, guest, pids: () => net.pids(), shim: () => pidsOf(guest, '/shim-') };
  },
};

const passt: PeerProgram = {
  name: 'passt',
  version: () => printedVersion('passt'),
  mtus: [1500, 65_520],
  present: () => onPath('passt'),
  async start(mtu) {
    const { world, dir } = begin('bp-');
    const guest = await plainGuest(world, mtu);
    const socket = join(dir, 'nic.sock');
    const forwards = FORWARDS.map(([h, g]) => `${h}:${g}`).join(',');
    const options = `-q -f -4 -s ${socket} -m ${mtu} -a ${GUEST_IP} -n 24 -g ${GATEWAY} --no-map-gw -t ${forwards} -u none -l ${join(dir, 'log')}`;
    await attach(world, guest, socket, ['passt', ...options.split(' ')]);
    return { world, guest, pids: () => pidsOf(world.host, socket), shim: () => pidsOf(guest, '/shim-') };
  },
};

const slirp: PeerProgram = {
  name: 'libslirp (QEMU)',
  version: () => `libslirp ${packageVersion('libslirp0')}, ${printedVersion('qemu-system-x86_64')}`,
  mtus: [1500],
  present: () => onPath('qemu-system-x86_64'),
  async start(mtu) {
    const { world, dir } = begin('bs-');
    const guest = await plainGuest(world, mtu);
    const socket = join(dir, 'nic.sock');
    const forwards = FORWARDS.map(([h, g]) => `hostfwd=tcp::${h}-${GUEST_IP}:${g}`).join(',');
    const machine = ['-machine', 'none', '-nodefaults', '-display', 'none', '-monitor', 'none'];
    const hub = ['-netdev', 'hubport,hubid=0,id=h0,netdev=u', '-netdev', 'hubport,hubid=0,id=h1,netdev=s'];
    const user = ['-netdev', `user,id=u,net=192.168.64.0/24,host=${GATEWAY},dns=192.168.64.3,${forwards}`];
    const stream = ['-netdev', `stream,id=s,server=on,addr.type=unix,addr.path=${socket}`];
    await attach(world, guest, socket, ['qemu-system-x86_64', ...machine, ...user, ...stream, ...hub]);
    return { world, guest, pids: () => pidsOf(world.host, socket), shim: () => pidsOf(guest, '/shim-') };
  },
};

const slirp4netns: PeerProgram = {
  name: 'slirp4netns',
  version: () => printedVersion('slirp4netns'),
  mtus: [1500, 65_520],
  present: () => onPath('slirp4netns'),
  async start(mtu) {
    const { world, dir } = begin('b4-');
    const guest = world.namespace('g1');
    setBuffers(guest);
    const api = join(dir, 'api.sock');
    const options = ['-c', '-m', String(mtu), '--cidr=192.168.64.0/24', `--api-socket=${api}`, '--netns-type=path', `/run/netns/${guest.name}`, 'tap0'];
    world.host.spawn(quietly(join(world.dir, 'log'), 'slirp4netns', ...options));
    for (const [host_port, guest_port] of FORWARDS) {
      const ask = { execute: 'add_hostfwd', arguments: { proto: 'tcp', host_addr: '0.0.0.0', host_port, guest_addr: '192.168.64.100', guest_port } };
      await until('slirp4netns answers', () => {
        const s = createConnection(api, () => s.end(JSON.stringify(ask)));
        return new Promise<boolean>((resolve) => s.once('data', () => resolve(true)).once('error', () => resolve(false)));
      });
    }
    await until('the guest has its address', () => guest.attempt('ip -o -4 addr show dev tap0')?.includes('192.168.64.100'));
    return { world, guest, pids: () => pidsOf(world.host, api), shim: () => pidsOf(guest, '/shim-') };
  },
};

const gvproxy: PeerProgram = {
  name: 'gvproxy',
  version: () => printedVersion('gvproxy'),
  mtus: [1500, 65_520],
  present: () => onPath('gvproxy'),
  async start(mtu) {
    const { world, dir } = begin('bg-');
    const guest = await plainGuest(world, mtu, '192.168.127.2', '192.168.127.1');
    const [api, socket] = [join(dir, 'api.sock'), join(dir, 'nic.sock')];
    const listen = ['-listen', `unix://${api}`, '-listen-qemu', `unix://${socket}`, '-mtu', String(mtu)];
    await attach(world, guest, socket, ['gvproxy', ...listen]);
    for (const [h, g] of FORWARDS) {
      await new Promise<void>((resolve, reject) => {
        const post = request({ socketPath: api, method: 'POST', path: '/services/forwarder/expose' }, (answer) => answer.resume().on('end', resolve));
        post.on('error', reject).end(JSON.stringify({ local: `:${h}`, remote: `192.168.127.2:${g}`, protocol: 'tcp' }));
      });
    }
    return { world, guest, pids: () => pidsOf(world.host, api), shim: () => pidsOf(guest, '/shim-') };
  },
};

export const PEERS: readonly PeerProgram[] = [anka, passt, slirp, slirp4netns, gvproxy];
