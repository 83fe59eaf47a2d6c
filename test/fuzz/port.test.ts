/**
 * Any chunking of any bytes into a port: a network with two cards and everything behind them is fed over a real unix socket.
 * ANKA_FUZZ_FRAMES sets the number of frames (20,000 without it), ANKA_FUZZ_SEED the seed, which is told on failure. Memory is watched.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { TcpGateway } from '../../src/engine/user/host-tcp.ts';
import { UserNetwork } from '../../src/engine/user/network.ts';
import type { NetworkConfig } from '../../src/engine/user/network-config.ts';
import { PortMemory } from '../../src/engine/user/port.ts';
import { DROPS } from '../../src/net/drops.ts';
import { loadKernels } from '../../src/net/kernels.ts';
import { PacketMemory } from '../../src/net/packet-memory.ts';
import { until } from '../world/world.ts';

const FRAMES = Number(process.env['ANKA_FUZZ_FRAMES'] ?? 20_000);
const SEED = Number(process.env['ANKA_FUZZ_SEED'] ?? 1);
const dir = mkdtempSync(join(tmpdir(), 'anka-fuzz-'));
const MACS = [0x564545000001, 0x564545000002];
const INSIDE = [0x564545000001, 0x020000000007];

/** Numbers from a seed (xorshift). */
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

/** A QEMU: listens, and takes one connection after the other. */
function listen(path: string): Promise<{ server: Server; socket(): Socket | null; connections(): number }> {
  let current: Socket | null = null;
  let n = 0;
  const server = createServer((s) => {
    current = s;
    n++;
    s.setMaxListeners(0);
    s.on('data', () => {});
    s.on('error', () => {});
    s.on('close', () => {
      if (current === s) current = null;
    });
  });
  return new Promise((resolve) => server.listen(path, () => resolve({ server, socket: () => current, connections: () => n })));
}

/** Until more may be written, or nothing more. */
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

/** Frames that nearly make sense, so that they get far: of the card's own MAC and address, to the gateway, the other card, or all. */
function frame(r: Random, me: number): Buffer {
  const seeds = [
    // ARP, DHCP, DNS, ICMP echo, TCP SYN, UDP to a closed port of a documentation address, a fragment, neighbour discovery
    '08060001080006040001564545000001c0a84002000000000000c0a84001',
    '080045000128000000004011000000000000ffffffff004400430114000001010600deadbeef0000000000000000000000000000000000000000564545000001'.padEnd(500, '0'),
    '080045000037000100004011f8e0c0a84002c0a8400109910035002300001234010000010000000000000161046e616d650000010001',
    '08004500001c0001000040010000c0a84002c0a840010800f7ff00000000',
    '0800450000280001400040060000c0a84002c0a84001a0000050000000010000000050022000000000000000',
    '08004500001d0001000040110000c0a84002c0a84001a000a0010009000041',
    '0800450000240001200040110000c0a84002c0a84001a000a00100100000414141414141414141',
    '86dd6000000000203afffe80000000000000544545fffe000001ff0200000000000000000001ff0000018700000000000000fe8000000000000000000000000000010101564545000001',
  ];
  const body = Buffer.from(seeds[r.below(seeds.length)] as string, 'hex');
  const to = [0x5a4545004001, MACS[1 - me] as number, 0xffffffffffff, 0x333300000001, 0x010203040506][r.below(5)] as number;
  const head = Buffer.alloc(12);
  head.writeUIntBE(to, 0, 6);
  head.writeUIntBE(r.below(8) === 0 ? r.below(2 ** 31) : (INSIDE[me] as number), 6, 6);
  let f = Buffer.concat([head, body]);
  if (f.readUInt16BE(12) === 0x0800 && r.below(4) > 0) mend(f);
  for (let i = r.below(4); i > 0; i--) f[r.below(f.length)] = r.below(256);
  if (r.below(6) === 0) f = f.subarray(0, 14 + r.below(f.length - 14));
  if (r.below(20) === 0) f = Buffer.concat([f, Buffer.alloc(r.below(65_000))]);
  return f;
}

/** The header checksum of IPv4. */
function mend(f: Buffer): void {
  f.writeUInt16BE(0, 24);
  let sum = 0;
  for (let i = 14; i < 34; i += 2) sum += f.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  f.writeUInt16BE(~sum & 0xffff, 24);
}

afterAll(() => rmSync(dir, { recursive: true, force: true }));

test(`any chunking of any bytes into a port: ${FRAMES} frames`, async () => {
  const r = new Random(SEED);
  const paths = [join(dir, 'a'), join(dir, 'b')];
  const guests = [await listen(paths[0] as string), await listen(paths[1] as string)];
  const config: NetworkConfig = {
    // no subnet is in use on the host by that: nothing of it leaves this process
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
      rules: [],
      socket: paths[i] as string,
    })),
  };
  const memory = new PacketMemory();
  const kernels = loadKernels(memory);
  const network = new UserNetwork({
    config,
    memory,
    portMemory: new PortMemory(memory),
    log: { info() {}, warn() {} },
    onLeases() {},
    onChanged() {},
    createTcp: (seam) => new TcpGateway({ ...seam, kernels }),
  });
  try {
    network.configure(config);
    await until('both cables are in', () => network.observedNics().every((n) => n.healthy));
    let left = FRAMES;
    let pending = [Buffer.alloc(0), Buffer.alloc(0)];
    let heap = 0;
    while (left > 0) {
      const g = r.below(2);
      const socket = guests[g]?.socket();
      if (!socket) {
        await until('it dials again', () => guests[g]?.socket());
        pending = pending.map((p, i) => (i === g ? Buffer.alloc(0) : p));
        continue;
      }
      const frames: Buffer[] = [];
      for (let i = 1 + r.below(30); i > 0 && left > 0; i--, left--) {
        const f = frame(r, g);
        const length = Buffer.alloc(4);
        length.writeUInt32BE(r.below(2000) === 0 ? r.below(2 ** 31) : f.length);
        frames.push(length, f);
      }
      const all = Buffer.concat([pending[g] as Buffer, ...frames]);
      const cut = r.below(all.length + 1);
      pending[g] = all.subarray(cut);
      if (cut > 0 && !socket.write(all.subarray(0, cut))) await drained(socket);
      if (r.below(8) === 0) await turn();
      if (left < FRAMES / 2 && heap === 0) heap = process.memoryUsage().rss;
    }
    await turn();
    const nics = network.observedNics();
    for (const n of nics) for (const reason of Object.keys(n.drops)) expect(DROPS as readonly string[], `seed ${SEED}`).toContain(reason);
    const dropped = nics.reduce((sum, n) => sum + Object.values(n.drops).reduce((a, b) => a + b, 0), 0);
    expect(dropped, `seed ${SEED}`).toBeGreaterThan(FRAMES / 50);
    expect(process.memoryUsage().rss - heap, 'resident memory in the second half').toBeLessThan(200 << 20);
  } finally {
    network.close();
    for (const g of guests) {
      g.socket()?.destroy();
      g.server.close();
    }
  }
});
