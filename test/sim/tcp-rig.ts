/**
 * The TCP machine on a manual clock, between a guest and a host that the test plays. Every action of the machine is one
 * line of a log, and `expect` compares the whole log, so a trace also proves that nothing else happened. Sequence
 * numbers are relative to each side's first.
 */
import { loadKernels } from '../../src/net/memory/kernels.ts';
import { PacketMemory } from '../../src/net/memory/packet-memory.ts';
import type { HostSide } from '../../src/net/tcp/context.ts';
import type { TcpFlow } from '../../src/net/tcp/flow.ts';
import type { GuestPort } from '../../src/net/tcp/interface.ts';
import { TcpMachine, type TcpMachineOptions } from '../../src/net/tcp/machine.ts';
import { formatIpv4 } from '../../src/wire/address.ts';
import { DONT_FRAGMENT, IPV4, IpProtocol } from '../../src/wire/ipv4.ts';
import { seqAdd, seqDiff } from '../../src/wire/sequence.ts';
import { parseSynOptions, TCP, TcpFlag, writeSack, writeSynOptions } from '../../src/wire/tcp.ts';

export const GUEST = 0xc0a84002;
export const PEER = 0xc6336401;
const IP = 18;
const T = 38;
const FLAGS: [string, number][] = [
  ['F', TcpFlag.fin],
  ['S', TcpFlag.syn],
  ['R', TcpFlag.rst],
  ['P', TcpFlag.psh],
  ['.', TcpFlag.ack],
];

/** A frame that left, or is expected. */
export interface Segment {
  flags: number;
  seq: number;
  ack: number;
  window: number;
  data: Buffer;
  mss: number;
  windowScale: number;
  sack: boolean;
  /** Selective acknowledgement: pairs of sequence numbers. */
  blocks: number[];
  guestPort: number;
  peerPort: number;
}

export interface GuestSegment {
  seq?: number;
  ack?: number;
  window?: number;
  data?: string | Buffer;
  guestPort?: number;
  peerPort?: number;
  peer?: number;
  /** Options of a SYN; −1 omits the window scale, mss 0 omits all options. */
  mss?: number;
  windowScale?: number;
  sack?: boolean;
  /** Selective acknowledgement: pairs of sequence numbers, relative as `ack` is. */
  blocks?: number[];
  /** The port that it arrives at, if not the rig's own. */
  by?: FakePort;
}

export class FakePort implements GuestPort {
  readonly index: number;
  readonly id = 'vm';
  readonly mtu: number;
  guestMac = 0x525400000002;
  space = 1 << 24;
  readonly queue = this;
  readonly #memory: PacketMemory;
  readonly #at: number;
  readonly #onFrames: (start: number, end: number) => void;

  constructor(memory: PacketMemory, index: number, mtu: number, onFrames: (start: number, end: number) => void) {
    this.#memory = memory;
    this.index = index;
    this.mtu = mtu;
    this.#at = memory.alloc(1 << 20);
    this.#onFrames = onFrames;
  }
  room(): number {
    return this.space;
  }
  canSendControl(): boolean {
    return this.space > 0;
  }
  reserve(bytes: number): number {
    this.#memory.u8.fill(0xa5, this.#at, this.#at + bytes);
    return this.#at;
  }
  commit(bytes: number): void {
    this.#onFrames(this.#at, this.#at + bytes);
  }
}

/** Writes one framed segment; returns its end. */
export function writeFrame(memory: PacketMemory, at: number, source: number, destination: number, s: Segment): number {
  const v = memory.view;
  const kernels = loadKernelsOnce(memory);
  memory.u8.fill(0, at, at + T + 60);
  let header = 20;
  if (s.blocks.length > 0) header += writeSack(v, at + T + TCP.options, Int32Array.from(s.blocks), s.blocks.length / 2);
  if (s.mss > 0) header += writeSynOptions(memory.u8, at + T + TCP.options, { mss: s.mss, windowScale: s.windowScale, sack: s.sack });
  const total = 20 + header + s.data.length;
  v.setUint32(at, 14 + total);
  v.setUint16(at + 4 + 12, 0x0800);
  memory.u8[at + IP] = 0x45;
  v.setUint16(at + IP + IPV4.total, total);
  v.setUint16(at + IP + IPV4.fragment, DONT_FRAGMENT);
  memory.u8[at + IP + IPV4.ttl] = 64;
  memory.u8[at + IP + IPV4.protocol] = IpProtocol.tcp;
  v.setUint32(at + IP + IPV4.source, source);
  v.setUint32(at + IP + IPV4.destination, destination);
  v.setUint16(at + IP + IPV4.checksum, ~kernels.checksum(at + IP, 20), true);
  v.setUint16(at + T + TCP.source, s.guestPort);
  v.setUint16(at + T + TCP.destination, s.peerPort);
  v.setInt32(at + T + TCP.seq, s.seq);
  v.setInt32(at + T + TCP.ack, s.ack);
  memory.u8[at + T + TCP.offset] = (header / 4) << 4;
  memory.u8[at + T + TCP.flags] = s.flags;
  v.setUint16(at + T + TCP.window, s.window);
  memory.u8.set(s.data, at + T + header);
  const bytes = header + s.data.length;
  const sum = kernels.checksum(at + IP + IPV4.source, 8 + bytes) + (IpProtocol.tcp << 8) + (((bytes & 255) << 8) | (bytes >> 8));
  v.setUint16(at + T + TCP.checksum, ~((sum & 0xffff) + (sum >>> 16)), true);
  return at + 4 + 14 + total;
}

const loaded = new WeakMap<PacketMemory, ReturnType<typeof loadKernels>>();
export function loadKernelsOnce(memory: PacketMemory): ReturnType<typeof loadKernels> {
  const have = loaded.get(memory) ?? loadKernels(memory);
  loaded.set(memory, have);
  return have;
}

/** Reads framed segments to the guest, and verifies their checksums. */
export function readFrames(memory: PacketMemory, start: number, end: number): Segment[] {
  const found: Segment[] = [];
  const v = memory.view;
  const kernels = loadKernelsOnce(memory);
  for (let at = start; at < end; at += 4 + v.getUint32(at)) {
    const total = v.getUint16(at + IP + IPV4.total);
    if (total + 14 !== v.getUint32(at)) throw new Error('length of a frame');
    const bytes = total - 20;
    const sum = kernels.checksum(at + IP + IPV4.source, 8 + bytes) + (IpProtocol.tcp << 8) + (((bytes & 255) << 8) | (bytes >> 8));
    if (((sum & 0xffff) + (sum >>> 16)) % 0xffff !== 0 || kernels.checksum(at + IP, 20) !== 0xffff) throw new Error('checksum of a frame');
    const header = (memory.u8[at + T + TCP.offset] >> 4) * 4;
    const flags = memory.u8[at + T + TCP.flags];
    found.push({
      flags,
      seq: v.getInt32(at + T + TCP.seq),
      ack: v.getInt32(at + T + TCP.ack),
      window: v.getUint16(at + T + TCP.window),
      data: Buffer.from(memory.u8.slice(at + T + header, at + IP + total)),
      ...parseSynOptions(memory.u8, at + T + 20, at + T + header),
      blocks:
        header > 24 && v.getUint16(at + T + 20) === 0x0101 && memory.u8[at + T + 22] === 5
          ? Array.from({ length: (memory.u8[at + T + 23] - 2) / 4 }, (_, i) => v.getInt32(at + T + 24 + 4 * i))
          : [],
      peerPort: v.getUint16(at + T + TCP.source),
      guestPort: v.getUint16(at + T + TCP.destination),
    });
  }
  return found;
}

export class TcpRig {
  readonly memory = new PacketMemory(96 << 20);
  readonly port: FakePort;
  readonly machine: TcpMachine;
  now = 10_000;
  log: string[] = [];
  /** The guest's first sequence number. */
  readonly isn: number;
  /** Our first sequence number, once seen. */
  iss = 0;
  #issKnown = false;
  /** The newest flow that requested a host socket. */
  flow: TcpFlow | null = null;
  resolved: ReturnType<TcpMachineOptions['resolve']> | null = null;
  /** The host's socket accepts no data. */
  stuck = false;
  /** When the host last heard the peer, ms; null: now. */
  heardAt: number | null = null;
  readonly written: Buffer[] = [];
  /** Receives the segments to the guest, instead of the log. */
  onSegment: ((s: Segment) => void) | null = null;
  /** Receives the dial priority of each new connection. */
  onConnect: ((priority: number) => void) | null = null;
  readonly #rx: number;

  constructor(options: { mtu?: number; isn?: number; limits?: TcpMachineOptions['limits']; ackDelay?: number } = {}) {
    this.isn = options.isn ?? 1000;
    this.#rx = this.memory.alloc(1 << 20);
    this.port = new FakePort(this.memory, 0, options.mtu ?? 1500, (start, end) => {
      for (const s of readFrames(this.memory, start, end)) {
        if (this.onSegment) this.onSegment(s);
        else this.log.push(this.show(s));
      }
    });
    const host: HostSide = {
      connect: (flow, to, priority) => {
        this.flow = flow;
        this.onConnect?.(priority);
        this.log.push('host' in to ? `connect ${to.host}:${to.port}` : 'connect to a service');
      },
      write: (flow, at, length) => {
        this.written.push(Buffer.from(this.memory.u8.slice(at, at + length)));
        if (this.stuck) {
          flow.queued += length;
          flow.owner.queued += length;
        }
        this.log.push(`write ${length}`);
      },
      end: () => this.log.push('end'),
      close: () => this.log.push('close'),
      reset: () => this.log.push('reset'),
      read: (_flow, on) => {
        this.log.push(on ? 'read' : 'do not read');
        return on;
      },
      sinceHeard: () => (this.heardAt === null ? 0 : this.now - this.heardAt),
      askPeer: (_flow, on) => this.log.push(on ? 'ask the peer' : 'do not ask the peer'),
    };
    this.machine = new TcpMachine({
      memory: this.memory,
      kernels: loadKernelsOnce(this.memory),
      gatewayMac: 0x020000006401,
      resolve: (_port, ip, port) => this.resolved ?? { host: formatIpv4(ip), port },
      onUnreachable: (_port, why, at) =>
        this.log.push(`icmp ${why.kind} ${formatIpv4(this.memory.view.getUint32(at + 12))}:${this.memory.view.getUint16(at + 20)}`),
      host,
      secret: Buffer.alloc(16, 7),
      now: this.now,
      ackDelay: options.ackDelay ?? 0, // most traces then need no clock
      ...(options.limits ? { limits: options.limits } : {}),
    });
  }

  /** In tcpdump's notation: flags, seq, ack, length; `win` only on request. */
  show(s: Segment): string {
    if (s.flags & TcpFlag.syn && !this.#issKnown) {
      this.iss = s.seq;
      this.#issKnown = true;
    }
    const flags = FLAGS.filter(([, bit]) => s.flags & bit)
      .map(([name]) => name)
      .join('');
    const reset = (s.flags & TcpFlag.rst) !== 0 && !this.#issKnown;
    const parts = [flags, `seq ${reset ? s.seq : seqDiff(s.seq, this.iss)}`];
    if (s.flags & TcpFlag.ack) parts.push(`ack ${seqDiff(s.ack, this.isn)}`);
    if (s.data.length > 0) parts.push(`len ${s.data.length}`);
    if (s.mss > 0) parts.push(`mss ${s.mss} scale ${s.windowScale}${s.sack ? ' sack' : ''}`);
    if (s.blocks.length > 0) parts.push(`sack ${s.blocks.map((b) => seqDiff(b, this.isn)).join(' ')}`);
    return parts.join(' ');
  }

  /** A segment from the guest: sequence and acknowledgement numbers relative to the first ones. */
  guest(flags: string, s: GuestSegment = {}): this {
    this.run([this.build(flags, s)], s.peer ?? PEER, s.by);
    return this;
  }

  build(flags: string, s: GuestSegment): Segment {
    const syn = flags.includes('S');
    return {
      flags: FLAGS.reduce((sum, [name, bit]) => (flags.includes(name) ? sum | bit : sum), 0),
      seq: seqAdd(this.isn, s.seq ?? 0),
      ack: flags.includes('.') ? seqAdd(this.iss, s.ack ?? 1) : 0,
      window: s.window ?? 65535,
      data: Buffer.from(s.data ?? ''),
      mss: syn ? (s.mss ?? 1460) : 0,
      windowScale: s.windowScale ?? 7,
      sack: s.sack ?? false,
      blocks: (s.blocks ?? []).map((b) => seqAdd(this.iss, b)),
      guestPort: s.guestPort ?? 40_000,
      peerPort: s.peerPort ?? 80,
    };
  }

  /** Several segments in one run. */
  run(segments: Segment[], peer = PEER, by = this.port): void {
    let at = this.#rx;
    for (const s of segments) at = writeFrame(this.memory, at, GUEST, peer, s);
    this.machine.onRun(by, this.#rx, at, this.now);
  }

  /** Payload arrives on the host socket. */
  host(data: string | Buffer, flow = this.flow!): this {
    const bytes = Buffer.from(data);
    this.memory.u8.set(bytes, this.#rx);
    if (!flow.send.append(this.#rx, bytes.length)) throw new Error('no memory');
    this.machine.onHostData(flow, this.now);
    return this;
  }

  /**
   * Advances the clock until the machine acts on its own; fails if that takes longer than `limit` ms. Returns how long
   * it took.
   */
  next(limit = 100_000): number {
    const from = this.now;
    const lines = this.log.length;
    while (this.log.length === lines) {
      if (this.machine.nextAt() - from > limit) throw new Error(`nothing is due within ${limit} ms`);
      this.#step();
    }
    return this.now - from;
  }

  #step(): void {
    this.now = Math.max(this.now, this.machine.nextAt());
    this.machine.run(this.now);
  }

  /** Advances the clock by `ms`. */
  pass(ms: number): this {
    const end = this.now + ms;
    while (this.machine.nextAt() <= end) this.#step();
    this.now = end;
    this.machine.run(end);
    return this;
  }

  /** The log since the last call. */
  take(): string[] {
    const log = this.log;
    this.log = [];
    return log;
  }

  /** An established connection of the guest, with an empty log; `roundTrip` (ms) is the duration of the handshake. */
  established(syn: GuestSegment = {}, roundTrip = 0): this {
    this.#issKnown = false;
    this.guest('S', syn);
    this.machine.onConnected(this.flow!, this.now);
    this.now += roundTrip;
    this.guest('.', { ...syn, seq: 1, ack: 1 });
    this.take();
    return this;
  }
}
