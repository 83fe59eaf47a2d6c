/**
 * The TCP path as a machine: connections are terminated towards the guest, and carried on by host sockets.
 *
 * Theory of operation. A guest's SYN opens a host socket first; the SYN is answered when that is connected, so that the
 * guest sees what is really there: a refusal is a RST, an unreachable host an ICMP error. From then on bytes are handed
 * over: in-order payload of a whole run goes to the host socket in one write, and is acknowledged then (ack-delay.ts
 * says when), as the window counts what the socket has not taken; what the socket brings stays in a send buffer until
 * the guest has acknowledged it, and the socket is not read while enough waits. So a peer that does not read stops the
 * one who sends, and memory is bounded on both ways. FINs are passed on as half-closes, RSTs as RSTs.
 *
 * This file takes the events and hands each to its part: open.ts until both SYNs are acknowledged, arrive.ts and
 * send.ts for what is said then, end.ts for ends of all kinds; timers, and what waits for room, come in here.
 *
 * The machine does no I/O and has no clock: `on…` methods are events with the time as argument, `HostSide` and
 * `GuestPort` are the actions. Call `run(now)` at `nextAt()`.
 *
 * Limits. Those of the parts; here, the bounds of memory: TcpLimits, and what a port's flows may queue towards the
 * host.
 *
 * Read first: RFC 9293, RFC 5382 (behaviour of NATs).
 */
import { TcpFlag } from '../../wire/tcp.ts';
import { DESCRIPTOR_WORDS, Descriptor, type Kernels } from '../memory/kernels.ts';
import { TcpAckDelay } from './ack-delay.ts';
import { TcpArrivals } from './arrive.ts';
import { ChunkPool } from './chunks.ts';
import { DEFAULT_LIMITS, type HostSide, type TcpLimits, TcpParts } from './context.ts';
import { PORT_QUEUE_CAP, TcpEmitter, WINDOW } from './emit.ts';
import { TcpEnds } from './end.ts';
import { Happened, type TcpFlow, TcpPortState } from './flow.ts';
import type { GuestPort, TcpRefusal } from './interface.ts';
import { TcpOpen, type TcpOpenOptions } from './open.ts';
import { TcpReassembly } from './reassembly.ts';
import { KEEP_ALIVE, type KeepAlive, TcpSender } from './send.ts';
import { TcpTable } from './table.ts';
import { TcpTimers } from './timers.ts';

export interface TcpMachineOptions extends TcpOpenOptions {
  kernels: Kernels;
  gatewayMac: number;
  host: HostSide;
  now: number;
  limits?: Partial<TcpLimits>;
  /** How long the ACK of a small segment waits for an answer that carries it, ms. */
  ackDelay?: number;
  keepAlive?: KeepAlive;
}

const ACK_DELAY = 2;
/** A host socket is read while less than this waits unsent. */
const ENOUGH_UNSENT = 128 << 10;
const MAX_DESCRIPTORS = 1024;
/**
 * Bytes that a flow may queue towards the host although its port's account is full: those that are stuck do not stop
 * the others.
 */
const FAIR_SHARE = 16 << 10;

export class TcpMachine {
  readonly pool: ChunkPool;
  readonly #kernels: Kernels;
  readonly #i32: Int32Array;
  readonly #descriptors: number;
  readonly #p: TcpParts;
  readonly #sender: TcpSender;
  readonly #delay: TcpAckDelay;
  readonly #arrive: TcpArrivals;
  readonly #open: TcpOpen;
  readonly #ends: TcpEnds;
  readonly #ports: TcpPortState[] = [];

  constructor(o: TcpMachineOptions) {
    const limits = { ...DEFAULT_LIMITS, ...o.limits };
    this.#kernels = o.kernels;
    this.#i32 = o.memory.i32;
    this.#descriptors = o.memory.alloc(64 + MAX_DESCRIPTORS * DESCRIPTOR_WORDS * 4) + 64;
    this.pool = new ChunkPool(o.memory, limits.sendMemory);
    const timers = new TcpTimers(o.now);
    const emit = new TcpEmitter(o.memory, o.kernels, o.gatewayMac);
    this.#sender = new TcpSender(o.memory, emit, timers, o.keepAlive ?? KEEP_ALIVE);
    this.#p = new TcpParts({ host: o.host, limits, pool: this.pool, table: new TcpTable(o.secret.readInt32LE(0)), timers, emit, sender: this.#sender }, o.now);
    this.#delay = new TcpAckDelay(o.ackDelay ?? ACK_DELAY);
    this.#ends = new TcpEnds(this.#p);
    this.#arrive = new TcpArrivals(this.#sender, {
      onPayload: (flow, at, length, queued) => this.#payload(flow, at, length, queued),
      onEarly: (flow, seq, at, length) => this.#early(flow, seq, at, length),
      onGuestEnd: (flow) => o.host.end(flow),
      onGuestReset: (flow) => this.#ends.guestReset(flow),
      mark: (flow, small) => this.#p.mark(flow, small),
    });
    this.#open = new TcpOpen(o, this.#p, this.#arrive, this.#ends);
  }

  #state(port: GuestPort): TcpPortState {
    const have = this.#ports[port.index];
    if (have && have.port === port) return have;
    if (have) this.onPortGone(have.port);
    const made = new TcpPortState(port);
    this.#ports[port.index] = made;
    return made;
  }

  // ---- the guest's side

  onRun(port: GuestPort, start: number, end: number, now: number): void {
    this.#p.now = now;
    const state = this.#state(port);
    for (let at = start; at < end; ) {
      const count = this.#kernels.coalesce(at, end, this.#descriptors, MAX_DESCRIPTORS);
      for (let i = 0, d = this.#descriptors >> 2; i < count; i++, d += DESCRIPTOR_WORDS) this.#segment(state, d);
      if (count < MAX_DESCRIPTORS) break;
      at = this.#i32[(this.#descriptors >> 2) - 1];
    }
    const marked = this.#p.marked;
    for (let i = 0; i < marked.length; i++) {
      const flow = marked[i];
      flow.marked = false;
      if (flow.events & Happened.gone) continue;
      if (flow.ackDue && (flow.ackNow || !this.#delay.mayWait(flow))) this.#sender.acknowledge(flow);
      this.#settle(flow);
    }
    marked.length = 0;
    // ACKs have freed memory, for which others may wait
    if (state.waiting.length > 0 && port.queue.room() > 0) this.onRoom(port, now);
  }

  #segment(state: TcpPortState, d: number): void {
    const w = this.#i32;
    const problem = w[d + Descriptor.problem];
    if (problem !== 0) {
      if (problem === 1) this.#p.counts.malformed++;
      else this.#p.counts.badChecksum++;
      return;
    }
    const guestIp = w[d + Descriptor.source];
    const peerIp = w[d + Descriptor.destination];
    const ports = w[d + Descriptor.ports];
    const seq = w[d + Descriptor.seq];
    const ack = w[d + Descriptor.ack];
    const flags = w[d + Descriptor.windowFlags] >>> 16;
    const window = w[d + Descriptor.windowFlags] & 0xffff;
    const length = w[d + Descriptor.length];
    const flow = this.#p.table.find(state.port.index, guestIp, peerIp, ports);
    if (!flow) {
      if ((flags & (TcpFlag.syn | TcpFlag.ack | TcpFlag.rst)) === TcpFlag.syn) this.#open.open(state, d, guestIp, peerIp, ports, seq, window);
      else this.#p.stray(state.port, guestIp, peerIp, ports, flags, seq, ack, length);
      return;
    }
    if (flow.events & Happened.timeWait) {
      if (this.#ends.lingering(flow, flags, seq, length)) this.#open.open(state, d, guestIp, peerIp, ports, seq, window);
      return;
    }
    if (!(flow.events & Happened.established) && !this.#open.segment(flow, d, flags, seq, ack, window, length)) return;
    const tcp = w[d + Descriptor.tcp];
    this.#arrive.segment(flow, flags, seq, ack, window, tcp, w[d + Descriptor.payload], length, w[d + Descriptor.segments], this.#p.now);
    if (flow.events & Happened.gone) return;
    this.#sender.pump(flow, this.#p.now);
    this.#p.touch(flow);
  }

  // ---- the host's side

  /** A client from the host's side; `flow.host` is the caller's to set. Null when the port has too many. */
  accept(port: GuestPort, guestIp: number, guestPort: number, source: number, sourcePort: number, now: number): TcpFlow | null {
    this.#p.now = now;
    return this.#open.accept(this.#state(port), guestIp, guestPort, source, sourcePort);
  }

  onConnected(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    this.#open.onConnected(flow);
  }

  onNotConnected(flow: TcpFlow, why: TcpRefusal, now: number): void {
    this.#p.now = now;
    this.#open.onNotConnected(flow, why);
  }

  /** There is no host socket to be had just now: as if the SYN had been lost, so that the guest tries again. */
  onNoSocket(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    this.#p.counts.noSocket++;
    this.#ends.abandon(flow);
  }

  /**
   * The host socket brought payload, which is in the send buffer now, or did not fit: then it is not read for the time
   * being.
   */
  onHostData(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    this.#sender.pump(flow, now);
    this.#regulate(flow);
  }

  /** The host's side sends no more. */
  onHostEnd(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    flow.events |= Happened.hostEnd;
    this.#sender.pump(flow, now);
    this.#settle(flow);
  }

  /** The host's side was reset, or failed: so is the guest's. */
  onHostReset(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    this.#p.counts.hostResets++;
    flow.events |= Happened.hostDone;
    this.#ends.resetGuest(flow);
    this.#ends.remove(flow);
  }

  /** The host socket has taken payload; `flow.queued` is what is left. */
  onDrained(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    if (this.#p.emit.windowGrew(flow)) this.#sender.acknowledge(flow);
  }

  #early(flow: TcpFlow, seq: number, at: number, length: number): void {
    if (flow.owner.held >= this.pool.free) return;
    flow.early ??= new TcpReassembly(this.pool, flow.owner);
    flow.early.add(seq, at, length);
  }

  #payload(flow: TcpFlow, at: number, length: number, queued: boolean): boolean {
    if (flow.events & Happened.hostDone) return false;
    if (flow.queued > (flow.owner.queued > PORT_QUEUE_CAP ? FAIR_SHARE : WINDOW)) return false;
    this.#p.host.write(flow, at, length, queued);
    return true;
  }

  /** Reads from the host socket while not too much waits. */
  #regulate(flow: TcpFlow): void {
    if (flow.events & Happened.hostDone) return;
    const sated = flow.unsent >= ENOUGH_UNSENT;
    const hungry = !sated && flow.owner.held < this.pool.free;
    if (hungry && !flow.reading) {
      const before = flow.send.length;
      flow.reading = this.#p.host.read(flow, true);
      if (flow.send.length !== before) this.#sender.pump(flow, this.#p.now);
    } else if (!hungry && flow.reading) flow.reading = this.#p.host.read(flow, false);
    if (!sated && !flow.reading) this.#sender.wait(flow);
  }

  // ---- ends

  #settle(flow: TcpFlow): void {
    if (flow.events & Happened.gone) return;
    const e = flow.events;
    if ((e & (Happened.finIn | Happened.finAcked)) !== (Happened.finIn | Happened.finAcked) || e & Happened.timeWait) {
      this.#regulate(flow);
      return;
    }
    this.#ends.finish(flow);
  }

  /** Resets both sides. */
  cut(flow: TcpFlow, now: number): void {
    this.#p.now = now;
    if (flow.events & Happened.gone) return;
    this.#ends.resetGuest(flow);
    this.#ends.abandon(flow);
  }

  onPortGone(port: GuestPort): void {
    const state = this.#ports[port.index];
    if (!state || state.port !== port) return;
    state.gone = true;
    for (const flow of [...state.flows]) this.#ends.abandon(flow);
    state.waiting.length = 0;
    delete this.#ports[port.index];
  }

  onAddressGone(port: GuestPort, ip: number, now: number): void {
    this.#p.now = now;
    const state = this.#ports[port.index];
    if (state) for (const flow of [...state.flows]) if (flow.guestIp === (ip | 0)) this.#ends.abandon(flow);
  }

  close(): void {
    for (const state of this.#ports) if (state) this.onPortGone(state.port);
  }

  // ---- time and room

  onRoom(port: GuestPort, now: number): void {
    this.#p.now = now;
    const state = this.#ports[port.index];
    if (!state || state.waiting.length === 0) return;
    const waiting = state.waiting;
    state.waiting = [];
    for (const flow of waiting) {
      flow.waiting = false;
      if (flow.events & Happened.gone) continue;
      if (flow.ackDue) this.#sender.acknowledge(flow);
      this.#sender.pump(flow, now);
      this.#settle(flow);
    }
  }

  nextAt(): number {
    return Math.min(this.#p.timers.nextAt(), this.#delay.nextAt());
  }

  run(now: number): void {
    this.#p.now = now;
    this.#delay.run(now, (flow) => this.#sender.acknowledge(flow));
    this.#p.timers.run(now, (flow) => this.#deadline(flow));
  }

  #deadline(flow: TcpFlow): void {
    if (flow.events & Happened.timeWait) {
      this.#ends.remove(flow);
      return;
    }
    if (!(flow.events & Happened.established)) {
      this.#open.timeout(flow);
      return;
    }
    if (this.#sender.timeout(flow, this.#p.now)) return;
    this.#p.counts.silent++;
    this.#ends.resetGuest(flow);
    this.#ends.abandon(flow);
  }

  stats(): Record<string, number> {
    let queued = 0;
    let connecting = 0;
    let timeWait = 0;
    for (const s of this.#ports) {
      if (!s) continue;
      queued += s.queued;
      connecting += s.halfOpenOut.size + s.halfOpenIn.size;
      timeWait += s.timeWait.size;
    }
    const a = this.#arrive;
    const s = this.#sender;
    return {
      flows: this.#p.table.size,
      connecting,
      timeWait,
      queued,
      sendMemory: this.pool.bytes,
      segmentsOut: this.#p.emit.segments,
      retransmissions: s.retransmissions,
      timeouts: s.timeouts,
      probes: s.probes,
      tailProbes: s.tailProbes,
      outOfOrder: a.outOfOrder,
      duplicates: a.duplicates,
      challenges: a.challenges,
      overWindow: a.overWindow,
      refusedPayload: a.refusedPayload,
      ...this.#p.counts,
    };
  }
}
