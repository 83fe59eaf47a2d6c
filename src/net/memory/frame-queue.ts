/**
 * Bytes on their way to a socket: a ring in packet memory, in which every piece is contiguous.
 *
 * Theory of operation: `reserve` gives room for a piece, `commit` keeps its first bytes; `next` gives the longest
 * contiguous piece that was not handed out yet, and `done` frees all that was. A piece that does not fit before the
 * ring's end begins at its start. When all is done the ring starts again at its beginning, so that a port that keeps up
 * uses little of the memory that it has. Pieces are of two kinds, so that each can have its share: those of the queue's
 * owner, and others'.
 *
 * Limits: what does not fit has no place: `reserve` gives -1, and the caller drops the frame by name.
 */
export class FrameQueue {
  readonly #base: number;
  readonly #size: number;
  /** Where the next piece goes; where the next piece to hand out begins; where the oldest piece not done begins. */
  #head = 0;
  #sent = 0;
  #tail = 0;
  /** Where the bytes end before the ring's end, while the head is before the tail; -1 = it is not. */
  #wrap = -1;
  #reservedAt = -1;
  /** The owner's bytes: of what was handed out, of what was not and lies before `#wrap`, and of the rest. */
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

  /** Of those, the owner's. */
  get own(): number {
    return this.#ownOut + this.#ownBefore + this.#ownAfter;
  }

  /** Offset of the last `reserve`. */
  get lastReserved(): number {
    return this.#base + this.#reservedAt;
  }

  /** The largest piece that `reserve` would have room for. */
  room(): number {
    return this.#wrap < 0 ? Math.max(this.#size - this.#head, this.#tail - 1) : this.#tail - this.#head - 1;
  }

  /** Offset for a piece of that many bytes, valid until `commit` or the next `reserve`; -1 when there is no room. */
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

  /** Offset and length of the next piece to send go to `take`; false when there is none. */
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

  /** Everything that `next` gave has been sent. */
  done(): void {
    this.#ownOut = 0;
    if (this.#wrap >= 0 && (this.#sent < this.#tail || this.#sent === this.#wrap)) {
      if (this.#sent === this.#wrap) this.#sent = 0;
      this.#wrap = -1;
    }
    this.#tail = this.#sent;
    if (this.#tail === this.#head && this.#wrap < 0) this.#head = this.#tail = this.#sent = 0;
  }

  /** Forgets all: the socket is gone. */
  clear(): void {
    this.#head = this.#sent = this.#tail = 0;
    this.#ownOut = this.#ownBefore = this.#ownAfter = 0;
    this.#wrap = -1;
  }
}
