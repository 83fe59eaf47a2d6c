/**
 * Unacknowledged payload to the guest: a gapless list of chunks, oldest first.
 *
 * Theory of operation. Node cannot peek a host socket, so payload stays here from the read until the guest acknowledges
 * it. Positions are counted from the oldest byte. `find` locates a position and the contiguous memory from there. A
 * cursor makes it cheap at the position of sending, where nearly all calls are.
 *
 * Limits. Those of the chunk pool.
 */
import { type Chunk, type ChunkPool, LARGE_CHUNK, SMALL_CHUNK } from './chunks.ts';

export class TcpSendBuffer {
  readonly #pool: ChunkPool;
  readonly #account: { held: number };
  readonly #chunks: Chunk[] = [];
  /** Index of the oldest chunk; the array is shortened in bulk. */
  #first = 0;
  #length = 0;
  /** Results of `find`: an offset in packet memory, and the bytes from there. */
  at = 0;
  run = 0;
  #cursor = 0;
  #cursorStart = 0;

  /** `account` counts the bytes of held chunks of all flows of a NIC. */
  constructor(pool: ChunkPool, account: { held: number }) {
    this.#pool = pool;
    this.#account = account;
  }

  /** Unacknowledged bytes. */
  get length(): number {
    return this.#length;
  }

  /** Sets `at` and `run` for the byte at `position`, 0 ≤ position < length. */
  find(position: number): void {
    let i = this.#cursor;
    let start = this.#cursorStart;
    if (position < start || i < this.#first) {
      i = this.#first;
      start = 0;
    }
    for (;;) {
      const c = this.#chunks[i];
      const n = c.end - c.start;
      if (position < start + n) {
        this.at = c.start + position - start;
        this.run = start + n - position;
        break;
      }
      start += n;
      i++;
    }
    this.#cursor = i;
    this.#cursorStart = start;
  }

  /** The first `n` bytes are acknowledged. */
  release(n: number): void {
    this.#length -= n;
    this.#cursorStart -= n;
    while (n > 0) {
      const c = this.#chunks[this.#first];
      const have = c.end - c.start;
      if (have > n) {
        c.start += n;
        break;
      }
      n -= have;
      this.#drop();
    }
    if (this.#cursorStart < 0) {
      this.#cursor = this.#first;
      this.#cursorStart = 0;
    }
    if (this.#first === this.#chunks.length) {
      this.#chunks.length = 0;
      this.#first = this.#cursor = this.#cursorStart = 0;
    } else if (this.#first > 64) {
      this.#chunks.splice(0, this.#first);
      this.#cursor -= this.#first;
      this.#first = 0;
    }
  }

  #drop(): void {
    const c = this.#chunks[this.#first++];
    this.#account.held -= c.size;
    if (c.reading) c.start = c.end;
    else this.#pool.give(c);
  }

  /** `n` bytes were written behind the payload of `chunk`, which is the newest or a new one. */
  grow(chunk: Chunk, n: number): void {
    if (this.#chunks.length === this.#first || this.#chunks[this.#chunks.length - 1] !== chunk) {
      this.#chunks.push(chunk);
      this.#account.held += chunk.size;
    }
    chunk.end += n;
    this.#length += n;
  }

  /**
   * Appends a copy of `n` bytes at `from` in packet memory. False, with nothing appended, when the pool lacks room for
   * all of them.
   */
  append(from: number, n: number): boolean {
    const u8 = this.#pool.memory.u8;
    const last = this.#chunks.length > this.#first ? this.#chunks[this.#chunks.length - 1] : null;
    const tail = last && !last.reading && last.free > 0 ? last : null;
    const here = tail ? Math.min(tail.free, n) : 0;
    const rest = n - here;
    const more: Chunk[] = [];
    for (let left = rest; left > 0; left -= more[more.length - 1].size) {
      const chunk = this.#pool.take(Math.min(left, left > SMALL_CHUNK ? LARGE_CHUNK : SMALL_CHUNK));
      if (!chunk) {
        for (const c of more) this.#pool.give(c);
        return false;
      }
      more.push(chunk);
    }
    if (tail) {
      u8.copyWithin(tail.end, from, from + here);
      this.grow(tail, here);
    }
    let done = here;
    for (const c of more) {
      const part = Math.min(c.size, n - done);
      u8.copyWithin(c.at, from + done, from + done + part);
      this.grow(c, part);
      done += part;
    }
    return true;
  }

  /** Returns everything to the pool. */
  clear(): void {
    while (this.#first < this.#chunks.length) this.#drop();
    this.#chunks.length = 0;
    this.#first = this.#cursor = this.#cursorStart = this.#length = 0;
  }
}
