/**
 * How connections open, until both SYNs are acknowledged.
 *
 * Theory of operation. Outbound: a guest's SYN requests a host socket, and is answered once that is connected. A
 * refusal becomes a RST, an unreachable host an ICMP error that quotes the SYN. Inbound: a forwarded client causes a
 * SYN to the guest, which may reject it by a RST or an ICMP error. Either SYN is retransmitted with backoff until it is
 * acknowledged or given up.
 *
 * Limits. Data in a SYN is ignored; the guest retransmits it. Simultaneous open is not supported: a SYN for a flow that
 * was opened towards the guest is dropped.
 *
 * Read first: RFC 9293 3.5, 3.10.7.3, RFC 5382 (behaviour of NATs).
 */
import { seqAdd } from '../../wire/sequence.ts';
import { DEFAULT_MSS, parseSynOptions, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { Descriptor } from '../memory/kernels.ts';
import type { PacketMemory } from '../memory/packet-memory.ts';
import type { TcpArrivals } from './arrive.ts';
import type { TcpContext } from './context.ts';
import { WINDOW_SHIFT } from './emit.ts';
import type { TcpEnds } from './end.ts';
import { TcpEvents, TcpFlow, type TcpPortState } from './flow.ts';
import type { HalfOpenTable } from './half-open.ts';
import type { InboundAddresses, LostSegment, NotifyUnreachable, ResolveTarget, TcpRefusal } from './interface.ts';
import { initialSequence } from './isn.ts';
import { TcpSendBuffer } from './send-buffer.ts';

/** First retransmission timeout of our SYN or SYN-ACK, ms; it doubles each time. */
const SYN_TIMEOUT = 250;
/** How often it is sent; it is given up after 256 s, where at least three minutes are due (RFC 9293 3.8.3, MUST-23). */
const SYN_TRIES = 10;

/** What a guest's "destination unreachable" about a SYN means, by its code (RFC 1122 3.2.2.1, RFC 1812 5.2.7.1). */
const REFUSALS: Readonly<Record<number, TcpRefusal['kind']>> = {
  0: 'net-unreachable',
  1: 'host-unreachable',
  2: 'refused',
  3: 'refused',
  6: 'net-unreachable',
  7: 'host-unreachable',
  9: 'prohibited',
  10: 'prohibited',
  11: 'net-unreachable',
  12: 'host-unreachable',
  13: 'prohibited',
};

/** Identifies who is to answer: the peer's address and port, or the guest's port. */
function endpointOf(flow: TcpFlow): number {
  return flow.forwarded ? flow.ports >>> 16 : (flow.peerIp >>> 0) * 65_536 + (flow.ports & 0xffff);
}

export interface TcpOpenOptions {
  memory: PacketMemory;
  /** At least 16 random bytes (RFC 6528). */
  secret: Buffer;
  resolve: ResolveTarget;
  onUnreachable: NotifyUnreachable;
}

export class TcpOpen {
  readonly #options: TcpOpenOptions;
  readonly #context: TcpContext;
  readonly #arrive: TcpArrivals;
  readonly #ends: TcpEnds;
  readonly #i32: Int32Array;
  #serial = 0;

  constructor(options: TcpOpenOptions, context: TcpContext, arrive: TcpArrivals, ends: TcpEnds) {
    this.#options = options;
    this.#context = context;
    this.#arrive = arrive;
    this.#ends = ends;
    this.#i32 = options.memory.i32;
  }

  #create(state: TcpPortState, guestIp: number, peerIp: number, ports: number, forwarded: boolean): TcpFlow {
    const header = this.#context.emit.takeHeader(guestIp, peerIp, ports);
    const send = new TcpSendBuffer(this.#context.pool, state);
    const flow = new TcpFlow(++this.#serial, state, { guestIp, peerIp, ports }, forwarded, { header, send });
    this.#context.table.add(flow);
    state.flows.add(flow);
    return flow;
  }

  /** Whether the limits allow one more flow, if need be after an eviction. */
  #admit(state: TcpPortState, halfOpen: HalfOpenTable<TcpFlow>): boolean {
    const { limits, table, lingering } = this.#context;
    if (halfOpen.size >= limits.connecting) this.#evictFrom(halfOpen);
    const sockets = state.flows.size - state.timeWait.size;
    const larger = state.halfOpenOut.size >= state.halfOpenIn.size ? state.halfOpenOut : state.halfOpenIn;
    if (sockets >= limits.sockets - (table.size - lingering) && !this.#evictFrom(larger)) return this.#refuse();
    if (state.flows.size < limits.flows) return true;
    const oldest = state.timeWait.values().next().value;
    if (oldest) this.#ends.evict(oldest);
    else if (!this.#evictFrom(larger)) return this.#refuse();
    return true;
  }

  #evictFrom(halfOpen: HalfOpenTable<TcpFlow>): boolean {
    const victim = halfOpen.victim();
    if (!victim) return false;
    halfOpen.forget(endpointOf(victim));
    this.#ends.evict(victim);
    return true;
  }

  #refuse(): false {
    this.#context.counts.flowLimit++;
    return false;
  }

  /**
   * A SYN of the guest that belongs to no flow. Positional arguments: a burst of SYNs allocates nothing before the
   * limits.
   */
  open(state: TcpPortState, d: number, guestIp: number, peerIp: number, ports: number, seq: number, window: number): void {
    const to = this.#options.resolve(state.port, peerIp >>> 0, ports & 0xffff);
    if (to === 'drop') return;
    if (to === 'reset' || !this.#admit(state, state.halfOpenOut)) {
      this.#context.rejectStray(state.port, guestIp, peerIp, ports, TcpFlag.syn, seq, 0, 0);
      return;
    }
    this.#context.counts.opened++;
    const flow = this.#create(state, guestIp, peerIp, ports, false);
    this.#takeSyn(flow, d, seq, window);
    this.#context.host.connect(flow, to, state.halfOpenOut.add(flow.halfOpen, peerIp, endpointOf(flow)));
  }

  /** Takes sequence number, window and options of the guest's SYN. */
  #takeSyn(flow: TcpFlow, d: number, seq: number, window: number): void {
    const tcp = this.#i32[d + Descriptor.tcp];
    const u8 = this.#options.memory.u8;
    const options = parseSynOptions(u8, tcp + TCP_HEADER, tcp + ((u8[tcp + 12] >> 4) << 2));
    flow.events |= TcpEvents.synReceived;
    flow.irs = seq;
    flow.rcvNxt = flow.rcvEdge = seqAdd(seq, 1);
    flow.sndWnd = window;
    flow.wl1 = seq;
    flow.mss = Math.max(64, Math.min(options.mss || DEFAULT_MSS, flow.owner.port.mtu - 40));
    flow.sndShift = Math.max(0, options.windowScale);
    flow.rcvShift = options.windowScale < 0 ? 0 : WINDOW_SHIFT;
    flow.sack = options.sack;
  }

  /**
   * A segment for a flow that is not established. `d` is the index of its descriptor. True when the flow is established
   * now, and the segment must be processed like any other.
   */
  segment(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number, length: number): boolean {
    if (!flow.forwarded) return this.#outbound(flow, d, flags, seq, ack, window, length);
    this.#inbound(flow, d, flags, seq, ack, window);
    return false;
  }

  /** A segment for a flow whose SYN is not answered yet, or whose SYN-ACK is not acknowledged. */
  #outbound(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number, length: number): boolean {
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.#ends.guestReset(flow);
      return false;
    }
    if (flags & TcpFlag.syn) {
      if (flags & TcpFlag.ack) return false;
      if (!(flow.events & TcpEvents.synSent)) this.#takeSyn(flow, d, seq, window);
      else if (seq === flow.irs) this.#sendSyn(flow);
      else this.#arrive.challenge(flow, this.#context.now);
      return false;
    }
    if (!(flags & TcpFlag.ack) || !(flow.events & TcpEvents.synSent)) return false;
    if (ack !== seqAdd(flow.iss, 1)) {
      this.#context.rejectStray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, length);
      return false;
    }
    this.#establish(flow, ack);
    flow.sndWnd = window << flow.sndShift;
    return true;
  }

  /** A segment for a flow that was opened towards the guest (SYN-SENT). */
  #inbound(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number): void {
    const acceptable = (flags & TcpFlag.ack) !== 0 && ack === seqAdd(flow.iss, 1);
    if (flags & TcpFlag.rst) {
      if (acceptable) this.#notAccepted(flow, 'refused');
      return;
    }
    if (!acceptable) {
      if (flags & TcpFlag.ack) this.#context.rejectStray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, 0);
      return;
    }
    if (!(flags & TcpFlag.syn)) return;
    this.#takeSyn(flow, d, seq, window);
    this.#establish(flow, ack);
    flow.wl2 = ack;
    this.#answer(flow, null);
    this.#context.ackAtEnd(flow, false, false);
    this.#context.sender.pump(flow, this.#context.now);
  }

  #establish(flow: TcpFlow, ack: number): void {
    const { roundTrip, recovery } = flow;
    flow.life.heardAt = this.#context.now;
    flow.events |= TcpEvents.established;
    flow.sndUna = recovery.until = recovery.lostBelow = recovery.probeEnd = ack;
    if (roundTrip.timedAt !== 0) roundTrip.measure(this.#context.now);
    roundTrip.retries = flow.silent = 0;
    const halfOpen = flow.forwarded ? flow.owner.halfOpenIn : flow.owner.halfOpenOut;
    halfOpen.delete(flow.halfOpen);
    halfOpen.remember(endpointOf(flow));
    this.#context.sender.restartTimer(flow, this.#context.now);
  }

  /** Sends our SYN (to a forwarded guest) or SYN-ACK. */
  #sendSyn(flow: TcpFlow): void {
    const { now, emit, counts, timers } = this.#context;
    // a retransmitted one is not timed (Karn)
    flow.roundTrip.timedAt = flow.events & TcpEvents.synSent ? 0 : now;
    // computed only now: it costs more than everything else for a SYN that nobody answers
    if (!(flow.events & TcpEvents.synSent))
      flow.iss = flow.wl2 = flow.sndUna = initialSequence(this.#options.secret, flow.guestIp, flow.peerIp, flow.ports, now);
    if (flow.owner.port.queue.canSendControl()) emit.control(flow, flow.forwarded ? TcpFlag.syn : TcpFlag.syn | TcpFlag.ack, flow.iss);
    else counts.noRoom++;
    flow.events |= TcpEvents.synSent;
    flow.sndNxt = flow.sndMax = seqAdd(flow.iss, 1);
    timers.set(flow.timer, now + SYN_TIMEOUT * 2 ** flow.roundTrip.retries);
  }

  /** The guest did not accept a forwarded client. */
  #notAccepted(flow: TcpFlow, kind: TcpRefusal['kind']): void {
    this.#context.counts.refused++;
    this.#answer(flow, { kind });
    this.#ends.abandon(flow);
  }

  /** A guest, or its firewall, rejects a forwarded client's SYN by ICMP. It must quote that SYN (RFC 5927 4). */
  onSynLost(flow: TcpFlow, { seq, code }: LostSegment): void {
    const kind = REFUSALS[code];
    if (kind && flow.forwarded && seq === flow.iss && flow.events & TcpEvents.synSent) this.#notAccepted(flow, kind);
  }

  /** Our SYN was not acknowledged in time. */
  timeout(flow: TcpFlow): void {
    if (++flow.roundTrip.retries < SYN_TRIES) this.#sendSyn(flow);
    else if (flow.forwarded) this.#notAccepted(flow, 'timeout');
    else this.#ends.abandon(flow);
  }

  #answer(flow: TcpFlow, why: TcpRefusal | null): void {
    const onAnswer = flow.onAnswer;
    flow.onAnswer = null;
    onAnswer?.(why);
  }

  /**
   * Opens a connection to the guest for a forwarded client; the caller sets `flow.host`. Null when a limit is reached.
   */
  accept(state: TcpPortState, { guestIp, guestPort, sourceIp, sourcePort }: InboundAddresses): TcpFlow | null {
    const port = state.port;
    const ports = (guestPort << 16) | sourcePort;
    const old = this.#context.table.find(port.index, guestIp | 0, sourceIp | 0, ports);
    if (old?.has(TcpEvents.timeWait)) this.#ends.remove(old);
    else if (old) return null;
    if (!this.#admit(state, state.halfOpenIn)) return null;
    this.#context.counts.forwarded++;
    const flow = this.#create(state, guestIp | 0, sourceIp | 0, ports, true);
    flow.rcvShift = WINDOW_SHIFT;
    flow.mss = port.mtu - 40;
    state.halfOpenIn.add(flow.halfOpen, sourceIp, endpointOf(flow));
    this.#sendSyn(flow);
    return flow;
  }

  onConnected(flow: TcpFlow): void {
    if (flow.events & (TcpEvents.removed | TcpEvents.synSent)) return;
    this.#sendSyn(flow);
  }

  onNotConnected(flow: TcpFlow, why: TcpRefusal): void {
    if (flow.events & TcpEvents.removed) return;
    if (why.kind === 'refused') {
      this.#context.counts.refused++;
      this.#context.rejectSyn(flow);
    } else {
      this.#context.counts.unreachable++;
      flow.owner.halfOpenOut.forget(endpointOf(flow));
      this.#options.onUnreachable(flow.owner.port, why, this.#context.emit.quoteSyn(flow));
    }
    flow.events |= TcpEvents.hostClosed;
    this.#ends.remove(flow);
  }
}
