/**
 * Segments of the guest for an established connection.
 *
 * Theory of operation. Processing follows the order of RFC 9293 3.10.7.4: acceptability, RST, SYN, ACK and window,
 * payload, FIN. The `coalesce` kernel merges consecutive segments, so one call handles a whole stretch of the guest's
 * stream, and one ACK at the end of the run answers all of it.
 *
 * Out-of-order payload is buffered. Each such segment is answered by a duplicate ACK at once, so that the guest
 * retransmits what is missing. Overlaps are trimmed. The sequence number of an out-of-order FIN is remembered.
 *
 * Limits. Urgent data is treated as ordinary data, which is what RFC 6093 recommends to applications.
 *
 * Read first: RFC 9293, RFC 5961.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import { ChallengeLimit } from './challenge-limit.ts';
import { TcpEvents, type TcpFlow } from './flow.ts';
import type { TcpReassembly } from './reassembly.ts';
import type { TcpSender } from './send.ts';

/** Duplicate ACKs per merged run: three trigger the guest's fast retransmit (RFC 5681 3.2). */
const MAX_DUPLICATES = 3;

/** What the machine must do in response. */
export interface ArriveActions {
  /**
   * In-order payload: [at, at + length) in packet memory, from this run or (`queued`) from the out-of-order queue.
   * False: not taken, as the port's account is full.
   */
  onPayload(flow: TcpFlow, at: number, length: number, queued: boolean): boolean;
  /** Out-of-order payload, to be kept if there is room. */
  onOutOfOrder(flow: TcpFlow, seq: number, at: number, length: number): void;
  /** The guest's FIN was received in order. */
  onGuestFin(flow: TcpFlow): void;
  onGuestReset(flow: TcpFlow): void;
  /**
   * An ACK is due at the end of this run. One for a single small segment may be delayed. `bare`: the segment has
   * nothing new for the peer.
   */
  ackAtEnd(flow: TcpFlow, small: boolean, bare: boolean): void;
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
   * A segment of an established flow. `window` as on the wire; `tcp` is the offset of the first merged header in packet
   * memory; `segments` is how many were merged. Positional arguments: this runs per segment, and allocates nothing.
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
      // a duplicate, a keep-alive probe, or beyond the window: answer with what is expected next
      if (old > 0) this.duplicates++;
      else this.overWindow++;
      if (length > 0 || fin || old > 0) this.#actions.ackAtEnd(flow, false, true);
      if (old <= 0 || seqDiff(ack, flow.sndUna) <= 0) return;
    }
    if (!this.#ack(flow, seq, ack, window, tcp, length + fin, now)) return;
    if (length > 0) this.#payload(flow, seq, old, at, length, segments);
    if (fin && !(flow.events & TcpEvents.finReceived)) {
      flow.finSeq = seqAdd(seq, length);
      flow.events |= TcpEvents.finSeen;
      this.#actions.ackAtEnd(flow, false, false);
    }
    if ((flow.events & (TcpEvents.finSeen | TcpEvents.finReceived | TcpEvents.removed)) === TcpEvents.finSeen && flow.finSeq === flow.rcvNxt) this.#fin(flow);
  }

  /** Everything before the guest's FIN has arrived. */
  #fin(flow: TcpFlow): void {
    flow.rcvNxt = seqAdd(flow.rcvNxt, 1);
    if (seqDiff(flow.rcvEdge, flow.rcvNxt) < 0) flow.rcvEdge = flow.rcvNxt;
    flow.events |= TcpEvents.finReceived;
    this.#actions.ackAtEnd(flow, false, false);
    this.#actions.onGuestFin(flow);
  }

  /** False when the segment must be dropped. */
  #ack(flow: TcpFlow, seq: number, ack: number, window: number, tcp: number, size: number, now: number): boolean {
    const acked = seqDiff(ack, flow.sndUna);
    // RFC 5961 5.2: of data never sent, or older than the guest's largest window
    if (seqDiff(ack, flow.sndMax) > 0 || acked < -(0xffff << flow.sndShift)) {
      this.challenge(flow, now);
      return false;
    }
    const wnd = window << flow.sndShift;
    if (acked > 0) this.#sender.acked(flow, ack, now);
    if (flow.sack ? this.#sender.selective(flow, tcp, now) : acked === 0 && size === 0 && wnd === flow.sndWnd && flow.sndMax !== flow.sndUna)
      this.#sender.duplicate(flow, now);
    // an ACK of new data is newer than all earlier segments, even if it is carried by a retransmission
    if (acked > 0 || (acked === 0 && (seqDiff(seq, flow.wl1) > 0 || (seq === flow.wl1 && seqDiff(ack, flow.wl2) >= 0)))) {
      const opened = flow.sndWnd === 0 && wnd > 0;
      flow.sndWnd = wnd;
      flow.wl1 = seq;
      flow.wl2 = ack;
      if (opened) {
        flow.roundTrip.retries = 0;
        this.#sender.restartTimer(flow, now);
      }
    }
    return true;
  }

  #payload(flow: TcpFlow, seq: number, old: number, at: number, length: number, segments: number): void {
    if (old < 0) {
      this.outOfOrder += segments;
      const fits = Math.min(length, seqDiff(flow.rcvEdge, seq));
      if (fits > 0 && !(flow.events & TcpEvents.finReceived)) this.#actions.onOutOfOrder(flow, seq, at, fits);
      for (let i = flow.life.held ? 0 : Math.min(segments, MAX_DUPLICATES); i > 0; i--) this.#sender.acknowledge(flow);
      return;
    }
    this.#actions.ackAtEnd(flow, old === 0 && length < flow.mss && flow.outOfOrder === null, false);
    let n = length - old;
    const open = seqDiff(flow.rcvEdge, flow.rcvNxt);
    if (n > open) {
      this.overWindow++;
      n = open;
    }
    if (n <= 0 || flow.events & TcpEvents.finReceived) return;
    if (!this.#actions.onPayload(flow, at + old, n, false)) {
      this.refusedPayload++;
      return;
    }
    if (flow.events & TcpEvents.removed) return;
    flow.rcvNxt = seqAdd(flow.rcvNxt, n);
    if (flow.outOfOrder) this.#deliverQueued(flow, flow.outOfOrder);
  }

  /** Delivers buffered payload that has become in-order. */
  #deliverQueued(flow: TcpFlow, queue: TcpReassembly): void {
    for (;;) {
      const n = queue.take(flow.rcvNxt);
      if (n === 0 || !this.#actions.onPayload(flow, queue.at, n, true)) return;
      flow.rcvNxt = seqAdd(flow.rcvNxt, n);
    }
  }

  /** Sends a challenge ACK (RFC 5961): the real guest answers it with the right numbers, an attacker cannot. */
  challenge(flow: TcpFlow, now: number): void {
    flow.challenges ??= new ChallengeLimit();
    if (!flow.challenges.allow(now)) return;
    this.challenges++;
    this.#sender.acknowledge(flow);
  }
}
