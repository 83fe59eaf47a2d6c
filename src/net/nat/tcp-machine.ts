/**
 * The TCP path as a machine: connections are terminated towards the guest, and carried on by host sockets.
 *
 * Theory of operation. A guest's SYN opens a host socket first; the SYN is answered when that is connected, so that the guest sees what is really there: a refusal is a RST, an unreachable host an ICMP error.
 * From then on bytes are handed over: in-order payload of a whole run goes to the host socket in one write, and is acknowledged then (tcp-ack-delay.ts says when), as the window counts what the socket has not taken; what the socket
 * brings stays in a send buffer until the guest has acknowledged it, and the socket is not read while enough waits. So a peer that does not read stops the one who sends, and memory is bounded on both ways.
 * FINs are passed on as half-closes, RSTs as RSTs.
 *
 * The machine does no I/O and has no clock: `on…` methods are events with the time as argument, `HostSide` and `GuestPort` are the actions. Call `run(now)` at `nextAt()`.
 *
 * Limits. SYNs with data: the data is sent again by the guest. Simultaneous open is not supported: a SYN for a flow that we opened is dropped. TIME-WAIT lasts 2 s on this local link, and a new SYN ends it.
 *
 * Read first: RFC 9293, RFC 5382 (behaviour of NATs).
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { DEFAULT_MSS, parseSynOptions, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { DESCRIPTOR_WORDS, Descriptor, type Kernels } from '../kernels.ts';
import type { PacketMemory } from '../packet-memory.ts';
import { ChunkPool } from './packet-chunks.ts';
import { TcpAckDelay } from './tcp-ack-delay.ts';
import { TcpArrivals } from './tcp-arrive.ts';
import { PORT_QUEUE_CAP, TcpEmitter, WINDOW, WINDOW_SHIFT } from './tcp-emit.ts';
import { Happened, TcpFlow } from './tcp-flow.ts';
import { initialSequence } from './tcp-isn.ts';
import type { GuestPort, ResolveTarget, TcpRefusal, TellUnreachable } from './tcp-path.ts';
import { TcpPortState } from './tcp-ports.ts';
import { TcpReassembly } from './tcp-reassembly.ts';
import { TcpSender } from './tcp-send.ts';
import { TcpSendBuffer } from './tcp-send-buffer.ts';
import { TcpTable } from './tcp-table.ts';
import { TcpTimers } from './tcp-timers.ts';

/** What the machine asks of the host's sockets. None of these calls back before it returns. */
export interface HostSide {
  /** Answered by `onConnected` or `onNotConnected`. */
  connect(flow: TcpFlow, host: string, port: number): void;
  /** Payload for the socket, at an offset in packet memory that is good during the call; it is in the guest's run, unless `queued`. Sets `flow.queued` to the bytes that are not taken yet. */
  write(flow: TcpFlow, at: number, length: number, queued: boolean): void;
  /** The guest sends no more: FIN, after what is queued. */
  end(flow: TcpFlow): void;
  /** Both directions have ended: what is queued goes out, then the socket is closed. The flow is forgotten. */
  close(flow: TcpFlow): void;
  /** RST, and forget. */
  reset(flow: TcpFlow): void;
  /** Read, or do not; tells whether it reads. What could not be put into the send buffer before is put there now. */
  read(flow: TcpFlow, on: boolean): boolean;
}

export interface TcpLimits {
  /** Connections per NIC. */
  flows: number;
  /** Of those, not yet connected outside; the oldest makes room for a new one. */
  connecting: number;
  /** Of those, in TIME-WAIT; the oldest makes room. */
  timeWait: number;
  /** Bytes of packet memory for what waits for acknowledgement, all NICs together. A NIC may take as much as is still free: so there is always something left for one more. */
  sendMemory: number;
}

export const DEFAULT_LIMITS: TcpLimits = { flows: 8192, connecting: 2048, timeWait: 2048, sendMemory: 256 << 20 };

export interface TcpMachineOptions {
  memory: PacketMemory;
  kernels: Kernels;
  gatewayMac: number;
  resolve: ResolveTarget;
  onUnreachable: TellUnreachable;
  host: HostSide;
  /** At least 16 random bytes (RFC 6528). */
  secret: Buffer;
  now: number;
  limits?: Partial<TcpLimits>;
  /** How long the ACK of a small segment waits for an answer that carries it, ms. */
  ackDelay?: number;
}

const TIME_WAIT = 2000;
const ACK_DELAY = 2;
/** Our SYN to a guest, or our answer to its SYN, is sent this often; the first wait is ms, and doubles. */
const SYN_TRIES = 6;
const SYN_WAIT = 250;
/** Timeouts in a row without any word from the guest after which a connection is given up. */
const MAX_SILENT = 12;
/** A host socket is read while less than this waits unsent. */
const ENOUGH_UNSENT = 128 << 10;
const MAX_DESCRIPTORS = 1024;
/** Bytes that a flow may queue towards the host although its port's account is full: those that are stuck do not stop the others. */
const FAIR_SHARE = 16 << 10;

export class TcpMachine {
  readonly pool: ChunkPool;
  readonly #o: TcpMachineOptions;
  readonly #limits: TcpLimits;
  readonly #i32: Int32Array;
  readonly #descriptors: number;
  readonly #table: TcpTable;
  readonly #timers: TcpTimers;
  readonly #delay: TcpAckDelay;
  readonly #emit: TcpEmitter;
  readonly #sender: TcpSender;
  readonly #arrive: TcpArrivals;
  readonly #ports: TcpPortState[] = [];
  readonly #marked: TcpFlow[] = [];
  readonly #counts = {
    opened: 0,
    forwarded: 0,
    refused: 0,
    unreachable: 0,
    malformed: 0,
    badChecksum: 0,
    strays: 0,
    flowLimit: 0,
    evicted: 0,
    guestResets: 0,
    hostResets: 0,
    silent: 0,
    noRoom: 0,
  };
  #now: number;
  #serial = 0;

  constructor(o: TcpMachineOptions) {
    this.#o = o;
    this.#limits = { ...DEFAULT_LIMITS, ...o.limits };
    this.#now = o.now;
    this.#i32 = o.memory.i32;
    this.pool = new ChunkPool(o.memory, this.#limits.sendMemory);
    this.#descriptors = o.memory.alloc(64 + MAX_DESCRIPTORS * DESCRIPTOR_WORDS * 4) + 64;
    this.#table = new TcpTable(o.secret.readInt32LE(0));
    this.#timers = new TcpTimers(o.now);
    this.#delay = new TcpAckDelay(o.ackDelay ?? ACK_DELAY);
    this.#emit = new TcpEmitter(o.memory, o.kernels, o.gatewayMac);
    this.#sender = new TcpSender(this.#emit, this.#timers);
    this.#arrive = new TcpArrivals(this.#sender, {
      onPayload: (flow, at, length, queued) => this.#payload(flow, at, length, queued),
      onEarly: (flow, seq, at, length) => this.#early(flow, seq, at, length),
      onGuestEnd: (flow) => o.host.end(flow),
      onGuestReset: (flow) => this.#guestReset(flow),
      mark: (flow, small) => this.#mark(flow, small),
    });
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
    this.#now = now;
    const state = this.#state(port);
    for (let at = start; at < end; ) {
      const count = this.#o.kernels.coalesce(at, end, this.#descriptors, MAX_DESCRIPTORS);
      for (let i = 0, d = this.#descriptors >> 2; i < count; i++, d += DESCRIPTOR_WORDS) this.#segment(state, d);
      if (count < MAX_DESCRIPTORS) break;
      at = this.#i32[(this.#descriptors >> 2) - 1]!;
    }
    for (let i = 0; i < this.#marked.length; i++) {
      const flow = this.#marked[i]!;
      flow.marked = false;
      if (flow.events & Happened.gone) continue;
      if (flow.ackDue && (flow.ackNow || !this.#delay.mayWait(flow))) this.#sender.acknowledge(flow);
      this.#settle(flow);
    }
    this.#marked.length = 0;
    // ACKs have freed memory, for which others may wait
    if (state.waiting.length > 0 && port.room() > 0) this.onRoom(port, now);
  }

  #mark(flow: TcpFlow, small: boolean): void {
    if (flow.ackDue || !small) flow.ackNow = true;
    else flow.ackSince = this.#now;
    flow.ackDue = true;
    this.#touch(flow);
  }

  /** To be looked at once more at the end of the run. */
  #touch(flow: TcpFlow): void {
    if (flow.marked) return;
    flow.marked = true;
    this.#marked.push(flow);
  }

  #segment(state: TcpPortState, d: number): void {
    const w = this.#i32;
    const problem = w[d + Descriptor.problem]!;
    if (problem !== 0) {
      if (problem === 1) this.#counts.malformed++;
      else this.#counts.badChecksum++;
      return;
    }
    const guestIp = w[d + Descriptor.source]!;
    const peerIp = w[d + Descriptor.destination]!;
    const ports = w[d + Descriptor.ports]!;
    const seq = w[d + Descriptor.seq]!;
    const ack = w[d + Descriptor.ack]!;
    const flags = w[d + Descriptor.windowFlags]! >>> 16;
    const window = w[d + Descriptor.windowFlags]! & 0xffff;
    const length = w[d + Descriptor.length]!;
    const flow = this.#table.find(state.port.index, guestIp, peerIp, ports);
    if (!flow) {
      if ((flags & (TcpFlag.syn | TcpFlag.ack | TcpFlag.rst)) === TcpFlag.syn) this.#open(state, d, guestIp, peerIp, ports, seq, window);
      else this.#stray(state.port, guestIp, peerIp, ports, flags, seq, ack, length);
      return;
    }
    if (flow.events & Happened.established) {
      if (flow.events & Happened.timeWait) {
        this.#lingering(flow, state, d, flags, seq, window);
        return;
      }
      this.#arrive.segment(flow, flags, seq, ack, window, w[d + Descriptor.payload]!, length, w[d + Descriptor.segments]!, this.#now);
      if (!(flow.events & Happened.gone)) {
        this.#sender.pump(flow, this.#now);
        this.#touch(flow);
      }
    } else if (flow.forwarded) this.#answered(flow, d, flags, seq, ack, window);
    else this.#opening(flow, d, flags, seq, ack, window, length);
  }

  #stray(port: GuestPort, guestIp: number, peerIp: number, ports: number, flags: number, seq: number, ack: number, length: number): void {
    this.#counts.strays++;
    if (flags & TcpFlag.rst) return;
    if (port.room() <= 0) {
      this.#counts.noRoom++;
      return;
    }
    if (flags & TcpFlag.ack) this.#emit.resetStray(port, guestIp, peerIp, ports, ack, 0, TcpFlag.rst);
    else {
      const size = length + (flags & TcpFlag.syn ? 1 : 0) + (flags & TcpFlag.fin ? 1 : 0);
      this.#emit.resetStray(port, guestIp, peerIp, ports, 0, seqAdd(seq, size), TcpFlag.rst | TcpFlag.ack);
    }
  }

  // ---- beginnings

  #make(state: TcpPortState, guestIp: number, peerIp: number, ports: number, forwarded: boolean): TcpFlow {
    const template = this.#emit.takeTemplate(guestIp, peerIp, ports);
    const flow = new TcpFlow(++this.#serial, state, guestIp, peerIp, ports, template, new TcpSendBuffer(this.pool, state), forwarded);
    flow.iss = initialSequence(this.#o.secret, guestIp, peerIp, ports, this.#now);
    flow.sndUna = flow.sndNxt = flow.sndMax = flow.iss;
    this.#table.add(flow);
    state.flows.add(flow);
    return flow;
  }

  /** Whether one more flow may be. */
  #admit(state: TcpPortState): boolean {
    if (state.connecting.size >= this.#limits.connecting) this.#evict(state.connecting);
    if (state.flows.size < this.#limits.flows) return true;
    if (state.timeWait.size > 0) this.#evict(state.timeWait);
    else if (state.connecting.size > 0) this.#evict(state.connecting);
    else {
      this.#counts.flowLimit++;
      return false;
    }
    return true;
  }

  #evict(flows: Set<TcpFlow>): void {
    const oldest = flows.values().next().value;
    if (!oldest) return;
    this.#counts.evicted++;
    this.#abandon(oldest);
  }

  #open(state: TcpPortState, d: number, guestIp: number, peerIp: number, ports: number, seq: number, window: number): void {
    const to = this.#o.resolve(state.port, peerIp >>> 0, ports & 0xffff);
    if (to === 'drop') return;
    if (to === 'reset' || !this.#admit(state)) {
      this.#stray(state.port, guestIp, peerIp, ports, TcpFlag.syn, seq, 0, 0);
      return;
    }
    this.#counts.opened++;
    const flow = this.#make(state, guestIp, peerIp, ports, false);
    this.#takeSyn(flow, d, seq, window);
    state.connecting.add(flow);
    this.#o.host.connect(flow, to.host, to.port);
  }

  /** What the guest's SYN says. */
  #takeSyn(flow: TcpFlow, d: number, seq: number, window: number): void {
    const tcp = this.#i32[d + Descriptor.tcp]!;
    const u8 = this.#o.memory.u8;
    const options = parseSynOptions(u8, tcp + TCP_HEADER, tcp + ((u8[tcp + 12]! >> 4) << 2));
    flow.events |= Happened.synIn;
    flow.irs = seq;
    flow.rcvNxt = flow.rcvEdge = seqAdd(seq, 1);
    flow.sndWnd = window;
    flow.wl1 = seq;
    flow.wl2 = flow.iss;
    flow.mss = Math.max(64, Math.min(options.mss || DEFAULT_MSS, flow.owner.port.mtu - 40));
    flow.shiftOut = Math.max(0, options.windowScale);
    flow.shiftIn = options.windowScale < 0 ? 0 : WINDOW_SHIFT;
    flow.sack = options.sack;
  }

  /** A segment for a flow whose SYN we have, but have not answered, or whose answer is not acknowledged. */
  #opening(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number, length: number): void {
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.#guestReset(flow);
      return;
    }
    if (flags & TcpFlag.syn) {
      if (flags & TcpFlag.ack) return;
      if (!(flow.events & Happened.synOut)) this.#takeSyn(flow, d, seq, window);
      else if (seq === flow.irs) this.#sendSyn(flow);
      else this.#arrive.challenge(flow, this.#now);
      return;
    }
    if (!(flags & TcpFlag.ack) || !(flow.events & Happened.synOut)) return;
    if (ack !== seqAdd(flow.iss, 1)) {
      this.#stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, length);
      return;
    }
    this.#establish(flow, ack);
    flow.sndWnd = window << flow.shiftOut;
    this.#arrive.segment(flow, flags, seq, ack, window, this.#i32[d + Descriptor.payload]!, length, this.#i32[d + Descriptor.segments]!, this.#now);
    if (flow.events & Happened.gone) return;
    this.#sender.pump(flow, this.#now);
    this.#touch(flow);
  }

  /** A segment for a flow that we opened towards the guest (SYN-SENT). */
  #answered(flow: TcpFlow, d: number, flags: number, seq: number, ack: number, window: number): void {
    const right = (flags & TcpFlag.ack) !== 0 && ack === seqAdd(flow.iss, 1);
    if (flags & TcpFlag.rst) {
      if (right) this.#notAnswered(flow, 'refused');
      return;
    }
    if (!right) {
      if (flags & TcpFlag.ack) this.#stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, flags, seq, ack, 0);
      return;
    }
    if (!(flags & TcpFlag.syn)) return;
    this.#takeSyn(flow, d, seq, window);
    this.#establish(flow, ack);
    flow.wl2 = ack;
    this.#tell(flow, null);
    this.#mark(flow, false);
    this.#sender.pump(flow, this.#now);
  }

  #establish(flow: TcpFlow, ack: number): void {
    flow.events |= Happened.established;
    flow.sndUna = ack;
    flow.retries = flow.silent = 0;
    flow.owner.connecting.delete(flow);
    this.#sender.restart(flow, this.#now);
  }

  /** Our SYN (to a forwarded guest), or SYN and ACK. */
  #sendSyn(flow: TcpFlow): void {
    if (flow.owner.port.room() > 0) this.#emit.control(flow, flow.forwarded ? TcpFlag.syn : TcpFlag.syn | TcpFlag.ack, flow.iss);
    else this.#counts.noRoom++;
    flow.events |= Happened.synOut;
    flow.sndNxt = flow.sndMax = seqAdd(flow.iss, 1);
    this.#timers.set(flow, this.#now + SYN_WAIT * 2 ** flow.retries);
  }

  #notAnswered(flow: TcpFlow, kind: TcpRefusal['kind']): void {
    this.#counts.refused++;
    this.#tell(flow, { kind });
    this.#abandon(flow);
  }

  #tell(flow: TcpFlow, why: TcpRefusal | null): void {
    const tell = flow.onAnswer;
    flow.onAnswer = null;
    tell?.(why);
  }

  /** A client from the host's side; `flow.host` is the caller's to set. Null when the port has too many. */
  accept(port: GuestPort, guestIp: number, guestPort: number, source: number, sourcePort: number, now: number): TcpFlow | null {
    this.#now = now;
    const state = this.#state(port);
    const ports = (guestPort << 16) | sourcePort;
    const old = this.#table.find(port.index, guestIp | 0, source | 0, ports);
    if (old?.has(Happened.timeWait)) this.#remove(old);
    else if (old) return null;
    if (!this.#admit(state)) return null;
    this.#counts.forwarded++;
    const flow = this.#make(state, guestIp | 0, source | 0, ports, true);
    flow.shiftIn = WINDOW_SHIFT;
    flow.mss = port.mtu - 40;
    state.connecting.add(flow);
    this.#sendSyn(flow);
    return flow;
  }

  // ---- the host's side

  onConnected(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & (Happened.gone | Happened.synOut)) return;
    this.#sendSyn(flow);
  }

  onNotConnected(flow: TcpFlow, why: TcpRefusal, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    if (why.kind === 'refused') {
      this.#counts.refused++;
      this.#stray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, TcpFlag.syn, flow.irs, 0, 0);
    } else {
      this.#counts.unreachable++;
      this.#o.onUnreachable(flow.owner.port, why, this.#emit.quoteSyn(flow));
    }
    flow.events |= Happened.hostDone;
    this.#remove(flow);
  }

  /** The host socket brought payload, which is in the send buffer now, or did not fit: then it is not read for the time being. */
  onHostData(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    this.#sender.pump(flow, now);
    this.#regulate(flow);
  }

  /** The host's side sends no more. */
  onHostEnd(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    flow.events |= Happened.hostEnd;
    this.#sender.pump(flow, now);
    this.#settle(flow);
  }

  /** The host's side was reset, or failed: so is the guest's. */
  onHostReset(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    this.#counts.hostResets++;
    flow.events |= Happened.hostDone;
    this.#resetGuest(flow);
    this.#remove(flow);
  }

  /** The host socket has taken payload; `flow.queued` is what is left. */
  onDrained(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    if (this.#emit.windowGrew(flow)) this.#sender.acknowledge(flow);
  }

  #early(flow: TcpFlow, seq: number, at: number, length: number): void {
    if (flow.owner.held >= this.pool.free) return;
    flow.early ??= new TcpReassembly(this.pool, flow.owner);
    flow.early.add(seq, at, length);
  }

  #payload(flow: TcpFlow, at: number, length: number, queued: boolean): boolean {
    if (flow.events & Happened.hostDone) return false;
    if (flow.queued > (flow.owner.queued > PORT_QUEUE_CAP ? FAIR_SHARE : WINDOW)) return false;
    this.#o.host.write(flow, at, length, queued);
    return true;
  }

  /** Reads from the host socket while not too much waits. */
  #regulate(flow: TcpFlow): void {
    if (flow.events & Happened.hostDone) return;
    const sated = flow.unsent >= ENOUGH_UNSENT;
    const hungry = !sated && flow.owner.held < this.pool.free;
    if (hungry && !flow.reading) {
      const before = flow.send.length;
      flow.reading = this.#o.host.read(flow, true);
      if (flow.send.length !== before) this.#sender.pump(flow, this.#now);
    } else if (!hungry && flow.reading) flow.reading = this.#o.host.read(flow, false);
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
    if (!(e & Happened.hostDone)) {
      flow.events |= Happened.hostDone;
      this.#o.host.close(flow);
    }
    // the one whose FIN was first waits for late segments; when that was the guest, it waits itself
    if (flow.finFirst) {
      const state = flow.owner;
      if (state.timeWait.size >= this.#limits.timeWait) this.#evict(state.timeWait);
      flow.events |= Happened.timeWait;
      state.timeWait.add(flow);
      this.#timers.set(flow, this.#now + TIME_WAIT);
    } else this.#remove(flow);
  }

  /** A segment in TIME-WAIT. */
  #lingering(flow: TcpFlow, state: TcpPortState, d: number, flags: number, seq: number, window: number): void {
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.#remove(flow);
    } else if (flags & TcpFlag.syn && !(flags & TcpFlag.ack) && seqDiff(seq, flow.rcvNxt) > 0) {
      this.#remove(flow);
      this.#open(state, d, flow.guestIp, flow.peerIp, flow.ports, seq, window);
    } else if (this.#i32[d + Descriptor.length]! > 0 || flags & (TcpFlag.fin | TcpFlag.syn)) {
      this.#timers.set(flow, this.#now + TIME_WAIT);
      this.#sender.acknowledge(flow);
    }
  }

  #guestReset(flow: TcpFlow): void {
    this.#counts.guestResets++;
    this.#abandon(flow);
  }

  #resetGuest(flow: TcpFlow): void {
    if (flow.owner.gone || flow.events & Happened.timeWait) return;
    if (flow.owner.port.room() <= 0) this.#counts.noRoom++;
    else if (flow.events & Happened.synIn) this.#emit.control(flow, TcpFlag.rst | TcpFlag.ack, flow.sndNxt);
  }

  /** The host's side is reset, the flow forgotten; the guest hears nothing. */
  #abandon(flow: TcpFlow): void {
    if (flow.events & Happened.gone) return;
    if (!(flow.events & Happened.hostDone)) {
      flow.events |= Happened.hostDone;
      this.#o.host.reset(flow);
    }
    this.#remove(flow);
  }

  #remove(flow: TcpFlow): void {
    if (flow.events & Happened.gone) return;
    flow.events |= Happened.gone;
    this.#table.remove(flow);
    this.#timers.remove(flow);
    const state = flow.owner;
    state.flows.delete(flow);
    state.connecting.delete(flow);
    state.timeWait.delete(flow);
    flow.send.clear();
    flow.early?.clear();
    this.#emit.giveTemplate(flow.template);
    flow.onAnswer = null;
  }

  /** Resets both sides. */
  cut(flow: TcpFlow, now: number): void {
    this.#now = now;
    if (flow.events & Happened.gone) return;
    this.#resetGuest(flow);
    this.#abandon(flow);
  }

  onPortGone(port: GuestPort): void {
    const state = this.#ports[port.index];
    if (!state || state.port !== port) return;
    state.gone = true;
    for (const flow of [...state.flows]) this.#abandon(flow);
    state.waiting.length = 0;
    delete this.#ports[port.index];
  }

  onAddressGone(port: GuestPort, ip: number, now: number): void {
    this.#now = now;
    const state = this.#ports[port.index];
    if (state) for (const flow of [...state.flows]) if (flow.guestIp === (ip | 0)) this.#abandon(flow);
  }

  close(): void {
    for (const state of this.#ports) if (state) this.onPortGone(state.port);
  }

  // ---- time and room

  onRoom(port: GuestPort, now: number): void {
    this.#now = now;
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
    return Math.min(this.#timers.nextAt(), this.#delay.nextAt());
  }

  run(now: number): void {
    this.#now = now;
    this.#delay.run(now, (flow) => this.#sender.acknowledge(flow));
    this.#timers.run(now, (flow) => this.#deadline(flow));
  }

  #deadline(flow: TcpFlow): void {
    if (flow.events & Happened.timeWait) {
      this.#remove(flow);
      return;
    }
    if (!(flow.events & Happened.established)) {
      if (++flow.retries < SYN_TRIES) this.#sendSyn(flow);
      else if (flow.forwarded) this.#notAnswered(flow, 'timeout');
      else this.#abandon(flow);
      return;
    }
    this.#sender.timeout(flow, this.#now);
    if (flow.silent > MAX_SILENT) {
      this.#counts.silent++;
      this.#resetGuest(flow);
      this.#abandon(flow);
    }
  }

  stats(): Record<string, number> {
    let queued = 0;
    let connecting = 0;
    let timeWait = 0;
    for (const s of this.#ports) {
      if (!s) continue;
      queued += s.queued;
      connecting += s.connecting.size;
      timeWait += s.timeWait.size;
    }
    const a = this.#arrive;
    const s = this.#sender;
    return {
      flows: this.#table.size,
      connecting,
      timeWait,
      queued,
      sendMemory: this.pool.bytes,
      segmentsOut: this.#emit.segments,
      retransmissions: s.retransmissions,
      timeouts: s.timeouts,
      probes: s.probes,
      outOfOrder: a.outOfOrder,
      duplicates: a.duplicates,
      challenges: a.challenges,
      overWindow: a.overWindow,
      refusedPayload: a.refusedPayload,
      ...this.#counts,
    };
  }
}
