/**
 * Payload of the guest that came before what goes before it.
 *
 * Theory of operation. Runs of bytes in chunks of packet memory, sorted by sequence number. A run that goes on where
 * another ends is put behind it. Overlaps are kept, and trimmed when they are taken.
 *
 * Limits. A flow keeps MAX_BYTES in MAX_RUNS runs at most; what is beyond is dropped, and the guest sends it again.
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
  /** Where what came last began. */
  #newest = 0;
  /** Result of `take`: where the bytes are in packet memory, good until the next call. */
  at = 0;
  #spent: Chunk | null = null;

  constructor(pool: ChunkPool, account: { held: number }) {
    this.#pool = pool;
    this.#account = account;
  }

  /** Keeps a copy of [at, at + length), whose first byte is `seq`. False when it, or a part of it, was not kept. */
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
   * The stretches without gaps that are kept, as a selective acknowledgement tells them: the one that grew last, then
   * the others from the oldest on. Writes their first sequence numbers and those after their last ones into `edges`, as
   * many as fit; returns how many stretches.
   */
  stretches(edges: Int32Array): number {
    const runs = this.#runs;
    const most = edges.length >> 1;
    let n = 1; // the first place is for the newest
    let found = false;
    for (let i = 0; i < runs.length && (n < most || !found); ) {
      const from = runs[i].seq;
      let to = from;
      for (; i < runs.length && seqDiff(runs[i].seq, to) <= 0; i++) {
        const end = seqAdd(runs[i].seq, runs[i].chunk.end - runs[i].chunk.start);
        if (seqDiff(end, to) > 0) to = end;
      }
      const newest = !found && seqDiff(this.#newest, from) >= 0 && seqDiff(this.#newest, to) < 0;
      const place = newest ? 0 : n;
      if (newest) found = true;
      else if (n === most) continue;
      else n++;
      edges[2 * place] = from;
      edges[2 * place + 1] = to;
    }
    if (found) return n;
    // what came last was not kept, or has been taken
    edges.copyWithin(0, 2, 2 * n);
    return n - 1;
  }

  /** Takes out the run that goes on at `next`: sets `at` and returns its bytes; 0 when there is none. */
  take(next: number): number {
    this.#settle();
    for (;;) {
      const first = this.#runs[0];
      if (!first || seqDiff(first.seq, next) > 0) return 0;
      this.#runs.shift();
      this.#spent = first.chunk;
      const skip = seqDiff(next, first.seq);
      this.at = first.chunk.start + skip;
      if (this.at < first.chunk.end) return first.chunk.end - this.at;
      this.#settle();
    }
  }

  /** Gives back what the last `take` handed out. */
  #settle(): void {
    const chunk = this.#spent;
    this.#spent = null;
    if (!chunk) return;
    this.#held -= chunk.size;
    this.#account.held -= chunk.size;
    this.#pool.give(chunk);
  }

  clear(): void {
    for (this.#settle(); this.#runs.length > 0; this.#settle()) this.#spent = this.#runs.pop()!.chunk;
  }
}
