/**
 * When something is sent to the guest: new payload, our FIN, retransmissions.
 *
 * Theory of operation. `pump` sends what the guest's window, the congestion window and the port's room allow, one
 * contiguous run at a time. The congestion window starts at MAX_CWND, as the link is local. A loss reduces it: three
 * duplicate ACKs halve it, a timeout sets it to one segment. Acknowledged bytes raise it again.
 *
 * Losses are detected by selective acknowledgements. Recovery first retransmits the holes while less than the
 * congestion window is in flight (RFC 6675), then sends new data. A retransmission is lost again when enough of what
 * was sent later has been received (resent.ts).
 *
 * Silence after the last segments triggers a probe after two round trips instead of a timeout (RFC 8985 7). It repeats
 * the last segment, whose selective acknowledgement shows what is missing before it; during recovery it repeats the
 * oldest. After a timeout, everything that the guest has not reported as received is lost. A guest without SACK gets
 * NewReno's one segment per partial ACK (RFC 6582), and no probes.
 *
 * A closed window is probed by an empty segment below the window, which the guest must answer.
 *
 * Limits. No congestion avoidance: the congestion window doubles per round trip until it is full again. A loss that a
 * probe has repaired does not reduce it. Flows blocked on room are pumped in order of arrival. A lost probe, or a lost
 * answer to it, costs a timeout.
 *
 * Read first: RFC 5681, RFC 6582, RFC 6675, RFC 8985, RFC 6298 5, RFC 9293 3.8.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { MAX_SACK_BLOCKS, readSack, TCP, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { SEGMENT_HEADERS } from '../memory/kernels.ts';
import type { PacketMemory } from '../memory/packet-memory.ts';
import type { TcpEmitter } from './emit.ts';
import { TcpEvents, type TcpFlow } from './flow.ts';
import { MAX_CWND } from './loss-recovery.ts';
import { widenPath } from './path-mtu.ts';
import type { TcpResent } from './resent.ts';
import type { TcpScoreboard } from './scoreboard.ts';
import type { TimerWheel } from './timers.ts';

/** Smallest congestion window at the start of recovery, segments. */
const MIN_CWND_SEGMENTS = 4;
/** Segments received beyond a hole after which the hole is lost (RFC 6675 2, DupThresh). */
const DUP_THRESHOLD = 3;

/** When an idle guest is probed (RFC 9293 3.8.4). */
export interface KeepAlive {
  /** Idle time before the first probe, and between unanswered probes, ms. */
  idle: number;
  interval: number;
  /** Unanswered probes after which the connection is abandoned. */
  probes: number;
}

/** The defaults of Linux. RFC 5382 5 requires an idle connection to be kept for at least 2 h 4 min. */
export const KEEP_ALIVE: KeepAlive = { idle: 7_200_000, interval: 75_000, probes: 9 };
/**
 * Consecutive timeouts without a segment of the guest after which a connection with unacknowledged data is abandoned.
 */
const MAX_SILENT = 12;

export class TcpSender {
  readonly #memory: PacketMemory;
  readonly #edges = new Int32Array(2 * MAX_SACK_BLOCKS);
  readonly #emit: TcpEmitter;
  readonly #timers: TimerWheel<TcpFlow>;
  readonly #keepAlive: KeepAlive;
  retransmissions = 0;
  timeouts = 0;
  probes = 0;
  tailProbes = 0;

  constructor(memory: PacketMemory, emit: TcpEmitter, timers: TimerWheel<TcpFlow>, keepAlive: KeepAlive) {
    this.#keepAlive = keepAlive;
    this.#memory = memory;
    this.#emit = emit;
    this.#timers = timers;
  }

  /** Puts the flow in its NIC's list of blocked flows. */
  wait(flow: TcpFlow): void {
    if (flow.waiting) return;
    flow.waiting = true;
    flow.owner.waiting.push(flow);
  }

  /** Sends an ACK, now or when there is room. */
  acknowledge(flow: TcpFlow): void {
    if (!flow.owner.port.queue.canSendControl()) {
      flow.ack.due = true;
      this.wait(flow);
      return;
    }
    // a guest that shrank its window below what is in flight would drop an ACK whose sequence number lies beyond it
    const end = seqAdd(flow.sndUna, flow.sndWnd);
    this.#emit.control(flow, TcpFlag.ack, seqDiff(flow.sndNxt, end) > 0 ? end : flow.sndNxt);
  }

  /** Sends what may be sent. */
  pump(flow: TcpFlow, now: number): void {
    if (!(flow.events & TcpEvents.established) || flow.events & (TcpEvents.removed | TcpEvents.timeWait)) return;
    const { recovery, path } = flow;
    if (path !== null && now >= path.until) widenPath(flow, path, this.#emit);
    const port = flow.owner.port;
    const board = recovery.board !== null && (recovery.active || !recovery.board.empty) ? recovery.board : null;
    if (board && recovery.active) this.#retransmitHoles(flow, board, now);
    for (;;) {
      const position = flow.flight;
      const left = flow.send.length - position;
      if (left <= 0) break;
      const space = Math.min(flow.sndWnd - position, recovery.cwnd - (board ? this.#inFlight(flow, board) : position));
      flow.send.find(position);
      let n = Math.min(flow.send.run, space);
      if (n < flow.mss && n < left && n < flow.send.run && position > 0) break;
      if (n <= 0) break;
      if (n < flow.send.run && n > flow.mss) n -= n % flow.mss;
      const room = port.queue.room();
      if (room <= 0) {
        this.wait(flow);
        break;
      }
      const fits = Math.max(1, Math.floor(room / (flow.mss + SEGMENT_HEADERS))) * flow.mss;
      if (n > fits) n = fits;
      this.#sendNext(flow, flow.send.at, n, now);
    }
    if (flow.events & TcpEvents.hostFin && !(flow.events & TcpEvents.finAcked) && flow.flight === flow.send.length) this.#sendFin(flow);
    this.schedule(flow, now);
  }

  /** Sends `n` bytes of payload at `sndNxt`. */
  #sendNext(flow: TcpFlow, at: number, n: number, now: number): void {
    const seq = flow.sndNxt;
    this.#emit.payload(flow, at, n, seq);
    flow.sndNxt = seqAdd(seq, n);
    if (seqDiff(flow.sndNxt, flow.sndMax) > 0) {
      // retransmissions are not timed (Karn), nor data whose ACK waits for a hole to be repaired
      if (flow.roundTrip.timedAt === 0 && !flow.recovery.active && seqDiff(seq, flow.sndMax) >= 0) {
        flow.roundTrip.timedSeq = flow.sndNxt;
        flow.roundTrip.timedAt = now;
      }
      flow.sndMax = flow.sndNxt;
      flow.recovery.quietSince = now;
    } else this.retransmissions += Math.ceil(n / flow.mss);
  }

  /** Bytes that are neither received nor lost, as far as is known (RFC 6675 4, SetPipe). */
  #inFlight(flow: TcpFlow, board: TcpScoreboard): number {
    if (!flow.recovery.active) return board.missing(flow.sndUna, flow.sndNxt);
    return (flow.recovery.resent as TcpResent).inFlight(board, flow.sndUna) + board.missing(this.#lostBelow(flow, board), flow.sndNxt);
  }

  /** Sequence number below which everything that was sent once and is not received is lost. */
  #lostBelow(flow: TcpFlow, board: TcpScoreboard): number {
    const lost = board.lostBelow(this.#lossThreshold(flow), flow.sndUna);
    return seqDiff(lost, flow.recovery.lostBelow) > 0 ? lost : flow.recovery.lostBelow;
  }

  /** Bytes received beyond a hole that prove its loss. Fewer when less is in flight (early retransmit, RFC 5827). */
  #lossThreshold(flow: TcpFlow): number {
    const out = seqDiff(flow.sndMax, flow.sndUna);
    return out <= DUP_THRESHOLD * flow.mss && flow.send.length <= out ? Math.max(1, out - flow.mss) : DUP_THRESHOLD * flow.mss;
  }

  /** Retransmits, in order, what is lost and was not retransmitted since. */
  #retransmitHoles(flow: TcpFlow, board: TcpScoreboard, now: number): void {
    const port = flow.owner.port;
    const resent = flow.recovery.resent as TcpResent;
    resent.update(board, flow.sndUna, flow.sndMax, DUP_THRESHOLD * flow.mss);
    const lost = this.#lostBelow(flow, board);
    let space = flow.recovery.cwnd - this.#inFlight(flow, board);
    for (let from = flow.sndUna; space >= flow.mss && !resent.full; ) {
      from = board.hole(from, lost);
      if (seqDiff(from, lost) >= 0) return;
      const holeEnd = seqDiff(board.holeEnd, lost) < 0 ? board.holeEnd : lost;
      from = resent.gap(from, holeEnd);
      if (from === holeEnd) continue;
      const room = port.queue.room();
      if (room <= 0) {
        this.wait(flow);
        return;
      }
      const fits = Math.max(1, Math.floor(Math.min(space / flow.mss, room / (flow.mss + SEGMENT_HEADERS)))) * flow.mss;
      const n = this.#retransmit(flow, from, Math.min(fits, seqDiff(resent.end, from)), now);
      resent.add(from, seqAdd(from, n), flow.sndMax);
      from = seqAdd(from, n);
      space -= n;
    }
  }

  /** Retransmits at most `most` bytes of payload at `from`, or the FIN. Returns how much it was. */
  #retransmit(flow: TcpFlow, from: number, most: number, now: number): number {
    const position = seqDiff(from, flow.sndUna);
    flow.roundTrip.timedAt = 0;
    flow.recovery.quietSince = now;
    if (position >= flow.send.length) {
      this.#emit.control(flow, TcpFlag.fin | TcpFlag.ack, from);
      this.retransmissions++;
      return 1;
    }
    flow.send.find(position);
    const n = Math.min(flow.send.run, most, flow.send.length - position);
    this.#emit.payload(flow, flow.send.at, n, from);
    this.retransmissions += Math.ceil(n / flow.mss);
    return n;
  }

  #sendFin(flow: TcpFlow): void {
    if (!flow.owner.port.queue.canSendControl()) {
      this.wait(flow);
      return;
    }
    this.#emit.control(flow, TcpFlag.fin | TcpFlag.ack, flow.sndNxt);
    if (flow.events & TcpEvents.finSent) this.retransmissions++;
    else if (!(flow.events & TcpEvents.finReceived)) flow.events |= TcpEvents.finSentFirst;
    flow.events |= TcpEvents.finSent;
    flow.sndNxt = seqAdd(flow.sndNxt, 1);
    if (seqDiff(flow.sndNxt, flow.sndMax) > 0) flow.sndMax = flow.sndNxt;
  }

  /** Sets the one deadline: tail-loss probe, retransmission, probe of a closed window, or keep-alive. */
  schedule(flow: TcpFlow, now: number): void {
    const e = flow.events;
    if (e & (TcpEvents.removed | TcpEvents.timeWait)) return;
    const { timer } = flow;
    if (flow.sndMax !== flow.sndUna || (e & TcpEvents.established && flow.send.length > 0)) {
      const probe = this.#canProbe(flow);
      const wanted = now + (probe ? this.#probeTimeout(flow) : flow.roundTrip.timeout);
      // a running timer continues; an ACK of new data restarts it (RFC 6298 5.1, 5.3)
      if (timer.deadline > wanted || timer.deadline === Number.POSITIVE_INFINITY) {
        flow.recovery.forProbe = probe;
        this.#timers.set(timer, wanted);
      }
    } else if (e & TcpEvents.established) this.#timers.set(timer, now + (flow.silent > 0 ? this.#keepAlive.interval : this.#keepAlive.idle));
  }

  restartTimer(flow: TcpFlow, now: number): void {
    flow.timer.deadline = Number.POSITIVE_INFINITY;
    flow.recovery.forProbe = false;
    this.schedule(flow, now);
  }

  /** New bytes up to `ack` are acknowledged. */
  acked(flow: TcpFlow, ack: number, now: number): void {
    const { recovery, roundTrip } = flow;
    const bytes = seqDiff(ack, flow.sndUna);
    const payload = Math.min(bytes, flow.send.length);
    flow.send.release(payload);
    flow.sndUna = ack;
    recovery.board?.release(ack);
    recovery.quietSince = now;
    recovery.probed = false;
    if (seqDiff(recovery.lostBelow, ack) < 0) recovery.lostBelow = ack;
    if (seqDiff(recovery.probeEnd, ack) < 0) recovery.probeEnd = ack;
    if (seqDiff(flow.sndNxt, ack) < 0) flow.sndNxt = ack;
    if (bytes > payload) flow.events |= TcpEvents.finAcked;
    if (roundTrip.timedAt !== 0 && seqDiff(ack, roundTrip.timedSeq) >= 0) roundTrip.measure(now);
    roundTrip.retries = 0;
    recovery.dupAcks = 0;
    if (recovery.cwnd < MAX_CWND && (!recovery.active || !flow.sack || recovery.afterTimeout)) recovery.cwnd = Math.min(MAX_CWND, recovery.cwnd + bytes);
    if (recovery.active) {
      if (seqDiff(ack, recovery.until) >= 0) {
        recovery.active = recovery.afterTimeout = false;
        recovery.resent?.clear();
      } else if (!flow.sack) this.#retransmitOldest(flow, now);
    }
    if (!recovery.active && recovery.board && !recovery.board.empty) this.#detectLoss(flow, now);
    this.restartTimer(flow, now);
  }

  /** Reads the selective acknowledgement of the TCP header at `tcp`, if any. True when it reports something new. */
  selective(flow: TcpFlow, tcp: number, now: number): boolean {
    const u8 = this.#memory.u8;
    if (u8[tcp + TCP.offset] >> 4 === TCP_HEADER / 4 || flow.sndMax === flow.sndUna) return false;
    const { recovery } = flow;
    const blocks = readSack(u8, this.#memory.view, tcp, this.#edges);
    let news = false;
    for (let i = 0; i < blocks; i++) {
      const from = this.#edges[2 * i];
      const to = this.#edges[2 * i + 1];
      // a block below `sndUna` reports a duplicate (RFC 2883); one of data never sent is invalid
      if (seqDiff(from, flow.sndUna) <= 0 || seqDiff(to, from) <= 0 || seqDiff(to, flow.sndMax) > 0) continue;
      if (recovery.openBoard().add(from, to)) news = true;
    }
    if (!news) return false;
    recovery.quietSince = now;
    // the probe was received, which was sent long after everything before it
    if (seqDiff(recovery.probeEnd, flow.sndUna) > 0 && recovery.board?.missing(seqAdd(recovery.probeEnd, -1), recovery.probeEnd) === 0)
      recovery.lostBelow = recovery.probeEnd;
    recovery.probed = false;
    return true;
  }

  /** An ACK that acknowledges nothing new while something is in flight, or reports something new behind a hole. */
  duplicate(flow: TcpFlow, now: number): void {
    flow.recovery.dupAcks++;
    this.#detectLoss(flow, now);
  }

  /** Starts recovery when the oldest segment is lost. */
  #detectLoss(flow: TcpFlow, now: number): void {
    const { recovery } = flow;
    if (recovery.active) return;
    const lost = seqDiff(recovery.lostBelow, flow.sndUna) > 0 || (recovery.board !== null && recovery.board.bytes >= this.#lossThreshold(flow));
    if (!lost && recovery.dupAcks < DUP_THRESHOLD) return;
    recovery.active = true;
    recovery.until = flow.sndMax;
    recovery.cwnd = Math.max(MIN_CWND_SEGMENTS * flow.mss, flow.flight >> 1);
    this.#retransmitOldest(flow, now);
  }

  #retransmitOldest(flow: TcpFlow, now: number): void {
    if (flow.owner.port.queue.room() > 0) {
      const { sndUna } = flow;
      const { board, resent } = flow.recovery;
      board?.hole(sndUna, flow.sndMax);
      const n = this.#retransmit(flow, sndUna, Math.min(flow.mss, seqDiff(board ? board.holeEnd : flow.sndMax, sndUna)), now);
      resent?.add(sndUna, seqAdd(sndUna, n), flow.sndMax);
    }
    this.restartTimer(flow, now);
  }

  #probeTimeout(flow: TcpFlow): number {
    return flow.roundTrip.probeTimeout(flow.flight <= flow.mss);
  }

  /** Whether a tail-loss probe precedes the timeout: one, until the guest reports something new. */
  #canProbe(flow: TcpFlow): boolean {
    const { roundTrip } = flow;
    return flow.sack && !flow.recovery.probed && roundTrip.srtt > 0 && roundTrip.retries === 0 && flow.sndWnd > 0 && flow.sndMax !== flow.sndUna;
  }

  /** The guest has reported nothing new for so long that the last segments may be lost. */
  #probe(flow: TcpFlow, now: number): void {
    if (flow.owner.port.queue.room() <= 0) {
      this.wait(flow);
      return;
    }
    const { recovery } = flow;
    this.tailProbes++;
    recovery.probed = true;
    recovery.probeEnd = flow.sndUna; // its answer proves no further loss
    if (recovery.active) {
      recovery.resent?.clear();
      this.#retransmitOldest(flow, now);
    } else if (recovery.board && !recovery.board.empty) {
      // the rest would have followed what was received beyond the holes
      recovery.lostBelow = recovery.board.top;
      this.#detectLoss(flow, now);
    } else {
      const out = Math.min(flow.flight, flow.send.length);
      let n = Math.min(flow.mss, out);
      if (n > 0) flow.send.find(out - n);
      // the segment may lie in two chunks
      if (n > flow.send.run) n -= flow.send.run;
      recovery.probeEnd = out > 0 ? seqAdd(flow.sndUna, out) : flow.sndMax;
      this.#retransmit(flow, seqAdd(flow.sndUna, out - n), n, now);
    }
  }

  /** The deadline of an established flow has passed. False when the guest has been silent for too long. */
  timeout(flow: TcpFlow, now: number): boolean {
    const { recovery, roundTrip } = flow;
    if (recovery.forProbe) {
      // what was sent or received meanwhile has postponed it
      const due = recovery.quietSince + this.#probeTimeout(flow);
      if (due > now) {
        this.#timers.set(flow.timer, due);
        return true;
      }
      recovery.forProbe = false;
      if (this.#canProbe(flow)) this.#probe(flow, now);
      this.restartTimer(flow, now);
      return true;
    }
    const idle = flow.sndMax === flow.sndUna && flow.send.length === 0;
    if (flow.silent >= (idle ? this.#keepAlive.probes : MAX_SILENT)) return false;
    roundTrip.retries++;
    flow.silent++;
    const probe = flow.sndMax === flow.sndUna || flow.sndWnd === 0;
    if (flow.owner.port.queue.room() <= 0) {
      // the port is full: nothing was lost, and the guest is not silent
      roundTrip.retries--;
      flow.silent--;
      this.wait(flow);
    } else if (probe) {
      this.probes++;
      this.#emit.control(flow, TcpFlag.ack, seqAdd(flow.sndUna, -1));
    } else this.#retransmitAll(flow, now);
    this.restartTimer(flow, now);
    return true;
  }

  /** Retransmission timeout: everything not reported as received is lost. */
  #retransmitAll(flow: TcpFlow, now: number): void {
    const { recovery } = flow;
    this.timeouts++;
    recovery.cwnd = flow.mss;
    recovery.afterTimeout = flow.sack;
    // the guest may have discarded what it had reported (RFC 2018 8)
    if (flow.roundTrip.retries > 1) recovery.board?.clear();
    this.resend(flow, now);
  }

  /** Everything in flight that is not reported as received is lost. The congestion window stays as it is. */
  resend(flow: TcpFlow, now: number): void {
    const { recovery } = flow;
    flow.roundTrip.timedAt = 0;
    recovery.dupAcks = 0;
    if (flow.sack) {
      recovery.openBoard();
      recovery.resent?.clear();
      recovery.active = true;
      recovery.until = recovery.lostBelow = flow.sndMax;
    } else {
      recovery.active = false;
      flow.sndNxt = flow.sndUna;
    }
    this.pump(flow, now);
  }
}
