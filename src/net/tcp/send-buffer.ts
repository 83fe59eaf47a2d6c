/**
 * Payload towards the guest that is not yet acknowledged: a row of chunks, oldest first, without gaps.
 *
 * Theory of operation. A host socket cannot be peeked by Node, so what was read stays here until the guest has
 * acknowledged it. Positions are counted from the oldest byte. `find` tells where a position lies and how far the
 * memory goes on; a cursor makes it cheap at the front of sending, where nearly all calls are.
 */
import { type Chunk, type ChunkPool, LARGE_CHUNK, SMALL_CHUNK } from './chunks.ts';

export class TcpSendBuffer {
  readonly #pool: ChunkPool;
  readonly #account: { held: number };
  readonly #chunks: Chunk[] = [];
  /** Index of the oldest chunk: the array is shortened in bulk. */
  #first = 0;
  #length = 0;
  /** Results of `find`: an offset in packet memory, and the bytes from there. */
  at = 0;
  run = 0;
  #cursor = 0;
  #cursorStart = 0;

  /** `account` counts the bytes of the chunks that are held, all flows of a port together. */
  constructor(pool: ChunkPool, account: { held: number }) {
    this.#pool = pool;
    this.#account = account;
  }

  /** Bytes that wait. */
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

  /** `n` bytes have been written behind the payload of `chunk`, which is the newest one or a new one. */
  grow(chunk: Chunk, n: number): void {
    if (this.#chunks.length === this.#first || this.#chunks[this.#chunks.length - 1] !== chunk) {
      this.#chunks.push(chunk);
      this.#account.held += chunk.size;
    }
    chunk.end += n;
    this.#length += n;
  }

  /**
   * Copies `n` bytes at `from` in packet memory behind the rest. False when the pool has no room for all of them: then
   * nothing was taken.
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

  /** Gives everything back. */
  clear(): void {
    while (this.#first < this.#chunks.length) this.#drop();
    this.#chunks.length = 0;
    this.#first = this.#cursor = this.#cursorStart = this.#length = 0;
  }
}
