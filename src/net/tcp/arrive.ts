/**
 * What a segment of the guest does to an established connection.
 *
 * Theory of operation. The order of RFC 9293 3.10.7.4: is it acceptable, RST, SYN, ACK and window, payload, FIN.
 * Segments come joined by the `coalesce` kernel, so one call stands for a whole chunk of the guest's stream, and one
 * ACK at the end of the run answers all of it.
 *
 * What is out of order waits in a small queue, and each such segment is answered by a duplicate ACK at once, so that
 * the guest sends again what is missing. What overlaps is trimmed. Of a FIN out of order its place is remembered.
 *
 * Limits. Urgent data is ordinary data.
 *
 * Read first: RFC 9293, RFC 5961.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import { Happened, type TcpFlow } from './flow.ts';
import type { TcpReassembly } from './reassembly.ts';
import type { TcpSender } from './send.ts';

/** Challenge ACKs per flow and second (RFC 5961 7). */
const MAX_CHALLENGES = 10;
/** Duplicate ACKs for one joined run: three make the guest send again at once (RFC 5681 3.2). */
const MAX_DUPLICATES = 3;

/** What the machine has to do about it. */
export interface ArriveActions {
  /**
   * In-order payload: [at, at + length) in packet memory, of this run or (`queued`) from the queue. False: not taken,
   * as the port's account is full.
   */
  onPayload(flow: TcpFlow, at: number, length: number, queued: boolean): boolean;
  /** Payload out of order, to be kept if there is room. */
  onEarly(flow: TcpFlow, seq: number, at: number, length: number): void;
  /** The guest sends no more. */
  onGuestEnd(flow: TcpFlow): void;
  /** The guest gave up. */
  onGuestReset(flow: TcpFlow): void;
  /** The end of this run owes an ACK, which may wait for an answer if it is for one small segment. */
  mark(flow: TcpFlow, small: boolean): void;
}

export class TcpArrivals {
  readonly #sender: TcpSender;
  readonly #actions: ArriveActions;
  outOfOrder = 0;
  duplicates = 0;
  challenges = 0;
  overWindow = 0;
  refusedPayload = 0;

  constructor(sender: TcpSender, actions: ArriveActions) {
    this.#sender = sender;
    this.#actions = actions;
  }

  /**
   * `window` as on the wire. `tcp`: offset of the first one's header in packet memory. `segments`: how many were
   * joined. The flow is established.
   */
  segment(
    flow: TcpFlow,
    flags: number,
    seq: number,
    ack: number,
    window: number,
    tcp: number,
    at: number,
    length: number,
    segments: number,
    now: number,
  ): void {
    flow.silent = 0;
    const old = seqDiff(flow.rcvNxt, seq);
    const fin = flags & TcpFlag.fin ? 1 : 0;
    const inWindow = old <= 0 ? seqDiff(seq, flow.rcvEdge) <= 0 : false;
    if (flags & TcpFlag.rst) {
      if (old === 0) this.#actions.onGuestReset(flow);
      else if (inWindow) this.challenge(flow, now);
      return;
    }
    if (flags & TcpFlag.syn) {
      this.challenge(flow, now);
      return;
    }
    if (!(flags & TcpFlag.ack)) return;
    if (old > 0 ? old >= length + fin : !inWindow) {
      // wholly old, a keep-alive probe, or beyond the window: the answer is where we are
      if (old > 0) this.duplicates++;
      else this.overWindow++;
      if (length > 0 || fin || old > 0) this.#actions.mark(flow, false);
      if (old <= 0 || seqDiff(ack, flow.sndUna) <= 0) return;
    }
    if (!this.#ack(flow, seq, ack, window, tcp, length + fin, now)) return;
    if (length > 0) this.#payload(flow, seq, old, at, length, segments);
    if (fin && !(flow.events & Happened.finIn)) {
      flow.finSeq = seqAdd(seq, length);
      flow.events |= Happened.finSeen;
      this.#actions.mark(flow, false);
    }
    if ((flow.events & (Happened.finSeen | Happened.finIn | Happened.gone)) === Happened.finSeen && flow.finSeq === flow.rcvNxt) this.#end(flow);
  }

  /** All that goes before the guest's FIN has come. */
  #end(flow: TcpFlow): void {
    flow.rcvNxt = seqAdd(flow.rcvNxt, 1);
    if (seqDiff(flow.rcvEdge, flow.rcvNxt) < 0) flow.rcvEdge = flow.rcvNxt;
    flow.events |= Happened.finIn;
    this.#actions.mark(flow, false);
    this.#actions.onGuestEnd(flow);
  }

  /** False when the segment is to be dropped. */
  #ack(flow: TcpFlow, seq: number, ack: number, window: number, tcp: number, size: number, now: number): boolean {
    const news = seqDiff(ack, flow.sndUna);
    if (seqDiff(ack, flow.sndMax) > 0) {
      this.challenge(flow, now);
      return false;
    }
    const wnd = window << flow.shiftOut;
    if (news > 0) this.#sender.acked(flow, ack, now);
    if (flow.sack ? this.#sender.selective(flow, tcp, now) : news === 0 && size === 0 && wnd === flow.sndWnd && flow.sndMax !== flow.sndUna)
      this.#sender.duplicate(flow, now);
    // what acknowledges something new is newer than what was heard before, also in a segment that is sent again
    if (news > 0 || (news === 0 && (seqDiff(seq, flow.wl1) > 0 || (seq === flow.wl1 && seqDiff(ack, flow.wl2) >= 0)))) {
      const opened = flow.sndWnd === 0 && wnd > 0;
      flow.sndWnd = wnd;
      flow.wl1 = seq;
      flow.wl2 = ack;
      if (opened) {
        flow.retries = 0;
        this.#sender.restart(flow, now);
      }
    }
    return true;
  }

  #payload(flow: TcpFlow, seq: number, old: number, at: number, length: number, segments: number): void {
    if (old < 0) {
      this.outOfOrder += segments;
      const fits = Math.min(length, seqDiff(flow.rcvEdge, seq));
      if (fits > 0 && !(flow.events & Happened.finIn)) this.#actions.onEarly(flow, seq, at, fits);
      for (let i = Math.min(segments, MAX_DUPLICATES); i > 0; i--) this.#sender.acknowledge(flow);
      return;
    }
    this.#actions.mark(flow, old === 0 && length < flow.mss && flow.early === null);
    let n = length - old;
    const open = seqDiff(flow.rcvEdge, flow.rcvNxt);
    if (n > open) {
      this.overWindow++;
      n = open;
    }
    if (n <= 0 || flow.events & Happened.finIn) return;
    if (!this.#actions.onPayload(flow, at + old, n, false)) {
      this.refusedPayload++;
      return;
    }
    if (flow.events & Happened.gone) return;
    flow.rcvNxt = seqAdd(flow.rcvNxt, n);
    if (flow.early) this.#late(flow, flow.early);
  }

  /** What waited for the payload that has just come. */
  #late(flow: TcpFlow, early: TcpReassembly): void {
    for (;;) {
      const n = early.take(flow.rcvNxt);
      if (n === 0 || !this.#actions.onPayload(flow, early.at, n, true)) return;
      flow.rcvNxt = seqAdd(flow.rcvNxt, n);
    }
  }

  /** An ACK to one who may be an impostor (RFC 5961): the real guest answers it with what is right. */
  challenge(flow: TcpFlow, now: number): void {
    if (now - flow.challengeFrom >= 1000) {
      flow.challengeFrom = now;
      flow.challenges = 0;
    }
    if (flow.challenges++ >= MAX_CHALLENGES) return;
    this.challenges++;
    this.#sender.acknowledge(flow);
  }
}
