/**
 * Queue of bytes to a socket: a ring in packet memory in which every piece is contiguous.
 *
 * Theory of operation: `reserve` returns room for a piece, `commit` keeps its first bytes. `next` returns the longest
 * contiguous piece that was not handed out yet, and `done` frees everything handed out. A piece that does not fit
 * before the ring's end starts at its beginning. An empty ring restarts at its beginning, so that a port that keeps up
 * touches little of its memory. The queue's owner and others are accounted separately, so that each can have its share.
 *
 * Limits: if there is no room, `reserve` returns -1, and the caller drops the frame.
 */
export class FrameQueue {
  readonly #base: number;
  readonly #size: number;
  /** Start of the next piece to reserve, of the next to hand out, and of the oldest that is not done. */
  #head = 0;
  #sent = 0;
  #tail = 0;
  /** End of the bytes before the ring's end while the head is before the tail; else -1. */
  #wrap = -1;
  #reservedAt = -1;
  /** The owner's bytes: handed out, not handed out before `#wrap`, and the rest. */
  #ownOut = 0;
  #ownBefore = 0;
  #ownAfter = 0;

  constructor(base: number, size: number) {
    this.#base = base;
    this.#size = size;
  }

  /** Bytes in the queue. */
  get used(): number {
    return this.#wrap < 0 ? this.#head - this.#tail : this.#wrap - this.#tail + this.#head;
  }

  /** The owner's bytes in the queue. */
  get own(): number {
    return this.#ownOut + this.#ownBefore + this.#ownAfter;
  }

  /** Offset of the last `reserve`. */
  get lastReserved(): number {
    return this.#base + this.#reservedAt;
  }

  /** The largest piece that `reserve` can return. */
  room(): number {
    return this.#wrap < 0 ? Math.max(this.#size - this.#head, this.#tail - 1) : this.#tail - this.#head - 1;
  }

  /** Offset for a piece of `bytes`, valid until `commit` or the next `reserve`; -1 when there is no room. */
  reserve(bytes: number): number {
    if (this.#wrap < 0) {
      if (this.#size - this.#head >= bytes) this.#reservedAt = this.#head;
      else if (this.#tail > bytes) this.#reservedAt = 0;
      else return -1;
    } else if (this.#tail - this.#head > bytes) this.#reservedAt = this.#head;
    else return -1;
    return this.#base + this.#reservedAt;
  }

  commit(bytes: number, own: boolean): void {
    if (bytes === 0) return;
    if (this.#reservedAt === 0 && this.#head !== 0) {
      this.#wrap = this.#head;
      this.#ownBefore = this.#ownAfter;
      this.#ownAfter = 0;
    }
    this.#head = this.#reservedAt + bytes;
    if (own) this.#ownAfter += bytes;
  }

  /** Calls `take` with offset and length of the next piece to send; false when there is none. */
  next(take: (offset: number, length: number) => void): boolean {
    if (this.#wrap >= 0 && this.#sent >= this.#tail) {
      const from = this.#sent;
      if (from < this.#wrap) {
        this.#sent = this.#wrap;
        this.#ownOut += this.#ownBefore;
        this.#ownBefore = 0;
        take(this.#base + from, this.#wrap - from);
        return true;
      }
      this.#sent = 0;
    }
    if (this.#sent === this.#head) return false;
    const from = this.#sent;
    this.#sent = this.#head;
    this.#ownOut += this.#ownAfter;
    this.#ownAfter = 0;
    take(this.#base + from, this.#head - from);
    return true;
  }

  /** Everything that `next` returned was sent. */
  done(): void {
    this.#ownOut = 0;
    if (this.#wrap >= 0 && (this.#sent < this.#tail || this.#sent === this.#wrap)) {
      if (this.#sent === this.#wrap) this.#sent = 0;
      this.#wrap = -1;
    }
    this.#tail = this.#sent;
    if (this.#tail === this.#head && this.#wrap < 0) this.#head = this.#tail = this.#sent = 0;
  }

  /** Discards everything: the socket was closed. */
  clear(): void {
    this.#head = this.#sent = this.#tail = 0;
    this.#ownOut = this.#ownBefore = this.#ownAfter = 0;
    this.#wrap = -1;
  }
}
