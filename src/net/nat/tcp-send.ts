/**
 * When what is sent to the guest: new payload, our FIN, what is lost.
 *
 * Theory of operation. `pump` sends what the guest's window, our own limit and the port's room allow, in one go per contiguous run. The limit stands at MAX_FLIGHT, as the link is local; a loss
 * cuts it (three duplicate ACKs: half, and NewReno's one segment per partial ACK; a timeout: one segment, and everything again from `sndUna`), and acknowledged bytes raise it again.
 * A closed window is probed by an empty segment below the window, which the guest must answer.
 *
 * Limits. No congestion avoidance: the limit doubles per round trip until it is full again. What waits for room is pumped in order of arrival.
 *
 * Read first: RFC 5681, RFC 6582, RFC 6298 5, RFC 9293 3.8.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import { SEGMENT_HEADERS } from '../kernels.ts';
import type { TcpEmitter } from './tcp-emit.ts';
import { Happened, MAX_FLIGHT, type TcpFlow } from './tcp-flow.ts';
import { MAX_RTO, measure, type TcpTimers } from './tcp-timers.ts';

/** Segments in flight that recovery begins with at least. */
const MIN_LIMIT_SEGMENTS = 4;
/** Idle time after which the guest is asked whether it is still there, ms (RFC 9293 3.8.4). */
const KEEP_ALIVE = 7200_000;

export class TcpSender {
  readonly #emit: TcpEmitter;
  readonly #timers: TcpTimers;
  retransmissions = 0;
  timeouts = 0;
  probes = 0;

  constructor(emit: TcpEmitter, timers: TcpTimers) {
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
    for (;;) {
      const position = flow.flight;
      const left = flow.send.length - position;
      if (left <= 0) break;
      const space = Math.min(flow.sndWnd, flow.limit) - position;
      flow.send.find(position);
      let n = Math.min(flow.send.run, space);
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
    } else this.retransmissions++;
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
    } else if (e & Happened.established) this.#timers.set(flow, now + KEEP_ALIVE);
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
    if (seqDiff(flow.sndNxt, ack) < 0) flow.sndNxt = ack;
    if (bytes > payload) flow.events |= Happened.finAcked;
    if (flow.timedAt !== 0 && seqDiff(ack, flow.timedSeq) >= 0) {
      measure(flow, now - flow.timedAt);
      flow.timedAt = 0;
    }
    flow.retries = 0;
    flow.dupAcks = 0;
    if (flow.limit < MAX_FLIGHT) flow.limit = Math.min(MAX_FLIGHT, flow.limit + bytes);
    if (flow.recovering) {
      if (seqDiff(ack, flow.recover) >= 0) flow.recovering = false;
      else this.#again(flow, now);
    }
    this.restart(flow, now);
  }

  /** An ACK that acknowledges nothing new while something is in flight. */
  duplicate(flow: TcpFlow, now: number): void {
    if (++flow.dupAcks !== 3 || flow.recovering) return;
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
      this.#emit.payload(flow, flow.send.at, Math.min(flow.send.run, flow.mss, Math.max(1, seqDiff(flow.sndMax, flow.sndUna))), flow.sndUna);
      this.retransmissions++;
    } else if (flow.events & Happened.finOut && !(flow.events & Happened.finAcked)) {
      this.#emit.control(flow, TcpFlag.fin | TcpFlag.ack, flow.sndUna);
      this.retransmissions++;
    }
    this.restart(flow, now);
  }

  /** The deadline has come for an established flow: all again from the oldest byte, or a probe. */
  timeout(flow: TcpFlow, now: number): void {
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
      flow.dupAcks = 0;
      flow.limit = flow.mss;
      flow.sndNxt = flow.sndUna;
      this.pump(flow, now);
    }
    this.restart(flow, now);
  }
}
