/**
 * Retransmitted ranges that are not acknowledged yet: which are in flight, and which were lost again (RFC 8985 6, by
 * order instead of time).
 *
 * Theory of operation. A queue of ranges in the order in which they were retransmitted. First transmissions need no
 * queue, as they are sent in sequence order: each range records the highest byte sent until then. When enough of what
 * was sent after a range has been received, the range is lost, and so is everything before it in the queue. Lost ranges
 * leave the queue, and may be retransmitted again.
 *
 * Limits. MAX_RANGES. When the queue is full, nothing more is retransmitted until its front is received, or lost, or
 * cleared by a probe or timeout.
 */
import { seqDiff } from '../../wire/sequence.ts';
import type { TcpScoreboard } from './scoreboard.ts';

const MAX_RANGES = 64;
/** Words of a range: first byte, the one after the last, and `sndMax` when it was sent. */
const FROM = 0;
const TO = 1;
const MAX = 2;
const WORDS = 3;

export class TcpResent {
  readonly #w = new Int32Array(WORDS * MAX_RANGES);
  #count = 0;

  get full(): boolean {
    return this.#count === MAX_RANGES;
  }

  clear(): void {
    this.#count = 0;
  }

  /** [from, to) was retransmitted when everything below `max` had been sent. It overlaps no other range. */
  add(from: number, to: number, max: number): void {
    const w = this.#w;
    const last = WORDS * (this.#count - 1);
    if (last >= 0 && w[last + TO] === from && w[last + MAX] === max) {
      w[last + TO] = to;
      return;
    }
    w.set([from, to, max], last + WORDS);
    this.#count++;
  }

  /** Retransmitted bytes that are not received, as far as is known. */
  inFlight(board: TcpScoreboard, una: number): number {
    let n = 0;
    for (let i = 0; i < this.#count; i++) n += this.#missing(i, board, una);
    return n;
  }

  #missing(i: number, board: TcpScoreboard, una: number): number {
    const w = this.#w;
    const from = w[WORDS * i + FROM];
    return board.missing(seqDiff(from, una) < 0 ? una : from, w[WORDS * i + TO]);
  }

  /** Removes ranges that are received, and those that are lost: at least `enough` bytes sent later, or all, arrived. */
  update(board: TcpScoreboard, una: number, sndMax: number, enough: number): void {
    const w = this.#w;
    // sent and received later than range i
    let sent = 0;
    let received = 0;
    let first = 0;
    for (let i = this.#count - 1; i >= 0 && first === 0; i--) {
      const at = WORDS * i;
      const max = w[at + MAX];
      const fresh = seqDiff(sndMax, max);
      const laterSent = sent + fresh;
      const later = received + fresh - board.missing(seqDiff(max, una) < 0 ? una : max, sndMax);
      if (later > 0 && later >= Math.min(enough, laterSent)) first = i + 1;
      else {
        // its own bytes were sent in order
        const from = seqDiff(w[at + FROM], una) < 0 ? una : w[at + FROM];
        const to = w[at + TO];
        let lost = board.lostWithin(from, to, enough - later);
        if (lost === from && later === laterSent) {
          const top = board.lostWithin(from, to, 1);
          if (board.missing(top, to) === 0) lost = top;
        }
        const bytes = seqDiff(to, w[at + FROM]);
        sent += bytes;
        received += bytes - board.missing(from, to);
        if (seqDiff(lost, from) > 0) {
          w[at + FROM] = lost;
          first = i;
          break;
        }
      }
    }
    while (first < this.#count && this.#missing(first, board, una) === 0) first++;
    if (first === 0) return;
    w.copyWithin(0, WORDS * first, WORDS * this.#count);
    this.#count -= first;
  }

  /**
   * The first byte of [from, to) that is in no range, or `to` when there is none. Sets `end` to where the next range
   * begins.
   */
  gap(from: number, to: number): number {
    const w = this.#w;
    for (let moved = true; moved; ) {
      moved = false;
      this.end = to;
      for (let at = 0; at < WORDS * this.#count; at += WORDS) {
        if (seqDiff(w[at + TO], from) <= 0 || seqDiff(w[at + FROM], to) >= 0) continue;
        if (seqDiff(w[at + FROM], from) <= 0) {
          from = w[at + TO];
          moved = true;
        } else if (seqDiff(w[at + FROM], this.end) < 0) this.end = w[at + FROM];
      }
      if (seqDiff(from, to) >= 0) return to;
    }
    return from;
  }

  /** Second result of `gap`. */
  end = 0;
}
