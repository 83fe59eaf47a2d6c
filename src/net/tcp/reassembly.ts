/**
 * Out-of-order payload of the guest.
 *
 * Theory of operation. Runs of bytes in chunks of packet memory, sorted by sequence number. Payload that continues a
 * run is appended to it. Overlaps are kept, and trimmed on `take`.
 *
 * Limits. A flow keeps at most MAX_BYTES in MAX_RUNS runs. What exceeds that is dropped, and the guest retransmits it.
 */
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { type Chunk, type ChunkPool, LARGE_CHUNK } from './chunks.ts';

const MAX_BYTES = 1 << 20;
const MAX_RUNS = 128;

interface Run {
  /** Sequence number of the byte at `chunk.start`. */
  seq: number;
  chunk: Chunk;
}

export class TcpReassembly {
  readonly #pool: ChunkPool;
  readonly #account: { held: number };
  readonly #runs: Run[] = [];
  #held = 0;
  /** First sequence number of the latest arrival. */
  #newest = 0;
  /** Result of `take`: offset of the bytes in packet memory, valid until the next call. */
  at = 0;
  #spent: Chunk | null = null;

  constructor(pool: ChunkPool, account: { held: number }) {
    this.#pool = pool;
    this.#account = account;
  }

  /** Keeps a copy of [at, at + length), whose first byte is `seq`. False when some of it was not kept. */
  add(seq: number, at: number, length: number): boolean {
    const runs = this.#runs;
    this.#newest = seq;
    let i = runs.length;
    while (i > 0 && seqDiff(runs[i - 1].seq, seq) > 0) i--;
    while (length > 0) {
      const before = i > 0 ? runs[i - 1] : null;
      const ends = before ? seqAdd(before.seq, before.chunk.end - before.chunk.start) : seq;
      const have = before ? Math.min(length, seqDiff(ends, seq)) : 0;
      if (have > 0) {
        seq = seqAdd(seq, have);
        at += have;
        length -= have;
        continue;
      }
      let chunk = before && ends === seq && before.chunk.free > 0 ? before.chunk : null;
      if (!chunk) {
        if (this.#held >= MAX_BYTES || runs.length >= MAX_RUNS) return false;
        chunk = this.#pool.take(Math.min(length, LARGE_CHUNK));
        if (!chunk) return false;
        this.#held += chunk.size;
        this.#account.held += chunk.size;
        runs.splice(i++, 0, { seq, chunk });
      }
      const n = Math.min(chunk.free, length);
      this.#pool.memory.u8.copyWithin(chunk.end, at, at + n);
      chunk.end += n;
      seq = seqAdd(seq, n);
      at += n;
      length -= n;
    }
    return true;
  }

  /**
   * SACK blocks: the contiguous ranges that are kept, first the one that grew last, then the others in ascending order.
   * Writes the first sequence number and the one after the last of as many as fit into `edges`. Returns how many.
   */
  sackBlocks(edges: Int32Array): number {
    const runs = this.#runs;
    const most = edges.length >> 1;
    let n = 1; // the first slot is for the newest
    let found = false;
    for (let i = 0; i < runs.length && (n < most || !found); ) {
      const from = runs[i].seq;
      let to = from;
      for (; i < runs.length && seqDiff(runs[i].seq, to) <= 0; i++) {
        const end = seqAdd(runs[i].seq, runs[i].chunk.end - runs[i].chunk.start);
        if (seqDiff(end, to) > 0) to = end;
      }
      const newest = !found && seqDiff(this.#newest, from) >= 0 && seqDiff(this.#newest, to) < 0;
      const slot = newest ? 0 : n;
      if (newest) found = true;
      else if (n === most) continue;
      else n++;
      edges[2 * slot] = from;
      edges[2 * slot + 1] = to;
    }
    if (found) return n;
    // the latest arrival was not kept, or was already taken
    edges.copyWithin(0, 2, 2 * n);
    return n - 1;
  }

  /** Removes the run that continues at `next`: sets `at` and returns its bytes, 0 when there is none. */
  take(next: number): number {
    this.#release();
    for (;;) {
      const first = this.#runs[0];
      if (!first || seqDiff(first.seq, next) > 0) return 0;
      this.#runs.shift();
      this.#spent = first.chunk;
      const skip = seqDiff(next, first.seq);
      this.at = first.chunk.start + skip;
      if (this.at < first.chunk.end) return first.chunk.end - this.at;
      this.#release();
    }
  }

  /** Returns the chunk of the last `take` to the pool. */
  #release(): void {
    const chunk = this.#spent;
    this.#spent = null;
    if (!chunk) return;
    this.#held -= chunk.size;
    this.#account.held -= chunk.size;
    this.#pool.give(chunk);
  }

  clear(): void {
    for (this.#release(); this.#runs.length > 0; this.#release()) this.#spent = this.#runs.pop()!.chunk;
  }
}
