/**
 * When what is sent to the guest: new payload, our FIN, what is lost.
 *
 * Theory of operation. `pump` sends what the guest's window, our own limit and the port's room allow, in one go per
 * contiguous run. The limit stands at MAX_FLIGHT, as the link is local; a loss cuts it (three duplicate ACKs: half; a
 * timeout: one segment, and everything again from `sndUna`), and acknowledged bytes raise it again.
 *
 * What is lost is known by the guest's selective acknowledgements: in recovery the holes are sent again while less than
 * the limit is under way (RFC 6675), then what is new. What was sent again is lost once more when enough of what was
 * sent later has come (resent.ts). Silence after the last segments is broken by a probe, after two round trips instead
 * of a timeout (RFC 8985 7): the last segment once more, whose selective acknowledgement shows what is missing before
 * it; in recovery it is the oldest. After a timeout all that the guest has not told of is lost. A guest that does not
 * send them gets NewReno's one segment per partial ACK (RFC 6582), and no probes.
 *
 * A closed window is probed by an empty segment below the window, which the guest must answer.
 *
 * Limits. No congestion avoidance: the limit doubles per round trip until it is full again, and a loss that a probe has
 * mended does not cut it. What waits for room is pumped in order of arrival. A probe that is lost, or its answer, costs
 * a timeout.
 *
 * Read first: RFC 5681, RFC 6582, RFC 6675, RFC 8985, RFC 6298 5, RFC 9293 3.8.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { MAX_SACK_BLOCKS, readSack, TCP, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { SEGMENT_HEADERS } from '../memory/kernels.ts';
import type { PacketMemory } from '../memory/packet-memory.ts';
import type { TcpEmitter } from './emit.ts';
import { Happened, MAX_FLIGHT, type TcpFlow } from './flow.ts';
import { TcpResent } from './resent.ts';
import { TcpScoreboard } from './scoreboard.ts';
import { MAX_RTO, measure, probeAfter, type TcpTimers } from './timers.ts';

/** Segments in flight that recovery begins with at least. */
const MIN_LIMIT_SEGMENTS = 4;
/** Segments received beyond a hole after which it is taken for lost (RFC 6675 2, DupThresh). */
const BEYOND = 3;
/**
 * When a guest that says nothing, and has nothing to answer to, is asked whether it is still there (RFC 9293 3.8.4).
 */
export interface KeepAlive {
  /** Idle time before the first probe, and between one that is not answered and the next, ms. */
  idle: number;
  interval: number;
  /** Unanswered probes after which it is given up. */
  probes: number;
}

/**
 * As Linux has it by default; RFC 5382 5 asks for two hours and four minutes at least before an idle connection is
 * forgotten.
 */
export const KEEP_ALIVE: KeepAlive = { idle: 7_200_000, interval: 75_000, probes: 9 };
/**
 * Timeouts in a row without any word from the guest after which a connection is given up that has something to say to
 * it.
 */
const MAX_SILENT = 12;

export class TcpSender {
  readonly #memory: PacketMemory;
  readonly #edges = new Int32Array(2 * MAX_SACK_BLOCKS);
  readonly #emit: TcpEmitter;
  readonly #timers: TcpTimers;
  readonly #keepAlive: KeepAlive;
  retransmissions = 0;
  timeouts = 0;
  probes = 0;
  tailProbes = 0;

  constructor(memory: PacketMemory, emit: TcpEmitter, timers: TcpTimers, keepAlive: KeepAlive) {
    this.#keepAlive = keepAlive;
    this.#memory = memory;
    this.#emit = emit;
    this.#timers = timers;
  }

  /** Puts the flow in the port's list of those who wait. */
  wait(flow: TcpFlow): void {
    if (flow.waiting) return;
    flow.waiting = true;
    flow.owner.waiting.push(flow);
  }

  /** Sends an ACK, now or when there is room. */
  acknowledge(flow: TcpFlow): void {
    if (!flow.owner.port.queue.mayTell()) {
      flow.ackDue = true;
      this.wait(flow);
      return;
    }
    // a guest whose window shrank under what is in flight takes nothing that lies behind it, and would not see this ACK
    const end = seqAdd(flow.sndUna, flow.sndWnd);
    this.#emit.control(flow, TcpFlag.ack, seqDiff(flow.sndNxt, end) > 0 ? end : flow.sndNxt);
  }

  /** Sends what may be sent. */
  pump(flow: TcpFlow, now: number): void {
    if (!(flow.events & Happened.established) || flow.events & (Happened.gone | Happened.timeWait)) return;
    const port = flow.owner.port;
    const board = flow.board !== null && (flow.recovering || !flow.board.empty) ? flow.board : null;
    if (board && flow.recovering) this.#repair(flow, board, now);
    for (;;) {
      const position = flow.flight;
      const left = flow.send.length - position;
      if (left <= 0) break;
      const space = Math.min(flow.sndWnd - position, flow.limit - (board ? this.#underWay(flow, board) : position));
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
      this.#send(flow, flow.send.at, n, now);
    }
    if (flow.events & Happened.hostEnd && !(flow.events & Happened.finAcked) && flow.flight === flow.send.length) this.#fin(flow);
    this.schedule(flow, now);
  }

  #send(flow: TcpFlow, at: number, n: number, now: number): void {
    const seq = flow.sndNxt;
    this.#emit.payload(flow, at, n, seq);
    flow.sndNxt = seqAdd(seq, n);
    if (seqDiff(flow.sndNxt, flow.sndMax) > 0) {
      // only what was never sent before is timed (Karn), and nothing that waits for what goes before it to be mended
      if (flow.timedAt === 0 && !flow.recovering && seqDiff(seq, flow.sndMax) >= 0) {
        flow.timedSeq = flow.sndNxt;
        flow.timedAt = now;
      }
      flow.sndMax = flow.sndNxt;
      flow.quietSince = now;
    } else this.retransmissions += Math.ceil(n / flow.mss);
  }

  /** Bytes that are neither received nor lost, as far as is known (RFC 6675 4, SetPipe). */
  #underWay(flow: TcpFlow, board: TcpScoreboard): number {
    if (!flow.recovering) return board.missing(flow.sndUna, flow.sndNxt);
    return (flow.resent as TcpResent).underWay(board, flow.sndUna) + board.missing(this.#lostBelow(flow, board), flow.sndNxt);
  }

  /** Below this number all that was sent once and is not received is lost. */
  #lostBelow(flow: TcpFlow, board: TcpScoreboard): number {
    const lost = board.lostBelow(this.#enough(flow), flow.sndUna);
    return seqDiff(lost, flow.lostTo) > 0 ? lost : flow.lostTo;
  }

  /**
   * Bytes received beyond a hole that say that it is lost: all there can be, when too little is under way for more (RFC
   * 5827).
   */
  #enough(flow: TcpFlow): number {
    const out = seqDiff(flow.sndMax, flow.sndUna);
    return out <= BEYOND * flow.mss && flow.send.length <= out ? Math.max(1, out - flow.mss) : BEYOND * flow.mss;
  }

  /** Sends again what is lost and not under way again, in order. */
  #repair(flow: TcpFlow, board: TcpScoreboard, now: number): void {
    const port = flow.owner.port;
    const resent = flow.resent as TcpResent;
    resent.judge(board, flow.sndUna, flow.sndMax, BEYOND * flow.mss);
    const lost = this.#lostBelow(flow, board);
    let space = flow.limit - this.#underWay(flow, board);
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
      const n = this.#once(flow, from, Math.min(fits, seqDiff(resent.end, from)), now);
      resent.add(from, seqAdd(from, n), flow.sndMax);
      from = seqAdd(from, n);
      space -= n;
    }
  }

  /**
   * Sends again what lies at `from`, which was sent before: at most `most` bytes of payload, or the FIN. Returns how
   * much it was.
   */
  #once(flow: TcpFlow, from: number, most: number, now: number): number {
    const position = seqDiff(from, flow.sndUna);
    flow.timedAt = 0;
    flow.quietSince = now;
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

  #fin(flow: TcpFlow): void {
    if (!flow.owner.port.queue.mayTell()) {
      this.wait(flow);
      return;
    }
    this.#emit.control(flow, TcpFlag.fin | TcpFlag.ack, flow.sndNxt);
    if (flow.events & Happened.finOut) this.retransmissions++;
    else flow.finFirst = !(flow.events & Happened.finIn);
    flow.events |= Happened.finOut;
    flow.sndNxt = seqAdd(flow.sndNxt, 1);
    if (seqDiff(flow.sndNxt, flow.sndMax) > 0) flow.sndMax = flow.sndNxt;
  }

  /** Sets the one deadline: probe for a lost end, retransmission, probe of a closed window, or keep-alive. */
  schedule(flow: TcpFlow, now: number): void {
    const e = flow.events;
    if (e & (Happened.gone | Happened.timeWait)) return;
    if (flow.sndMax !== flow.sndUna || (e & Happened.established && flow.send.length > 0)) {
      const probe = this.#mayProbe(flow);
      const wanted = now + (probe ? probeAfter(flow) : Math.min(MAX_RTO, flow.rto * 2 ** flow.retries));
      // a timer that runs goes on; an ACK of new data restarts it (RFC 6298 5.1, 5.3)
      if (flow.deadline > wanted || flow.deadline === Number.POSITIVE_INFINITY) {
        flow.forProbe = probe;
        this.#timers.set(flow, wanted);
      }
    } else if (e & Happened.established) this.#timers.set(flow, now + (flow.silent > 0 ? this.#keepAlive.interval : this.#keepAlive.idle));
  }

  /** Restarts the timer. */
  restart(flow: TcpFlow, now: number): void {
    flow.deadline = Number.POSITIVE_INFINITY;
    flow.forProbe = false;
    this.schedule(flow, now);
  }

  /** New bytes up to `ack` are acknowledged. */
  acked(flow: TcpFlow, ack: number, now: number): void {
    const bytes = seqDiff(ack, flow.sndUna);
    const payload = Math.min(bytes, flow.send.length);
    flow.send.release(payload);
    flow.sndUna = ack;
    flow.board?.release(ack);
    flow.quietSince = now;
    flow.probed = false;
    if (seqDiff(flow.lostTo, ack) < 0) flow.lostTo = ack;
    if (seqDiff(flow.probeEnd, ack) < 0) flow.probeEnd = ack;
    if (seqDiff(flow.sndNxt, ack) < 0) flow.sndNxt = ack;
    if (bytes > payload) flow.events |= Happened.finAcked;
    if (flow.timedAt !== 0 && seqDiff(ack, flow.timedSeq) >= 0) {
      measure(flow, now - flow.timedAt);
      flow.timedAt = 0;
    }
    flow.retries = 0;
    flow.dupAcks = 0;
    if (flow.limit < MAX_FLIGHT && (!flow.recovering || !flow.sack || flow.restarted)) flow.limit = Math.min(MAX_FLIGHT, flow.limit + bytes);
    if (flow.recovering) {
      if (seqDiff(ack, flow.recover) >= 0) {
        flow.recovering = flow.restarted = false;
        flow.resent?.clear();
      } else if (!flow.sack) this.#again(flow, now);
    }
    if (!flow.recovering && flow.board && !flow.board.empty) this.#consider(flow, now);
    this.restart(flow, now);
  }

  /** Takes in a selective acknowledgement, if the TCP header at `tcp` has one; true when it is news. */
  selective(flow: TcpFlow, tcp: number, now: number): boolean {
    const u8 = this.#memory.u8;
    if (u8[tcp + TCP.offset] >> 4 === TCP_HEADER / 4 || flow.sndMax === flow.sndUna) return false;
    const blocks = readSack(u8, this.#memory.view, tcp, this.#edges);
    let news = false;
    for (let i = 0; i < blocks; i++) {
      const from = this.#edges[2 * i];
      const to = this.#edges[2 * i + 1];
      // what is below is a duplicate that it tells of (RFC 2883); what was never sent is a lie
      if (seqDiff(from, flow.sndUna) <= 0 || seqDiff(to, from) <= 0 || seqDiff(to, flow.sndMax) > 0) continue;
      if (this.#board(flow).add(from, to)) news = true;
    }
    if (!news) return false;
    flow.quietSince = now;
    // the probe has come, which went long after all before it
    if (seqDiff(flow.probeEnd, flow.sndUna) > 0 && flow.board?.missing(seqAdd(flow.probeEnd, -1), flow.probeEnd) === 0) flow.lostTo = flow.probeEnd;
    flow.probed = false;
    return true;
  }

  #board(flow: TcpFlow): TcpScoreboard {
    flow.resent ??= new TcpResent();
    flow.board ??= new TcpScoreboard();
    return flow.board;
  }

  /** An ACK that acknowledges nothing new while something is in flight, or tells of something new behind a hole. */
  duplicate(flow: TcpFlow, now: number): void {
    flow.dupAcks++;
    this.#consider(flow, now);
  }

  /** Begins recovery when the oldest segment is lost. */
  #consider(flow: TcpFlow, now: number): void {
    if (flow.recovering) return;
    const lost = seqDiff(flow.lostTo, flow.sndUna) > 0 || (flow.board !== null && flow.board.bytes >= this.#enough(flow));
    if (!lost && flow.dupAcks < BEYOND) return;
    flow.recovering = true;
    flow.recover = flow.sndMax;
    flow.limit = Math.max(MIN_LIMIT_SEGMENTS * flow.mss, flow.flight >> 1);
    this.#again(flow, now);
  }

  /** The oldest segment once more. */
  #again(flow: TcpFlow, now: number): void {
    if (flow.owner.port.queue.room() > 0) {
      const { sndUna, board } = flow;
      board?.hole(sndUna, flow.sndMax);
      const n = this.#once(flow, sndUna, Math.min(flow.mss, seqDiff(board ? board.holeEnd : flow.sndMax, sndUna)), now);
      flow.resent?.add(sndUna, seqAdd(sndUna, n), flow.sndMax);
    }
    this.restart(flow, now);
  }

  /** Whether silence is broken by a probe first: one, until the guest tells something new. */
  #mayProbe(flow: TcpFlow): boolean {
    return flow.sack && !flow.probed && flow.srtt > 0 && flow.retries === 0 && flow.sndWnd > 0 && flow.sndMax !== flow.sndUna;
  }

  /** The guest has told nothing new for so long that what was sent last may be lost. */
  #probe(flow: TcpFlow, now: number): void {
    if (flow.owner.port.queue.room() <= 0) {
      this.wait(flow);
      return;
    }
    this.tailProbes++;
    flow.probed = true;
    flow.probeEnd = flow.sndUna; // no answer to it tells of more
    if (flow.recovering) {
      flow.resent?.clear();
      this.#again(flow, now);
    } else if (flow.board && !flow.board.empty) {
      // what came beyond the holes would have been followed by the rest
      flow.lostTo = flow.board.top;
      this.#consider(flow, now);
    } else {
      const out = Math.min(flow.flight, flow.send.length);
      let n = Math.min(flow.mss, out);
      if (n > 0) flow.send.find(out - n);
      // it may lie in two chunks
      if (n > flow.send.run) n -= flow.send.run;
      flow.probeEnd = out > 0 ? seqAdd(flow.sndUna, out) : flow.sndMax;
      this.#once(flow, seqAdd(flow.sndUna, out - n), n, now);
    }
  }

  /**
   * The deadline has come for an established flow: all again from the oldest byte, or a probe. False when the guest has
   * been silent for too long.
   */
  timeout(flow: TcpFlow, now: number): boolean {
    if (flow.forProbe) {
      // what was sent or heard meanwhile has moved it
      const due = flow.quietSince + probeAfter(flow);
      if (due > now) {
        this.#timers.set(flow, due);
        return true;
      }
      flow.forProbe = false;
      if (this.#mayProbe(flow)) this.#probe(flow, now);
      this.restart(flow, now);
      return true;
    }
    const idle = flow.sndMax === flow.sndUna && flow.send.length === 0;
    if (flow.silent >= (idle ? this.#keepAlive.probes : MAX_SILENT)) return false;
    flow.retries++;
    flow.silent++;
    const probe = flow.sndMax === flow.sndUna || flow.sndWnd === 0;
    if (flow.owner.port.queue.room() <= 0) {
      // it is not the guest who is silent: nothing was lost, and nothing can be said
      flow.retries--;
      flow.silent--;
      this.wait(flow);
    } else if (probe) {
      this.probes++;
      this.#emit.control(flow, TcpFlag.ack, seqAdd(flow.sndUna, -1));
    } else {
      this.timeouts++;
      flow.timedAt = 0;
      flow.dupAcks = 0;
      flow.limit = flow.mss;
      if (flow.sack) {
        const board = this.#board(flow);
        // the guest may have thrown away what it had (RFC 2018 8)
        if (flow.retries > 1) board.clear();
        flow.resent?.clear();
        flow.recovering = flow.restarted = true;
        flow.recover = flow.lostTo = flow.sndMax;
      } else {
        flow.recovering = false;
        flow.sndNxt = flow.sndUna;
      }
      this.pump(flow, now);
    }
    this.restart(flow, now);
    return true;
  }
}
