/**
 * The TCP path as a machine: connections are terminated towards the guest, and continued by host sockets.
 *
 * Theory of operation. A guest's SYN first opens a host socket, and is answered once that is connected. So the guest
 * sees what the host sees: a refusal is a RST, an unreachable host an ICMP error.
 *
 * In-order payload of a whole run goes to the host socket in one write, and is acknowledged then (ack-delay.ts says
 * when), as the window accounts for what the socket has not taken. Payload from the socket stays in a send buffer until
 * the guest acknowledges it, and the socket is not read while enough is unsent. So a peer that does not read stops the
 * sender, and memory is bounded in both directions. FINs are passed on as half-closes, RSTs as RSTs.
 *
 * This file dispatches the events: to open.ts until both SYNs are acknowledged, to arrive.ts and send.ts while
 * established, to end.ts for every kind of end. Deadlines and flows blocked on room are handled here.
 *
 * The machine does no I/O and has no clock: `on…` methods are events with the time as argument, `HostSide` and
 * `GuestPort` are the actions. Call `run(now)` at `nextAt()`.
 *
 * Limits. Those of the other files. Memory is bounded by TcpLimits, and by what a NIC's flows may queue to the host.
 *
 * Read first: RFC 9293, RFC 5382 (behaviour of NATs).
 */
import { Unreachable } from '../../wire/icmp.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import { DESCRIPTOR_WORDS, Descriptor, type Kernels } from '../memory/kernels.ts';
import { TcpAckDelay } from './ack-delay.ts';
import { TcpArrivals } from './arrive.ts';
import { ChunkPool } from './chunks.ts';
import { DEFAULT_LIMITS, type HostSide, TcpContext, type TcpLimits } from './context.ts';
import { PORT_QUEUE_CAP, TcpEmitter, WINDOW } from './emit.ts';
import { TcpEnds } from './end.ts';
import { TcpEvents, type TcpFlow, TcpPortState } from './flow.ts';
import type { GuestPort, InboundAddresses, LostSegment, TcpRefusal } from './interface.ts';
import { TcpOpen, type TcpOpenOptions } from './open.ts';
import { narrowPath } from './path-mtu.ts';
import { TcpReassembly } from './reassembly.ts';
import { KEEP_ALIVE, type KeepAlive, TcpSender } from './send.ts';
import { TcpTable } from './table.ts';
import { TimerWheel } from './timers.ts';

export interface TcpMachineOptions extends TcpOpenOptions {
  kernels: Kernels;
  gatewayMac: number;
  host: HostSide;
  now: number;
  limits?: Partial<TcpLimits>;
  /** How long the ACK of a small segment may be delayed, ms. */
  ackDelay?: number;
  keepAlive?: KeepAlive;
}

/** ms. */
const ACK_DELAY = 2;
/** A host socket is read while less than this is unsent, bytes. */
const ENOUGH_UNSENT = 128 << 10;
const MAX_DESCRIPTORS = 1024;
/**
 * Bytes that a flow may queue to the host although its NIC's account is full, so that blocked flows do not block the
 * others.
 */
const FAIR_SHARE = 16 << 10;

export class TcpMachine {
  readonly pool: ChunkPool;
  readonly #kernels: Kernels;
  readonly #i32: Int32Array;
  readonly #descriptors: number;
  readonly #context: TcpContext;
  readonly #sender: TcpSender;
  readonly #delay: TcpAckDelay<TcpFlow>;
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
    const timers = new TimerWheel<TcpFlow>(o.now);
    const emit = new TcpEmitter(o.memory, o.kernels, o.gatewayMac);
    this.#sender = new TcpSender(o.memory, emit, timers, o.keepAlive ?? KEEP_ALIVE);
    this.#context = new TcpContext(
      { host: o.host, limits, pool: this.pool, table: new TcpTable(o.secret.readInt32LE(0)), timers, emit, sender: this.#sender },
      o.now,
    );
    this.#delay = new TcpAckDelay(o.ackDelay ?? ACK_DELAY);
    this.#ends = new TcpEnds(this.#context);
    this.#arrive = new TcpArrivals(this.#sender, {
      onPayload: (flow, at, length, queued) => this.#payload(flow, at, length, queued),
      onOutOfOrder: (flow, seq, at, length) => this.#keepOutOfOrder(flow, seq, at, length),
      onGuestFin: (flow) => o.host.end(flow),
      onGuestReset: (flow) => this.#ends.guestReset(flow),
      ackAtEnd: (flow, small, bare) => this.#context.ackAtEnd(flow, small, bare),
    });
    this.#open = new TcpOpen(o, this.#context, this.#arrive, this.#ends);
  }

  #state(port: GuestPort): TcpPortState {
    const known = this.#ports[port.index];
    if (known && known.port === port) return known;
    if (known) this.onPortRemoved(known.port);
    const created = new TcpPortState(port);
    this.#ports[port.index] = created;
    return created;
  }

  // ---- the guest's side

  onRun(port: GuestPort, start: number, end: number, now: number): void {
    this.#context.now = now;
    const state = this.#state(port);
    for (let at = start; at < end; ) {
      const count = this.#kernels.coalesce(at, end, this.#descriptors, MAX_DESCRIPTORS);
      for (let i = 0, d = this.#descriptors >> 2; i < count; i++, d += DESCRIPTOR_WORDS) this.#segment(state, d);
      if (count < MAX_DESCRIPTORS) break;
      at = this.#i32[(this.#descriptors >> 2) - 1];
    }
    const marked = this.#context.marked;
    for (let i = 0; i < marked.length; i++) {
      const flow = marked[i];
      flow.marked = false;
      if (flow.events & TcpEvents.removed) continue;
      const ack = flow.ack;
      if (ack.due && !flow.life.held && (ack.urgent || !this.#delay.tryDelay(ack))) this.#sender.acknowledge(flow);
      this.#settle(flow);
    }
    marked.length = 0;
    // ACKs have freed memory that other flows may be blocked on
    if (state.waiting.length > 0 && port.queue.room() > 0) this.onRoom(port, now);
  }

  #segment(state: TcpPortState, d: number): void {
    const w = this.#i32;
    const problem = w[d + Descriptor.problem];
    if (problem !== 0) {
      if (problem === 1) this.#context.counts.malformed++;
      else this.#context.counts.badChecksum++;
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
    const flow = this.#context.table.find(state.port.index, guestIp, peerIp, ports);
    if (!flow) {
      if ((flags & (TcpFlag.syn | TcpFlag.ack | TcpFlag.rst)) === TcpFlag.syn) this.#open.open(state, d, guestIp, peerIp, ports, seq, window);
      else this.#context.rejectStray(state.port, guestIp, peerIp, ports, flags, seq, ack, length);
      return;
    }
    if (flow.events & TcpEvents.timeWait) {
      if (this.#ends.lingering(flow, flags, seq, length)) this.#open.open(state, d, guestIp, peerIp, ports, seq, window);
      return;
    }
    if (!(flow.events & TcpEvents.established) && !this.#open.segment(flow, d, flags, seq, ack, window, length)) return;
    const tcp = w[d + Descriptor.tcp];
    this.#arrive.segment(flow, flags, seq, ack, window, tcp, w[d + Descriptor.payload], length, w[d + Descriptor.segments], this.#context.now);
    if (flow.events & TcpEvents.removed) return;
    this.#sender.pump(flow, this.#context.now);
    this.#context.mark(flow);
  }

  /**
   * An ICMP error of the guest about a segment. It ends no connection that is established (RFC 1122 4.2.3.9, RFC 5927
   * 5).
   */
  onSegmentLost(port: GuestPort, lost: LostSegment, now: number): void {
    this.#context.now = now;
    const flow = this.#context.table.find(port.index, lost.guestIp | 0, lost.peerIp | 0, (lost.guestPort << 16) | lost.peerPort);
    if (!flow || flow.events & TcpEvents.timeWait) return;
    if (!(flow.events & TcpEvents.established)) this.#open.onSynLost(flow, lost);
    else if (lost.code === Unreachable.fragmentationNeeded && narrowPath(flow, lost, this.#context.emit, now)) {
      this.#context.counts.narrowed++;
      this.#sender.resend(flow, now);
    }
  }

  // ---- the host's side

  /**
   * Opens a connection to the guest for a forwarded client; the caller sets `flow.host`. Null when a limit is reached.
   */
  accept(port: GuestPort, addresses: InboundAddresses, now: number): TcpFlow | null {
    this.#context.now = now;
    return this.#open.accept(this.#state(port), addresses);
  }

  onConnected(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    this.#open.onConnected(flow);
  }

  onNotConnected(flow: TcpFlow, why: TcpRefusal, now: number): void {
    this.#context.now = now;
    this.#open.onNotConnected(flow, why);
  }

  /** No host socket is available now: the SYN is dropped, so that the guest retransmits it. */
  onNoSocket(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    this.#context.counts.noSocket++;
    this.#ends.abandon(flow);
  }

  /** Payload from the host socket was put in the send buffer. If it did not fit, the socket is paused. */
  onHostData(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    this.#context.peers.heard(flow, now);
    this.#sender.pump(flow, now);
    this.#regulate(flow);
  }

  /** The host socket has reached its end of stream. */
  onHostFin(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    flow.events |= TcpEvents.hostFin;
    this.#context.peers.heard(flow, now);
    this.#sender.pump(flow, now);
    this.#settle(flow);
  }

  /** The host socket was reset or has failed: resets the guest's side. */
  onHostReset(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    this.#context.counts.hostResets++;
    flow.events |= TcpEvents.hostClosed;
    this.#ends.resetGuest(flow);
    this.#ends.remove(flow);
  }

  /** The host socket has taken payload; `flow.queued` is what remains. */
  onDrained(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    if (!flow.life.held && this.#context.emit.windowGrew(flow)) this.#sender.acknowledge(flow);
  }

  #keepOutOfOrder(flow: TcpFlow, seq: number, at: number, length: number): void {
    if (flow.owner.held >= this.pool.free) return;
    flow.outOfOrder ??= new TcpReassembly(this.pool, flow.owner);
    flow.outOfOrder.add(seq, at, length);
  }

  #payload(flow: TcpFlow, at: number, length: number, queued: boolean): boolean {
    if (flow.events & TcpEvents.hostClosed) return false;
    if (flow.queued > (flow.owner.queued > PORT_QUEUE_CAP ? FAIR_SHARE : WINDOW)) return false;
    this.#context.host.write(flow, at, length, queued);
    return true;
  }

  /** Reads from the host socket unless enough is unsent, or memory is short. */
  #regulate(flow: TcpFlow): void {
    if (flow.events & TcpEvents.hostClosed) return;
    const enough = flow.unsent >= ENOUGH_UNSENT;
    const wanted = !enough && flow.owner.held < this.pool.free;
    if (wanted && !flow.reading) {
      const before = flow.send.length;
      flow.reading = this.#context.host.read(flow, true);
      if (flow.send.length !== before) this.#sender.pump(flow, this.#context.now);
    } else if (!wanted && flow.reading) flow.reading = this.#context.host.read(flow, false);
    if (!enough && !flow.reading) this.#sender.wait(flow);
  }

  // ---- ends

  /** Finishes the flow when both directions are closed, else adjusts reading. */
  #settle(flow: TcpFlow): void {
    if (flow.events & TcpEvents.removed) return;
    const e = flow.events;
    if ((e & (TcpEvents.finReceived | TcpEvents.finAcked)) !== (TcpEvents.finReceived | TcpEvents.finAcked) || e & TcpEvents.timeWait) {
      this.#regulate(flow);
      return;
    }
    this.#ends.finish(flow);
  }

  /** Resets both sides. */
  cut(flow: TcpFlow, now: number): void {
    this.#context.now = now;
    if (flow.events & TcpEvents.removed) return;
    this.#ends.resetGuest(flow);
    this.#ends.abandon(flow);
  }

  onPortRemoved(port: GuestPort): void {
    const state = this.#ports[port.index];
    if (!state || state.port !== port) return;
    state.removed = true;
    for (const flow of [...state.flows]) this.#ends.abandon(flow);
    state.waiting.length = 0;
    delete this.#ports[port.index];
  }

  onAddressRemoved(port: GuestPort, ip: number, now: number): void {
    this.#context.now = now;
    const state = this.#ports[port.index];
    if (state) for (const flow of [...state.flows]) if (flow.guestIp === (ip | 0)) this.#ends.abandon(flow);
  }

  /** Resets the connections that the guest has opened to these peers, on both sides. */
  onPeersRemoved(port: GuestPort, isBarred: (ip: number, tcpPort: number) => boolean, now: number): void {
    const state = this.#ports[port.index];
    if (state) for (const flow of [...state.flows]) if (!flow.forwarded && isBarred(flow.peerIp >>> 0, flow.ports & 0xffff)) this.cut(flow, now);
  }

  close(): void {
    for (const state of this.#ports) if (state) this.onPortRemoved(state.port);
  }

  // ---- deadlines and room

  onRoom(port: GuestPort, now: number): void {
    this.#context.now = now;
    const state = this.#ports[port.index];
    if (!state || state.waiting.length === 0) return;
    const waiting = state.waiting;
    state.waiting = [];
    for (const flow of waiting) {
      flow.waiting = false;
      if (flow.events & TcpEvents.removed) continue;
      if (flow.ack.due && !flow.life.held) this.#sender.acknowledge(flow);
      this.#sender.pump(flow, now);
      this.#settle(flow);
    }
  }

  nextAt(): number {
    return Math.min(this.#context.timers.nextAt(), this.#delay.nextAt(), this.#context.peers.nextAt());
  }

  run(now: number): void {
    this.#context.now = now;
    this.#context.peers.run(now);
    this.#delay.run(now, (flow) => {
      if (!flow.life.held) this.#sender.acknowledge(flow);
    });
    this.#context.timers.run(now, (flow) => this.#timeout(flow));
  }

  #timeout(flow: TcpFlow): void {
    if (flow.events & TcpEvents.timeWait) {
      this.#ends.remove(flow);
      return;
    }
    if (!(flow.events & TcpEvents.established)) {
      this.#open.timeout(flow);
      return;
    }
    if (this.#sender.timeout(flow, this.#context.now)) return;
    this.#context.counts.silent++;
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
      flows: this.#context.table.size,
      connecting,
      timeWait,
      queued,
      sendMemory: this.pool.bytes,
      segmentsOut: this.#context.emit.segments,
      retransmissions: s.retransmissions,
      timeouts: s.timeouts,
      probes: s.probes,
      tailProbes: s.tailProbes,
      outOfOrder: a.outOfOrder,
      duplicates: a.duplicates,
      challenges: a.challenges,
      heldAcks: this.#context.peers.held,
      overWindow: a.overWindow,
      refusedPayload: a.refusedPayload,
      ...this.#context.counts,
    };
  }
}
