/**
 * Packet memory of a network process's ports: read buffers and queues. A detached port's buffers are reused, as packet
 * memory is never freed. Limits: at most 256 buffers are pinned (80 MiB).
 */
import type { PacketMemory } from '../../../net/memory/packet-memory.ts';

/** Bytes of the longest frame, in either direction. */
export const MAX_FRAME = 65_600;
/** Bytes before each read: room for an unfinished frame and its length. */
const TAIL_ROOM = 65_664;
/** Bytes of one read, and of a queue. */
export const READ_SIZE = 256 << 10;
export const QUEUE_SIZE = 1536 << 10;
const MAX_PINNED = 256;

/** A read buffer. Pinned while a write from it is not finished. */
export class ReadBuffer {
  readonly at: number;
  readonly view: Buffer;
  pins = 0;
  /** Pins by host sockets of the port that reads into it. */
  kept = 0;
  /** No port reads into it any more; its last `unpin` returns it to the pool. */
  abandoned = false;

  constructor(mem: PacketMemory) {
    this.at = mem.alloc(TAIL_ROOM + READ_SIZE) + TAIL_ROOM;
    this.view = mem.buffer(this.at, READ_SIZE);
  }
}

export class PortMemory {
  readonly mem: PacketMemory;
  readonly #reads: ReadBuffer[] = [];
  readonly #queues: number[] = [];
  #spill = 0;
  #pinned = 0;

  constructor(mem: PacketMemory) {
    this.mem = mem;
  }

  takeRead(): ReadBuffer {
    return this.#reads.pop() ?? new ReadBuffer(this.mem);
  }

  giveRead(r: ReadBuffer): void {
    r.abandoned = false;
    this.#reads.push(r);
  }

  takeQueue(): number {
    return this.#queues.pop() ?? this.mem.alloc(QUEUE_SIZE);
  }

  /** A discard area of `READ_SIZE` bytes. */
  spillAt(): number {
    this.#spill ||= this.mem.alloc(READ_SIZE);
    return this.#spill;
  }

  giveQueue(at: number): void {
    this.#queues.push(at);
  }

  /** True while one more buffer may be pinned. */
  get mayPin(): boolean {
    return this.#pinned < MAX_PINNED;
  }

  pin(r: ReadBuffer): void {
    if (r.pins++ === 0) this.#pinned++;
  }

  unpin(r: ReadBuffer): void {
    if (--r.pins > 0) return;
    this.#pinned--;
    if (r.abandoned) this.giveRead(r);
  }
}
