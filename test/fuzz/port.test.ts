/**
 * Fuzzes a port with any chunking of any bytes: a network with three cards and everything behind them, over real unix
 * sockets. Two guests send almost valid frames, among them TCP segments of every type to an echo server, which follow
 * the gateway's last segment. The third guest only pings, and must get every reply. ANKA_FUZZ_FRAMES sets the number of
 * frames (default 500,000), ANKA_FUZZ_SECONDS a time limit, ANKA_FUZZ_SEED the seed, which a failure reports. Memory
 * use is bounded.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { PortMemory } from '../../src/engine/user/port/port-memory.ts';
import type { NetworkConfig } from '../../src/engine/user/process/config.ts';
import { UserNetwork } from '../../src/engine/user/process/network.ts';
import { TcpGateway } from '../../src/engine/user/sockets/tcp.ts';
import { DROPS } from '../../src/net/drop-reasons.ts';
import { loadKernels } from '../../src/net/memory/kernels.ts';
import { PacketMemory } from '../../src/net/memory/packet-memory.ts';
import { until } from '../world/world.ts';

const FRAMES = Number(process.env['ANKA_FUZZ_FRAMES'] ?? 100_000);
const SECONDS = Number(process.env['ANKA_FUZZ_SECONDS'] ?? Number.POSITIVE_INFINITY);
/** Frames: a retransmission is seen about once in three million, as most connections are soon reset. */
const MANY = 60_000_000;
const SEED = Number(process.env['ANKA_FUZZ_SEED'] ?? 1);
const dir = mkdtempSync(join(tmpdir(), 'anka-fuzz-'));
const MACS = [0x564545000001, 0x564545000002, 0x564545000003];
const INSIDE = [0x564545000001, 0x020000000007, 0x564545000003];
const GATEWAY_MAC = 0x5a4545008001;
const GATEWAY = 0xc0a84001;
/** The address of the guest that pings. */
const PINGER = 0xc0a84009;
const NOTHING = Buffer.alloc(0);

/** Random numbers from a seed (xorshift). */
class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 1;
  }
  below(n: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return (this.#state >>> 0) % n;
  }
}

/** A stand-in for QEMU: listens, and serves one connection after another. `onFrame` receives the frames. */
function listen(path: string, onFrame: (frame: Buffer) => void): Promise<{ server: Server; socket(): Socket | null; connections(): number }> {
  let current: Socket | null = null;
  let n = 0;
  const server = createServer((s) => {
    current = s;
    n++;
    s.setMaxListeners(0);
    let rest: Buffer = Buffer.alloc(0);
    s.on('data', (d: Buffer) => {
      rest = rest.length === 0 ? d : Buffer.concat([rest, d]);
      let at = 0;
      for (; at + 4 <= rest.length && at + 4 + rest.readUInt32BE(at) <= rest.length; at += 4 + rest.readUInt32BE(at))
        onFrame(rest.subarray(at + 4, at + 4 + rest.readUInt32BE(at)));
      rest = rest.subarray(at);
    });
    s.on('error', () => {});
    s.on('close', () => {
      if (current === s) current = null;
    });
  });
  return new Promise((resolve) => server.listen(path, () => resolve({ server, socket: () => current, connections: () => n })));
}

/** Resolves once the socket is writable again or closed. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
    if (socket.destroyed) done();
  });
}

/**
 * ARP, DHCP, DNS, ICMP echo, TCP SYN, UDP to a closed port of a documentation address, a fragment, neighbour discovery.
 */
const SEEDS = [
  '08060001080006040001564545000001c0a84002000000000000c0a84001',
  '080045000128000000004011000000000000ffffffff004400430114000001010600deadbeef0000000000000000000000000000000000000000564545000001'.padEnd(500, '0'),
  '080045000037000100004011f8e0c0a84002c0a8400109910035002300001234010000010000000000000161046e616d650000010001',
  '08004500001c0001000040010000c0a84002c0a840010800f7ff00000000',
  '0800450000280001400040060000c0a84002c0a84001a0000050000000010000000050022000000000000000',
  '08004500001d0001000040110000c0a84002c0a84001a000a0010009000041',
  '0800450000240001200040110000c0a84002c0a84001a000a00100100000414141414141414141',
  '86dd6000000000203afffe80000000000000544545fffe000001ff0200000000000000000001ff0000018700000000000000fe8000000000000000000000000000010101564545000001',
].map((hex) => Buffer.from(hex, 'hex'));

/**
 * Almost valid frames, which pass the first checks: from the card's own MAC and address, to the gateway, the other
 * card, or broadcast.
 */
function frame(r: Random, me: number): Buffer {
  const body = SEEDS[r.below(SEEDS.length)] as Buffer;
  const to = [0x5a4545004001, MACS[1 - me] as number, 0xffffffffffff, 0x333300000001, 0x010203040506][r.below(5)] as number;
  const head = Buffer.alloc(12);
  head.writeUIntBE(to, 0, 6);
  head.writeUIntBE(r.below(8) === 0 ? r.below(2 ** 31) : (INSIDE[me] as number), 6, 6);
  let f = Buffer.concat([head, body]);
  if (f.readUInt16BE(12) === 0x0800 && r.below(4) > 0) setChecksum(f);
  for (let i = r.below(4); i > 0; i--) f[r.below(f.length)] = r.below(256);
  if (r.below(6) === 0) f = f.subarray(0, 14 + r.below(f.length - 14));
  if (r.below(20) === 0) f = Buffer.concat([f, Buffer.alloc(r.below(65_000))]);
  return f;
}

/**
 * The gateway's last segment on each connection, by the guest's port: the sequence number of its next one, and what it
 * has received.
 */
type LastSegments = Map<number, { next: number; got: number }>;

function track(last: LastSegments, f: Buffer): void {
  if (f.length < 54 || f.readUInt16BE(12) !== 0x0800 || f[23] !== 6) return;
  const length = f.readUInt16BE(16) - 20 - (((f[46] as number) >> 4) << 2);
  const size = length + ((f[47] as number) & 3 ? 1 : 0);
  last.set(f.readUInt16BE(36), { next: (f.readUInt32BE(38) + size) >>> 0, got: f.readUInt32BE(42) });
}

/**
 * TCP options, valid or almost: those of a SYN, SACK blocks at or near `got`, timestamps, lengths of 0 or beyond the
 * end, any bytes.
 */
function options(r: Random, got: number): Buffer {
  const times = Buffer.from('0101080a0000000000000000', 'hex');
  const blocks = Buffer.alloc(4 + 8 * (1 + r.below(4)));
  blocks.writeUInt32BE(0x01010500 | (blocks.length - 2), 0);
  for (let i = 4; i < blocks.length; i += 4) blocks.writeUInt32BE((got + r.below(4000) - 1000) >>> 0, i);
  const one = [
    Buffer.from('020405b40402080a00000000000000000103030a', 'hex'),
    times,
    blocks,
    Buffer.from('0000000002000101', 'hex'),
    Buffer.from('080a00010528ffff', 'hex'),
  ][r.below(5)] as Buffer;
  const any = Buffer.from(one);
  if (r.below(3) === 0) any[r.below(any.length)] = r.below(256);
  return any;
}

/** A segment of one of eight connections, with any flags, at or near the expected sequence number. */
function segment(r: Random, me: number, last: LastSegments): Buffer {
  const port = 3000 + r.below(8);
  const known = last.get(port);
  const near = (n: number): number => (n + (r.below(3) > 0 ? 0 : r.below(6000) - 3000)) >>> 0;
  const data = Buffer.alloc(r.below(3) === 0 ? r.below(1400) : 0, 'x');
  const flags = known && r.below(6) > 0 ? ([16, 24, 17, 16, 20, 4, 18, 16][r.below(8)] as number) : r.below(5) > 0 ? 2 : r.below(256);
  const opts = r.below(3) === 0 ? options(r, known?.next ?? 0) : NOTHING;
  const tcp = Buffer.alloc(20 + opts.length + data.length);
  tcp.writeUInt16BE(port, 0);
  tcp.writeUInt16BE(80, 2);
  tcp.writeUInt32BE(known ? near(known.got) : r.below(2 ** 31), 4);
  tcp.writeUInt32BE(known ? near(known.next) : r.below(2 ** 31), 8);
  tcp[12] = (5 + opts.length / 4) << 4;
  tcp[13] = flags;
  tcp.writeUInt16BE(r.below(10) === 0 ? 0 : r.below(65_536), 14);
  opts.copy(tcp, 20);
  data.copy(tcp, 20 + opts.length);
  return packet(INSIDE[me] as number, 0xc0a84002 + me, 6, 16, tcp);
}

/** A frame to the gateway with valid checksums: of IPv4, and of its payload, at `checksumAt` there. */
function packet(source: number, ip: number, protocol: number, checksumAt: number, payload: Buffer): Buffer {
  const f = Buffer.alloc(34 + payload.length);
  f.writeUIntBE(GATEWAY_MAC, 0, 6);
  f.writeUIntBE(source, 6, 6);
  f.writeUInt16BE(0x0800, 12);
  f[14] = 0x45;
  f.writeUInt16BE(20 + payload.length, 16);
  f[22] = 64;
  f[23] = protocol;
  f.writeUInt32BE(ip, 26);
  f.writeUInt32BE(GATEWAY, 30);
  payload.copy(f, 34);
  setChecksum(f);
  const pseudo = protocol === 6 ? f.subarray(26, 34) : Buffer.alloc(0);
  let sum = protocol === 6 ? 6 + payload.length : 0;
  for (const part of [pseudo, payload]) for (let i = 0; i < part.length; i += 2) sum += ((part[i] as number) << 8) | (part[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  f.writeUInt16BE(~sum & 0xffff, 34 + checksumAt);
  return f;
}

/** Sets the header checksum of IPv4. */
function setChecksum(f: Buffer): void {
  f.writeUInt16BE(0, 24);
  let sum = 0;
  for (let i = 14; i < 34; i += 2) sum += f.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  f.writeUInt16BE(~sum & 0xffff, 24);
}

afterAll(() => rmSync(dir, { recursive: true, force: true }));

test(`any chunking of any bytes into a port: ${FRAMES} frames at most`, async () => {
  const r = new Random(SEED);
  const paths = [join(dir, 'a'), join(dir, 'b'), join(dir, 'c')];
  const last: LastSegments[] = [new Map(), new Map()];
  let answers = 0;
  const guests = [
    await listen(paths[0] as string, (f) => track(last[0] as LastSegments, f)),
    await listen(paths[1] as string, (f) => track(last[1] as LastSegments, f)),
    await listen(paths[2] as string, (f) => {
      if (f.readUInt16BE(12) === 0x0800 && f[23] === 1 && f[34] === 0 && f.readUInt32BE(26) === GATEWAY) answers++;
    }),
  ];
  const echo = createServer((s) =>
    s
      .on('error', () => {})
      .pipe(s)
      .on('error', () => {}),
  );
  await new Promise<void>((resolve) => echo.listen(0, '127.0.0.1', resolve));
  const resolve = () => ({ host: '127.0.0.1', port: (echo.address() as AddressInfo).port });
  const config: NetworkConfig = {
    // this subnet is not used on the host: no packet leaves this process
    network: { name: 'host', subnet: { base: 0xc0a84000, prefix: 24 } },
    dnsServers: [],
    dnsForward: false,
    nics: MACS.map((outsideMac, i) => ({
      id: `vm${i}`,
      vmName: `vm${i}`,
      type: 'host',
      outsideMac,
      insideMac: INSIDE[i] as number,
      mtu: 1500,
      isolated: false,
      ownerUid: 0,
      queues: 1,
      vhost: false,
      rules: [],
      // one card with a filter that lets most through
      ...(i === 0 ? { filter: 'block any to port 9\npass out proto udp to port 7\nblock local from 10.0.0.0/8' } : {}),
      socket: paths[i] as string,
    })),
  };
  const memory = new PacketMemory();
  const kernels = loadKernels(memory);
  let tcp: TcpGateway | null = null;
  const network = new UserNetwork({
    config,
    memory,
    portMemory: new PortMemory(memory),
    log: { info() {}, warn() {} },
    onLeases() {},
    onChanged() {},
    createTcp: (seam) => {
      tcp = new TcpGateway({ ...seam, kernels, resolve });
      return tcp;
    },
  });
  try {
    network.configure(config);
    await until('the cards are connected', () => network.observedNics().every((n) => n.healthy));
    let left = FRAMES;
    const from = performance.now();
    /** The part of the work done, from 0 to 1. */
    const done = (): number => Math.max(1 - left / FRAMES, (performance.now() - from) / 1000 / SECONDS);
    let pending = [Buffer.alloc(0), Buffer.alloc(0)];
    let heap = 0;
    let asked = 0;
    const pinger = guests[2]?.socket() as Socket;
    const claim = Buffer.alloc(4 + 42);
    claim.writeUInt32BE(42);
    Buffer.from(`ffffffffffff5645450000030806000108000604000156454500000300000000${'0'.repeat(12)}c0a84009`, 'hex').copy(claim, 4);
    claim.writeUInt32BE(PINGER, 4 + 28);
    pinger.write(claim);
    const ping = async (): Promise<void> => {
      const echoRequest = packet(INSIDE[2] as number, PINGER, 1, 2, Buffer.from(`080000000007${(asked & 0xffff).toString(16).padStart(4, '0')}`, 'hex'));
      const length = Buffer.alloc(4);
      length.writeUInt32BE(echoRequest.length);
      pinger.write(Buffer.concat([length, echoRequest]));
      asked++;
      for (let i = 0; i < 1000 && answers < asked; i++) await turn(); // the reply takes less than a poll interval
      await until(`reply ${asked} to the pings (seed ${SEED})`, () => answers === asked);
    };
    await ping();
    while (left > 0 && done() < 1) {
      const g = r.below(2);
      const socket = guests[g]?.socket();
      if (!socket) {
        await until('the port connects again', () => guests[g]?.socket());
        pending = pending.map((p, i) => (i === g ? Buffer.alloc(0) : p));
        continue;
      }
      const frames: Buffer[] = [];
      for (let i = 1 + r.below(30); i > 0 && left > 0; i--, left--) {
        const f = r.below(6) === 0 ? segment(r, g, last[g] as LastSegments) : frame(r, g);
        const length = Buffer.alloc(4);
        length.writeUInt32BE(r.below(Math.max(2000, FRAMES / 100)) === 0 ? r.below(2 ** 31) : f.length);
        frames.push(length, f);
      }
      const all = Buffer.concat([pending[g] as Buffer, ...frames]);
      const cut = r.below(all.length + 1);
      pending[g] = all.subarray(cut);
      if (cut > 0 && !socket.write(all.subarray(0, cut))) await drained(socket);
      if (r.below(8) === 0) await turn();
      if (r.below(400) === 0) await ping();
      if (done() > 0.5 && heap === 0) heap = process.memoryUsage().rss;
    }
    await ping();
    const sent = FRAMES - left;
    console.log(`${sent} frames in ${((performance.now() - from) / 1000).toFixed(0)} s, seed ${SEED}`);
    const counts = (tcp as TcpGateway | null)?.stats() ?? {};
    const seen = ['opened', 'outOfOrder', 'duplicates', 'challenges', 'guestResets', ...(sent > MANY ? ['retransmissions'] : [])];
    for (const what of seen) expect(counts[what], `${what}, seed ${SEED}`).toBeGreaterThan(0);
    const nics = network.stats();
    for (const n of nics) for (const reason of Object.keys(n.drops)) expect(DROPS as readonly string[], `seed ${SEED}`).toContain(reason);
    const dropped = nics.reduce((sum, n) => sum + Object.values(n.drops).reduce((a, b) => a + b, 0), 0);
    expect(dropped, `seed ${SEED}`).toBeGreaterThan(sent / 50);
    expect(process.memoryUsage().rss - heap, 'resident memory in the second half').toBeLessThan(200 << 20);
  } finally {
    network.close();
    echo.close();
    for (const g of guests) {
      g.socket()?.destroy();
      g.server.close();
    }
  }
}, 1_200_000);
