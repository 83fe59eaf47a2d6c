/** What guest namespaces do in the tests: lease an address, serve, spoof. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { DesiredNic, DesiredRule, DesiredState } from '../../src/engine/engine.ts';
import { beginStream } from '../../src/lib/begin-stream.ts';
import { compiled } from '../world/compile.ts';
import type { Namespace, World } from '../world/world.ts';

export const SUBNETS = { shared: { base: 0xc0a84000, prefix: 24 }, host: { base: 0xc0a88000, prefix: 24 } } as const;

export function vmId(n: number): string {
  return `0000000${n}-0000-4000-8000-000000000000`;
}

export const macText = (n: number): string => `56:45:45:00:00:0${n}`;

export function nic(n: number, type: DesiredNic['type'] = 'shared', rest: Partial<DesiredNic> = {}): DesiredNic {
  return {
    id: vmId(n),
    vmName: `vm${n}`,
    type,
    outsideMac: 0x564545000000 + n,
    insideMac: 0x564545000000 + n,
    mtu: 1500,
    isolated: false,
    ownerUid: 0,
    queues: 1,
    vhost: false,
    rules: [],
    ...rest,
  };
}

export function rule(hostPort: number, guestPort: number, protocol: 'tcp' | 'udp' = 'tcp', hostIp: DesiredRule['hostIp'] = 0): DesiredRule {
  return { name: `${protocol}${hostPort}${typeof hostIp === 'string' ? hostIp : ''}`, protocol, hostIp, hostPort, guestPort };
}

export function state(...nics: DesiredNic[]): DesiredState {
  return {
    networks: [
      { name: 'shared', subnet: SUBNETS.shared },
      { name: 'host', subnet: SUBNETS.host },
    ],
    nics,
    dnsServers: [],
  };
}

/** The guest of card `n`: a namespace on the interface that stands in for its tap. */
export function guest(world: World, n: number): Namespace {
  return world.guest(`g${n}`, `anka0000000${n}`, macText(n));
}

/** Requests a lease with udhcpc; returns it, or null. */
export async function dhcp(
  world: World,
  g: Namespace,
  options = '',
): Promise<{ ip: string; router: string; dns: string; server: string; mask: string } | null> {
  const script = join(world.dir, 'udhcpc.sh');
  writeFileSync(
    script,
    '#!/bin/sh\n[ "$1" = bound ] || exit 0\nip -4 addr flush dev $interface\nip addr add $ip/$mask dev $interface\nip route replace default via $router\necho "LEASE $ip $router $dns $serverid $mask"\n',
    { mode: 0o755 },
  );
  const out = await g.ask(`udhcpc -f -q -n -t 300 -T 1 -i eth0 -s ${script} ${options} 2>/dev/null`);
  const m = /LEASE (\S+) (\S+) (\S+) (\S+) (\S+)/.exec(out ?? '');
  return m ? { ip: m[1] as string, router: m[2] as string, dns: m[3] as string, server: m[4] as string, mask: m[5] as string } : null;
}

/** A TCP and UDP server that sends each client its address and echoes its data; it listens when this resolves. */
export async function serve(ns: Namespace, port: number, name: string, address = '0.0.0.0'): Promise<void> {
  const program = `
    const net = require('net'), dgram = require('dgram');
    net.createServer({ allowHalfOpen: true }, (c) => { c.on('error', () => {}); c.write(${JSON.stringify(name)} + ' sees ' + c.remoteAddress.replace('::ffff:', '') + '\\n'); c.pipe(c); }).listen(${port}, '${address}', () => {
      const u = dgram.createSocket('udp4'); u.on('message', (m, r) => r.port > 0 && u.send(${JSON.stringify(name)} + ' sees ' + r.address, r.port, r.address)); u.bind(${port}, '${address}', () => console.log('ready'));
    });`;
  const child = ns.spawn([process.execPath, '-e', program]);
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', () => reject(new Error('the server exited')));
  });
}

const GREET = new URL('../world/greet.c', import.meta.url);

/**
 * A server's greeting to a client in `ns`, or `refused`, `timeout`, `reset`. `seconds`: the time limit, longer for a
 * client that must be answered.
 */
export async function greet(ns: Namespace, protocol: 'tcp' | 'udp', address: string, port: number, seconds = 3): Promise<string> {
  return ((await ns.ask(`${compiled(GREET)} ${protocol} ${address} ${port} ${seconds}`)) ?? 'failed').trim();
}

/** As `greet`, but waits long enough for a server that must answer, even on a slow machine. */
export function greeting(ns: Namespace, protocol: 'tcp' | 'udp', address: string, port: number): Promise<string> {
  return greet(ns, protocol, address, port, 60);
}

/** A guest server's greeting to a stream through its network's process. */
export async function throughStream(path: string | null, id: string, port: number): Promise<string> {
  const socket = await beginStream(path ?? '', { dial: { id, port } }).catch((cause: Error) => cause.message);
  if (typeof socket === 'string') return socket;
  return new Promise((resolve) => {
    socket.on('error', (cause) => resolve(cause.message));
    socket.on('end', () => resolve('closed'));
    socket.once('data', (d: Buffer) => {
      resolve(String(d).trim());
      socket.destroy();
    });
    socket.resume(); // the socket starts paused
  });
}

/** A TCP connection that sends a byte every 20 ms to an echo server. */
export interface Flow {
  /** How it ended: `ended`, or the error code; null while it is open. */
  end(): string | null;
  /** Bytes echoed, and the longest gap between two of them in milliseconds. */
  echoed(): Promise<{ bytes: number; gap: number }>;
  stop(): void;
}

/** Opens a flow; resolves at the first echo. */
export async function flow(ns: Namespace, address: string, port: number): Promise<Flow> {
  const program = `
    const s = require('net').connect({ host: '${address}', port: ${port} }); let bytes = 0, gap = 0, last = Date.now();
    s.on('data', (d) => { const now = Date.now(); gap = Math.max(gap, bytes ? now - last : 0); last = now; if (!bytes) console.log('first'); bytes += d.length; });
    s.on('error', (e) => console.log('end ' + e.code)); s.on('end', () => console.log('end ended')); s.on('close', () => setTimeout(() => {}, 1e6));
    setInterval(() => s.write('x'), 20); process.stdin.on('data', () => { console.log('count ' + bytes + ' ' + Math.max(gap, Date.now() - last)); gap = 0; });`;
  const child = ns.spawn([process.execPath, '-e', program]);
  let end: string | null = null;
  const counts: ((v: { bytes: number; gap: number }) => void)[] = [];
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const [word, a, b] = line.split(' ');
      if (word === 'first') resolve();
      else if (word === 'count') counts.shift()?.({ bytes: Number(a), gap: Number(b) });
      else if (word === 'end') {
        end ??= a ?? '';
        reject(new Error(`the flow to ${address}:${port} ended: ${a}`));
      }
    });
  });
  return {
    end: () => end,
    echoed: () =>
      new Promise((resolve) => {
        counts.push(resolve);
        child.stdin?.write('?\n');
      }),
    stop: () => void child.kill('SIGKILL'),
  };
}

/** Sends raw frames from a guest's eth0. Each is hex text. */
export async function sendFrames(g: Namespace, frames: readonly string[]): Promise<void> {
  const program = `import socket\ns=socket.socket(17,3)\ns.bind(('eth0',0))\nfor f in ${JSON.stringify(frames)}: s.send(bytes.fromhex(f))`;
  if ((await g.ask(`python3 -c "${program.replaceAll('"', "'")}"`)) === null) throw new Error('frames were not sent');
}

/** Four bytes of an address as hex. */
export function ipv4Hex(address: string): string {
  return address
    .split('.')
    .map((p) => Number(p).toString(16).padStart(2, '0'))
    .join('');
}

/** An IPv4 packet with a valid header checksum, as hex. */
export function ipv4Packet(source: string, destination: string, protocol: number, payload: string): string {
  const h = Buffer.from(`45000000000000004000000000000000${'0'.repeat(8)}`, 'hex');
  h.writeUInt16BE(20 + payload.length / 2, 2);
  h[8] = 64;
  h[9] = protocol;
  h.write(ipv4Hex(source), 12, 'hex');
  h.write(ipv4Hex(destination), 16, 'hex');
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += h.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  h.writeUInt16BE(~sum & 0xffff, 10);
  return h.toString('hex') + payload;
}
