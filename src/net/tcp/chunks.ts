/**
 * Chunks of packet memory that hold payload until it is acknowledged.
 *
 * Theory of operation. Chunks have two sizes: large ones, into which host sockets read directly, and small ones for
 * short reads. Both are cut from slabs that are allocated on demand and never freed. A chunk has one owner at a time.
 *
 * Limits. The pool never takes more than `limit` bytes of packet memory. `take` then returns null, and the owner stops
 * reading until a chunk is returned.
 */
import type { PacketMemory } from '../memory/packet-memory.ts';

export const LARGE_CHUNK = 65536;
export const SMALL_CHUNK = 4096;
const SLAB = 1 << 20;

/** A range of packet memory, and the part of it that holds payload. */
export class Chunk {
  readonly at: number;
  readonly size: number;
  /** First unacknowledged byte, and the end of the payload: offsets in packet memory. */
  start: number;
  end: number;
  /** A host socket may write behind `end` at any time: the chunk must not be returned to the pool. */
  reading = false;
  #view: Buffer | null = null;

  constructor(at: number, size: number) {
    this.at = at;
    this.size = size;
    this.start = at;
    this.end = at;
  }

  /** Bytes free behind the payload. */
  get free(): number {
    return this.at + this.size - this.end;
  }

  /** The whole chunk, for node:net. */
  view(memory: PacketMemory): Buffer {
    this.#view ??= memory.buffer(this.at, this.size);
    return this.#view;
  }
}

export class ChunkPool {
  readonly memory: PacketMemory;
  readonly #limit: number;
  readonly #large: Chunk[] = [];
  readonly #small: Chunk[] = [];
  #taken = 0;

  constructor(memory: PacketMemory, limit: number) {
    this.memory = memory;
    this.#limit = limit;
  }

  /**
   * A chunk for `bytes` (at most `LARGE_CHUNK`), or null when there is none. Falls back to a large chunk when no small
   * one is left.
   */
  take(bytes: number): Chunk | null {
    const size = bytes > SMALL_CHUNK ? LARGE_CHUNK : SMALL_CHUNK;
    const pool = size === LARGE_CHUNK ? this.#large : this.#small;
    const chunk = pool.pop();
    if (chunk) return chunk;
    if (this.#taken + SLAB > this.#limit || !this.memory.has(SLAB + 64)) return this.#large.pop() ?? null;
    this.#taken += SLAB;
    const slab = this.memory.alloc(SLAB);
    for (let at = slab + SLAB - size; at > slab; at -= size) pool.push(new Chunk(at, size));
    return new Chunk(slab, size);
  }

  give(chunk: Chunk): void {
    chunk.start = chunk.end = chunk.at;
    chunk.reading = false;
    (chunk.size === LARGE_CHUNK ? this.#large : this.#small).push(chunk);
  }

  /** Bytes that can still be taken as large chunks. */
  get free(): number {
    return this.#limit - this.#taken + this.#large.length * LARGE_CHUNK;
  }

  /** Packet memory of the pool, bytes. */
  get bytes(): number {
    return this.#taken;
  }
}
