/**
 * What a guest says it has received beyond the bytes that it acknowledges (RFC 2018): ranges of sequence numbers, and
 * the holes between them.
 *
 * Theory of operation. Sorted ranges without overlaps in one array; each block of a selective acknowledgement is merged
 * in, and what is acknowledged in the ordinary way falls out. What lies below enough received bytes is taken for lost
 * (RFC 6675 4, IsLost by bytes).
 *
 * Limits. MAX_RANGES ranges; a block that would be one more is forgotten, so that its bytes may be sent twice.
 */
import { seqDiff } from '../../wire/sequence.ts';

const MAX_RANGES = 64;

export class TcpScoreboard {
  /** Pairs: first sequence number, and the one after the last. */
  readonly #edges = new Int32Array(2 * MAX_RANGES);
  #ranges = 0;
  /** Bytes in all ranges. */
  bytes = 0;
  /** Result of `hole`: the sequence number after its last byte. */
  holeEnd = 0;

  get empty(): boolean {
    return this.#ranges === 0;
  }

  /** Behind the last byte that was received; there is one. */
  get top(): number {
    return this.#edges[2 * this.#ranges - 1];
  }

  clear(): void {
    this.#ranges = this.bytes = 0;
  }

  /** Merges [from, to) in; true when something of it is news. */
  add(from: number, to: number): boolean {
    const e = this.#edges;
    let i = 0;
    while (i < this.#ranges && seqDiff(e[2 * i + 1], from) < 0) i++;
    let j = i;
    let merged = 0;
    // all that touch the new one become one with it
    while (j < this.#ranges && seqDiff(e[2 * j], to) <= 0) {
      if (seqDiff(e[2 * j], from) <= 0 && seqDiff(e[2 * j + 1], to) >= 0) return false;
      if (seqDiff(e[2 * j], from) < 0) from = e[2 * j];
      if (seqDiff(e[2 * j + 1], to) > 0) to = e[2 * j + 1];
      merged += seqDiff(e[2 * j + 1], e[2 * j]);
      j++;
    }
    if (i === j) {
      if (this.#ranges === MAX_RANGES) return false;
      e.copyWithin(2 * i + 2, 2 * i, 2 * this.#ranges);
    } else if (j > i + 1) e.copyWithin(2 * i + 2, 2 * j, 2 * this.#ranges);
    this.#ranges += 1 - (j - i);
    e[2 * i] = from;
    e[2 * i + 1] = to;
    this.bytes += seqDiff(to, from) - merged;
    return true;
  }

  /** All before `una` is acknowledged. */
  release(una: number): void {
    const e = this.#edges;
    let gone = 0;
    while (gone < this.#ranges && seqDiff(e[2 * gone + 1], una) <= 0) {
      this.bytes -= seqDiff(e[2 * gone + 1], e[2 * gone]);
      gone++;
    }
    if (gone > 0) {
      e.copyWithin(0, 2 * gone, 2 * this.#ranges);
      this.#ranges -= gone;
    }
    if (this.#ranges > 0 && seqDiff(e[0], una) < 0) {
      this.bytes -= seqDiff(una, e[0]);
      e[0] = una;
    }
  }

  /**
   * The first byte from `seq` on that was not received; its hole ends at `holeEnd`, which is `end` behind the last
   * range.
   */
  hole(seq: number, end: number): number {
    const e = this.#edges;
    for (let i = 0; i < this.#ranges; i++) {
      if (seqDiff(e[2 * i], seq) > 0) {
        this.holeEnd = e[2 * i];
        return seq;
      }
      if (seqDiff(e[2 * i + 1], seq) > 0) seq = e[2 * i + 1];
    }
    this.holeEnd = end;
    return seq;
  }

  /**
   * Below this number what was not received is lost, as at least `enough` bytes above it were received; `una` when that
   * is nothing.
   */
  lostBelow(enough: number, una: number): number {
    const e = this.#edges;
    let above = 0;
    for (let i = this.#ranges - 1; i >= 0; i--) {
      above += seqDiff(e[2 * i + 1], e[2 * i]);
      if (above >= enough) return e[2 * i];
    }
    return una;
  }

  /**
   * The first byte of the range that makes it at least `enough` bytes received in [it, to); `from` when there are
   * fewer.
   */
  lostWithin(from: number, to: number, enough: number): number {
    const e = this.#edges;
    for (let i = this.#ranges - 1; i >= 0; i--) {
      const a = seqDiff(e[2 * i], from) > 0 ? e[2 * i] : from;
      const b = seqDiff(e[2 * i + 1], to) < 0 ? e[2 * i + 1] : to;
      if (seqDiff(b, a) <= 0) continue;
      enough -= seqDiff(b, a);
      if (enough <= 0) return a;
    }
    return from;
  }

  /** How many bytes of [from, to) were not received. */
  missing(from: number, to: number): number {
    let n = Math.max(0, seqDiff(to, from));
    const e = this.#edges;
    for (let i = 0; i < this.#ranges && n > 0; i++) {
      const a = seqDiff(e[2 * i], from) > 0 ? e[2 * i] : from;
      const b = seqDiff(e[2 * i + 1], to) < 0 ? e[2 * i + 1] : to;
      if (seqDiff(b, a) > 0) n -= seqDiff(b, a);
    }
    return n;
  }
}
