/**
 * How connections begin, until both SYNs are acknowledged.
 *
 * Theory of operation. A guest's SYN asks for a host socket, and is answered when that is connected; a refusal becomes
 * a RST, an unreachable host an ICMP error with the SYN in it. A client from outside is called through to the guest by
 * a SYN of ours. Either SYN is sent again with backoff until it is acknowledged or given up.
 *
 * Limits. SYNs with data: the data is sent again by the guest. Simultaneous open is not supported: a SYN for a flow
 * that we opened is dropped.
 *
 * Read first: RFC 9293 3.5, 3.10.7.3, RFC 5382 (behaviour of NATs).
 */
import { seqAdd } from '../../wire/sequence.ts';
import { DEFAULT_MSS, parseSynOptions, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { Descriptor } from '../memory/kernels.ts';
import type { PacketMemory } from '../memory/packet-memory.ts';
import type { TcpArrivals } from './arrive.ts';
import type { TcpParts } from './context.ts';
import { WINDOW_SHIFT } from './emit.ts';
import type { TcpEnds } from './end.ts';
import { Happened, TcpFlow, type TcpPortState } from './flow.ts';
import type { HalfOpenTable } from './half-open.ts';
import type { ResolveTarget, TcpRefusal, TellUnreachable } from './interface.ts';
import { initialSequence } from './isn.ts';
import { TcpSendBuffer } from './send-buffer.ts';
import { measure } from './timers.ts';

/** Our SYN to a guest, or our answer to its SYN: the first wait for its acknowledgement, ms; it doubles. */
const SYN_WAIT = 250;
/** It is sent this often. */
const SYN_TRIES = 6;

/** A number that names what is to answer: the peer's address and port, or the guest's port. */
function endpointOf(flow: TcpFlow): number {
  return flow.forwarded ? flow.ports >>> 16 : (flow.peerIp >>> 0) * 65_536 + (flow.ports & 0xffff);
}

export interface TcpOpenOptions {
  memory: PacketMemory;
  /** At least 16 random bytes (RFC 6528). */
  secret: Buffer;
  resolve: ResolveTarget;
  onUnreachable: TellUnreachable;
}

export class TcpOpen {
  readonly #o: TcpOpenOptions;
  readonly #p: TcpParts;
  readonly #arrive: TcpArrivals;
  readonly #ends: TcpEnds;
  readonly #i32: Int32Array;
  #serial = 0;

  constructor(options: TcpOpenOptions, parts: TcpParts, arrive: TcpArrivals, ends: TcpEnds) {
    this.#o = options;
    this.#p = parts;
    this.#arrive = arrive;
    this.#ends = ends;
    this.#i32 = options.memory.i32;
  }

  #make(state: TcpPortState, guestIp: number, peerIp: number, ports: number, forwarded: boolean): TcpFlow {
    const template = this.#p.emit.takeTemplate(guestIp, peerIp, ports);
    const flow = new TcpFlow(++this.#serial, state, guestIp, peerIp, ports, template, new TcpSendBuffer(this.#p.pool, state), forwarded);
    this.#p.table.add(flow);
    state.flows.add(flow);
    return flow;
  }

  /** Whether one more flow may be; others make room for it. */
  #admit(state: TcpPortState, halfOpen: HalfOpenTable<TcpFlow>): boolean {
    const p = this.#p;
    if (halfOpen.size >= p.limits.connecting) this.#makeRoom(halfOpen);
    const sockets = state.flows.size - state.timeWait.size;
    const larger = state.halfOpenOut.size >= state.halfOpenIn.size ? state.halfOpenOut : state.halfOpenIn;
    if (sockets >= p.limits.sockets - (p.table.size - p.lingering) && !this.#makeRoom(larger)) return this.#refuse();
    if (state.flows.size < p.limits.flows) return true;
    const lingering = state.timeWait.values().next().value;
    if (lingering) this.#ends.evict(lingering);
    else if (!this.#makeRoom(larger)) return this.#refuse();
    return true;
  }

  #makeRoom(halfOpen: HalfOpenTable<TcpFlow>): boolean {
    const victim = halfOpen.victim();
    if (!victim) return false;
    halfOpen.forget(endpointOf(victim));
    this.#ends.evict(victim);
    return true;
  }

  #refuse(): false {
    this.#p.counts.flowLimit++;
    return false;
  }

  /** A SYN of the guest for a connection that we do not know. */
  open(state: TcpPortState, d: number, guestIp: number, peerIp: number, ports: number, seq: number, window: number): void {
    const to = this.#o.resolve(state.port, peerIp >>> 0, ports & 0xffff);
    if (to === 'drop') return;
    if (to === 'reset' || !this.#admit(state, state.halfOpenOut)) {
      this.#p.stray(state.port, guestIp, peerIp, ports, TcpFlag.syn, seq, 0, 0);
      return;
    }
    this.#p.counts.opened++;
    const flow = this.#make(state, guestIp, peerIp, ports, false);
    this.#takeSyn(flow, d, seq, window);
    this.#p.host.connect(flow, to.host, to.port, state.halfOpenOut.add(flow.halfOpen, peerIp, endpointOf(flow)));
  }

  /** What the guest's SYN says. */
  #takeSyn(flow: TcpFlow, d: number, seq: number, window: number): void {
    const tcp = this.#i32[d + Descriptor.tcp];
    const u8 = this.#o.memory.u8;
    const options = parseSynOptions(u8, tcp + TCP_HEADER, tcp + ((u8[tcp + 12] >> 4) << 2));
    flow.events |= Happened.synIn;
    flow.irs = seq;
    flow.rcvNxt = flow.rcvEdge = seqAdd(seq, 1);
    flow.sndWnd = window;
    flow.wl1 = seq;
    flow.mss = Math.max(64, Math.min(options.mss || DEFAULT_MSS, flow.owner.port.mtu - 40));
    flow.shiftOut = Math.max(0, options.windowScale);
    flow.shiftIn = options.windowScale < 0 ? 0 : WINDOW_SHIFT;
    flow.sack = options.sack;
  }

  /**
   * A segment for a flow that is not established. True when it is now, and the segment is to be taken as any other; `d`
   * is the index of its descriptor.
   */
  segment(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number, length: number): boolean {
    if (!flow.forwarded) return this.#opening(flow, d, flags, seq, ack, window, length);
    this.#answered(flow, d, flags, seq, ack, window);
    return false;
  }

  /** A segment for a flow whose SYN we have, but have not answered, or whose answer is not acknowledged. */
  #opening(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number, length: number): boolean {
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.#ends.guestReset(flow);
      return false;
    }
    if (flags & TcpFlag.syn) {
      if (flags & TcpFlag.ack) return false;
      if (!(flow.events & Happened.synOut)) this.#takeSyn(flow, d, seq, window);
      else if (seq === flow.irs) this.#sendSyn(flow);
      else this.#arrive.challenge(flow, this.#p.now);
      return false;
    }
    if (!(flags & TcpFlag.ack) || !(flow.events & Happened.synOut)) return false;
    if (ack !== seqAdd(flow.iss, 1)) {
      this.#p.stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, length);
      return false;
    }
    this.#establish(flow, ack);
    flow.sndWnd = window << flow.shiftOut;
    return true;
  }

  /** A segment for a flow that we opened towards the guest (SYN-SENT). */
  #answered(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number): void {
    const right = (flags & TcpFlag.ack) !== 0 && ack === seqAdd(flow.iss, 1);
    if (flags & TcpFlag.rst) {
      if (right) this.#notAnswered(flow, 'refused');
      return;
    }
    if (!right) {
      if (flags & TcpFlag.ack) this.#p.stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, 0);
      return;
    }
    if (!(flags & TcpFlag.syn)) return;
    this.#takeSyn(flow, d, seq, window);
    this.#establish(flow, ack);
    flow.wl2 = ack;
    this.#tell(flow, null);
    this.#p.mark(flow, false);
    this.#p.sender.pump(flow, this.#p.now);
  }

  #establish(flow: TcpFlow, ack: number): void {
    flow.events |= Happened.established;
    flow.sndUna = flow.recover = flow.lostTo = flow.probeEnd = ack;
    if (flow.timedAt !== 0) measure(flow, this.#p.now - flow.timedAt);
    flow.timedAt = 0;
    flow.retries = flow.silent = 0;
    const halfOpen = flow.forwarded ? flow.owner.halfOpenIn : flow.owner.halfOpenOut;
    halfOpen.delete(flow.halfOpen);
    halfOpen.remember(endpointOf(flow));
    this.#p.sender.restart(flow, this.#p.now);
  }

  /** Our SYN (to a forwarded guest), or SYN and ACK. */
  #sendSyn(flow: TcpFlow): void {
    // one that was sent twice is not timed (Karn)
    flow.timedAt = flow.events & Happened.synOut ? 0 : this.#p.now;
    // only now, as it costs more than all the rest of a SYN that nobody answers
    if (!(flow.events & Happened.synOut))
      flow.iss = flow.wl2 = flow.sndUna = initialSequence(this.#o.secret, flow.guestIp, flow.peerIp, flow.ports, this.#p.now);
    if (flow.owner.port.queue.mayTell()) this.#p.emit.control(flow, flow.forwarded ? TcpFlag.syn : TcpFlag.syn | TcpFlag.ack, flow.iss);
    else this.#p.counts.noRoom++;
    flow.events |= Happened.synOut;
    flow.sndNxt = flow.sndMax = seqAdd(flow.iss, 1);
    this.#p.timers.set(flow, this.#p.now + SYN_WAIT * 2 ** flow.retries);
  }

  /** The guest did not take a client from outside. */
  #notAnswered(flow: TcpFlow, kind: TcpRefusal['kind']): void {
    this.#p.counts.refused++;
    this.#tell(flow, { kind });
    this.#ends.abandon(flow);
  }

  /** The SYN of ours was not acknowledged in time. */
  timeout(flow: TcpFlow): void {
    if (++flow.retries < SYN_TRIES) this.#sendSyn(flow);
    else if (flow.forwarded) this.#notAnswered(flow, 'timeout');
    else this.#ends.abandon(flow);
  }

  #tell(flow: TcpFlow, why: TcpRefusal | null): void {
    const tell = flow.onAnswer;
    flow.onAnswer = null;
    tell?.(why);
  }

  /** A client from the host's side; `flow.host` is the caller's to set. Null when the port has too many. */
  accept(state: TcpPortState, guestIp: number, guestPort: number, source: number, sourcePort: number): TcpFlow | null {
    const port = state.port;
    const ports = (guestPort << 16) | sourcePort;
    const old = this.#p.table.find(port.index, guestIp | 0, source | 0, ports);
    if (old?.has(Happened.timeWait)) this.#ends.remove(old);
    else if (old) return null;
    if (!this.#admit(state, state.halfOpenIn)) return null;
    this.#p.counts.forwarded++;
    const flow = this.#make(state, guestIp | 0, source | 0, ports, true);
    flow.shiftIn = WINDOW_SHIFT;
    flow.mss = port.mtu - 40;
    state.halfOpenIn.add(flow.halfOpen, source, endpointOf(flow));
    this.#sendSyn(flow);
    return flow;
  }

  onConnected(flow: TcpFlow): void {
    if (flow.events & (Happened.gone | Happened.synOut)) return;
    this.#sendSyn(flow);
  }

  onNotConnected(flow: TcpFlow, why: TcpRefusal): void {
    if (flow.events & Happened.gone) return;
    if (why.kind === 'refused') {
      this.#p.counts.refused++;
      this.#p.stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, TcpFlag.syn, flow.irs, 0, 0);
    } else {
      this.#p.counts.unreachable++;
      flow.owner.halfOpenOut.forget(endpointOf(flow));
      this.#o.onUnreachable(flow.owner.port, why, this.#p.emit.quoteSyn(flow));
    }
    flow.events |= Happened.hostDone;
    this.#ends.remove(flow);
  }
}
