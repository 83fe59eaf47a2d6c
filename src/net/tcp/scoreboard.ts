/**
 * Scoreboard of selective acknowledgements (RFC 2018): ranges that the guest has received out of order, and the holes
 * between them.
 *
 * Theory of operation. Sorted ranges without overlaps in one array. Each SACK block is merged in; the cumulative
 * acknowledgement removes ranges. A hole below enough received bytes is lost (RFC 6675 4, IsLost by bytes).
 *
 * Limits. MAX_RANGES ranges. A block that would need one more is ignored, so its bytes may be sent twice.
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

  /** The sequence number after the last received byte; the scoreboard must not be empty. */
  get top(): number {
    return this.#edges[2 * this.#ranges - 1];
  }

  clear(): void {
    this.#ranges = this.bytes = 0;
  }

  /** Merges [from, to) in. True when some of it is new. */
  add(from: number, to: number): boolean {
    const e = this.#edges;
    let i = 0;
    while (i < this.#ranges && seqDiff(e[2 * i + 1], from) < 0) i++;
    let j = i;
    let merged = 0;
    // merge all ranges that touch the new one
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

  /** Everything below `una` is acknowledged. */
  release(una: number): void {
    const e = this.#edges;
    let removed = 0;
    while (removed < this.#ranges && seqDiff(e[2 * removed + 1], una) <= 0) {
      this.bytes -= seqDiff(e[2 * removed + 1], e[2 * removed]);
      removed++;
    }
    if (removed > 0) {
      e.copyWithin(0, 2 * removed, 2 * this.#ranges);
      this.#ranges -= removed;
    }
    if (this.#ranges > 0 && seqDiff(e[0], una) < 0) {
      this.bytes -= seqDiff(una, e[0]);
      e[0] = una;
    }
  }

  /** The first byte from `seq` on that was not received. Sets `holeEnd` to the next range, else to `end`. */
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

  /** Below the result every hole is lost: at least `enough` bytes above it were received. `una` when none is lost. */
  lostBelow(enough: number, una: number): number {
    const e = this.#edges;
    let above = 0;
    for (let i = this.#ranges - 1; i >= 0; i--) {
      above += seqDiff(e[2 * i + 1], e[2 * i]);
      if (above >= enough) return e[2 * i];
    }
    return una;
  }

  /** The highest start of a received range with at least `enough` bytes received in [start, to); else `from`. */
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
