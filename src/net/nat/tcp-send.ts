/**
 * When what is sent to the guest: new payload, our FIN, what is lost.
 *
 * Theory of operation. `pump` sends what the guest's window, our own limit and the port's room allow, in one go per contiguous run. The limit stands at MAX_FLIGHT, as the link is local; a loss
 * cuts it (three duplicate ACKs: half; a timeout: one segment, and everything again from `sndUna`), and acknowledged bytes raise it again.
 *
 * What is lost is known by the guest's selective acknowledgements: in recovery the holes are sent again, each once, while less than the limit is under way (RFC 6675), then what is new. After a timeout what the guest has
 * told since is left out. A guest that does not send them gets NewReno's one segment per partial ACK (RFC 6582).
 *
 * A closed window is probed by an empty segment below the window, which the guest must answer.
 *
 * Limits. No congestion avoidance: the limit doubles per round trip until it is full again. What waits for room is pumped in order of arrival. A segment that is sent again and lost again costs a timeout, and so
 * does the last of all that was sent.
 *
 * Read first: RFC 5681, RFC 6582, RFC 6675, RFC 6298 5, RFC 9293 3.8.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { MAX_SACK_BLOCKS, readSack, TCP, TCP_HEADER, TcpFlag } from '../../wire/tcp.ts';
import { SEGMENT_HEADERS } from '../kernels.ts';
import type { PacketMemory } from '../packet-memory.ts';
import type { TcpEmitter } from './tcp-emit.ts';
import { Happened, MAX_FLIGHT, type TcpFlow } from './tcp-flow.ts';
import { TcpScoreboard } from './tcp-scoreboard.ts';
import { MAX_RTO, measure, type TcpTimers } from './tcp-timers.ts';

/** Segments in flight that recovery begins with at least. */
const MIN_LIMIT_SEGMENTS = 4;
/** Segments received beyond a hole after which it is taken for lost (RFC 6675 2, DupThresh). */
const BEYOND = 3;
/** When a guest that says nothing, and has nothing to answer to, is asked whether it is still there (RFC 9293 3.8.4). */
export interface KeepAlive {
  /** Idle time before the first probe, and between one that is not answered and the next, ms. */
  idle: number;
  interval: number;
  /** Unanswered probes after which it is given up. */
  probes: number;
}

/** As Linux has it by default; RFC 5382 5 asks for two hours and four minutes at least before an idle connection is forgotten. */
export const KEEP_ALIVE: KeepAlive = { idle: 7_200_000, interval: 75_000, probes: 9 };
/** Timeouts in a row without any word from the guest after which a connection is given up that has something to say to it. */
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
    if (flow.owner.port.room() <= 0) {
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
    const board = flow.board !== null && !flow.board.empty ? flow.board : null;
    if (board && flow.recovering) this.#repair(flow, board);
    for (;;) {
      if (board && seqDiff(flow.sndMax, flow.sndNxt) > 0) flow.sndNxt = board.hole(flow.sndNxt, flow.sndMax);
      const position = flow.flight;
      const left = flow.send.length - position;
      if (left <= 0) break;
      const space = Math.min(flow.sndWnd - position, flow.limit - (board ? this.#underWay(flow, board) : position));
      flow.send.find(position);
      let n = Math.min(flow.send.run, space);
      if (board && seqDiff(flow.sndMax, flow.sndNxt) > 0) n = Math.min(n, seqDiff(board.holeEnd, flow.sndNxt));
      if (n < flow.mss && n < left && n < flow.send.run && position > 0) break;
      if (n <= 0) break;
      if (n < flow.send.run && n > flow.mss) n -= n % flow.mss;
      const room = port.room();
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
      // only what was never sent before is timed (Karn)
      if (flow.timedAt === 0 && seqDiff(seq, flow.sndMax) >= 0) {
        flow.timedSeq = flow.sndNxt;
        flow.timedAt = now;
      }
      flow.sndMax = flow.sndNxt;
    } else this.retransmissions += Math.ceil(n / flow.mss);
  }

  /** Bytes that are neither received nor lost, as far as is known (RFC 6675 4, SetPipe). */
  #underWay(flow: TcpFlow, board: TcpScoreboard): number {
    if (!flow.recovering) return board.missing(flow.sndUna, flow.sndNxt);
    const lost = board.lostBelow(this.#enough(flow), flow.sndUna);
    return board.missing(flow.sndUna, flow.again) + board.missing(seqDiff(lost, flow.again) > 0 ? lost : flow.again, flow.sndNxt);
  }

  /** Bytes received beyond a hole that say that it is lost: all there can be, when too little is under way for more (RFC 5827). */
  #enough(flow: TcpFlow): number {
    const out = seqDiff(flow.sndMax, flow.sndUna);
    return out <= BEYOND * flow.mss && flow.send.length <= out ? Math.max(1, out - flow.mss) : BEYOND * flow.mss;
  }

  /** Sends again what is lost, in order, each byte once. */
  #repair(flow: TcpFlow, board: TcpScoreboard): void {
    const port = flow.owner.port;
    if (seqDiff(flow.again, flow.sndUna) < 0) flow.again = flow.sndUna;
    const lost = board.lostBelow(this.#enough(flow), flow.sndUna);
    let space = flow.limit - this.#underWay(flow, board);
    while (space >= flow.mss) {
      const from = board.hole(flow.again, lost);
      if (seqDiff(from, lost) >= 0) return;
      const position = seqDiff(from, flow.sndUna);
      const room = port.room();
      if (room <= 0) {
        this.wait(flow);
        return;
      }
      flow.send.find(position);
      const fits = Math.max(1, Math.floor(Math.min(space / flow.mss, room / (flow.mss + SEGMENT_HEADERS)))) * flow.mss;
      const n = Math.min(flow.send.run, fits, seqDiff(board.holeEnd, from), flow.send.length - position);
      this.#emit.payload(flow, flow.send.at, n, from);
      this.retransmissions += Math.ceil(n / flow.mss);
      flow.timedAt = 0;
      flow.again = seqAdd(from, n);
      space -= n;
    }
  }

  #fin(flow: TcpFlow): void {
    if (flow.owner.port.room() <= 0) {
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

  /** Sets the one deadline: retransmission, probe of a closed window, or keep-alive. */
  schedule(flow: TcpFlow, now: number): void {
    const e = flow.events;
    if (e & (Happened.gone | Happened.timeWait)) return;
    if (flow.sndMax !== flow.sndUna || (e & Happened.established && flow.send.length > 0)) {
      const wanted = now + Math.min(MAX_RTO, flow.rto * 2 ** flow.retries);
      // a timer that runs goes on; an ACK of new data restarts it (RFC 6298 5.1, 5.3)
      if (flow.deadline > wanted || flow.deadline === Number.POSITIVE_INFINITY) this.#timers.set(flow, wanted);
    } else if (e & Happened.established) this.#timers.set(flow, now + (flow.silent > 0 ? this.#keepAlive.interval : this.#keepAlive.idle));
  }

  /** Restarts the timer. */
  restart(flow: TcpFlow, now: number): void {
    flow.deadline = Number.POSITIVE_INFINITY;
    this.schedule(flow, now);
  }

  /** New bytes up to `ack` are acknowledged. */
  acked(flow: TcpFlow, ack: number, now: number): void {
    const bytes = seqDiff(ack, flow.sndUna);
    const payload = Math.min(bytes, flow.send.length);
    flow.send.release(payload);
    flow.sndUna = ack;
    flow.board?.release(ack);
    if (seqDiff(flow.sndNxt, ack) < 0) flow.sndNxt = ack;
    if (bytes > payload) flow.events |= Happened.finAcked;
    if (flow.timedAt !== 0 && seqDiff(ack, flow.timedSeq) >= 0) {
      measure(flow, now - flow.timedAt);
      flow.timedAt = 0;
    }
    flow.retries = 0;
    flow.dupAcks = 0;
    if (flow.limit < MAX_FLIGHT && !(flow.recovering && flow.sack)) flow.limit = Math.min(MAX_FLIGHT, flow.limit + bytes);
    if (flow.recovering) {
      if (seqDiff(ack, flow.recover) >= 0) flow.recovering = false;
      else if (!flow.board) this.#again(flow, now);
    }
    if (!flow.recovering && flow.board && !flow.board.empty) this.#consider(flow, now);
    this.restart(flow, now);
  }

  /** Takes in a selective acknowledgement, if the TCP header at `tcp` has one; true when it is news. */
  selective(flow: TcpFlow, tcp: number): boolean {
    const u8 = this.#memory.u8;
    if (u8[tcp + TCP.offset]! >> 4 === TCP_HEADER / 4 || flow.sndMax === flow.sndUna) return false;
    const blocks = readSack(u8, this.#memory.view, tcp, this.#edges);
    let news = false;
    for (let i = 0; i < blocks; i++) {
      const from = this.#edges[2 * i]!;
      const to = this.#edges[2 * i + 1]!;
      // what is below is a duplicate that it tells of (RFC 2883); what was never sent is a lie
      if (seqDiff(from, flow.sndUna) <= 0 || seqDiff(to, from) <= 0 || seqDiff(to, flow.sndMax) > 0) continue;
      flow.board ??= new TcpScoreboard();
      if (flow.board.add(from, to)) news = true;
    }
    return news;
  }

  /** An ACK that acknowledges nothing new while something is in flight, or tells of something new behind a hole. */
  duplicate(flow: TcpFlow, now: number): void {
    flow.dupAcks++;
    this.#consider(flow, now);
  }

  /** Begins recovery when the oldest segment is lost. */
  #consider(flow: TcpFlow, now: number): void {
    if (flow.recovering || (flow.sack && seqDiff(flow.sndUna, flow.recover) < 0)) return;
    if (flow.dupAcks < BEYOND && !(flow.board && flow.board.bytes >= this.#enough(flow))) return;
    flow.recovering = true;
    flow.recover = flow.sndMax;
    flow.limit = Math.max(MIN_LIMIT_SEGMENTS * flow.mss, flow.flight >> 1);
    this.#again(flow, now);
  }

  /** The oldest segment once more. */
  #again(flow: TcpFlow, now: number): void {
    if (flow.owner.port.room() <= 0) {
      this.restart(flow, now);
      return;
    }
    flow.timedAt = 0;
    if (flow.send.length > 0) {
      flow.send.find(0);
      const n = Math.min(flow.send.run, flow.mss, Math.max(1, seqDiff(flow.sndMax, flow.sndUna)));
      this.#emit.payload(flow, flow.send.at, n, flow.sndUna);
      flow.again = seqAdd(flow.sndUna, n);
      this.retransmissions++;
    } else if (flow.events & Happened.finOut && !(flow.events & Happened.finAcked)) {
      this.#emit.control(flow, TcpFlag.fin | TcpFlag.ack, flow.sndUna);
      this.retransmissions++;
    }
    this.restart(flow, now);
  }

  /** The deadline has come for an established flow: all again from the oldest byte, or a probe. False when the guest has been silent for too long. */
  timeout(flow: TcpFlow, now: number): boolean {
    const idle = flow.sndMax === flow.sndUna && flow.send.length === 0;
    if (flow.silent >= (idle ? this.#keepAlive.probes : MAX_SILENT)) return false;
    flow.retries++;
    flow.silent++;
    const probe = flow.sndMax === flow.sndUna || flow.sndWnd === 0;
    if (flow.owner.port.room() <= 0) {
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
      flow.recovering = false;
      flow.recover = flow.sndMax;
      flow.board?.clear(); // the guest may have thrown away what it had (RFC 2018 8)
      flow.dupAcks = 0;
      flow.limit = flow.mss;
      flow.sndNxt = flow.sndUna;
      this.pump(flow, now);
    }
    this.restart(flow, now);
    return true;
  }
}
