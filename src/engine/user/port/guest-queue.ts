/**
 * What is on its way to one guest.
 *
 * Theory of operation. A run of another guest's frames is written from where it lies, if the stream is idle; what
 * cannot be written at once, and what the gateway says, waits in a queue and leaves at the end of the turn, in one
 * write. Memory under a write that the kernel has not finished is pinned; where too many buffers are pinned already,
 * bytes are copied. In the queue the gateway and the other guests have a share each, so that neither keeps the other
 * out. Other guests are held back for a moment when theirs is full; if it still is after 100 ms, they go on, and what
 * they send beyond it is dropped as `queue_full` until the receiver has caught up. For such a slow receiver their share
 * is small, and the kernel's buffer too, until it has taken 128 MiB in a second: what waits is taken in milliseconds,
 * so that a guest that is flooded still hears the gateway. QEMU keeps any number of frames that its guest does not
 * take: after each that is taken it reads up to 68 KiB again. That is 45 frames of 1514 bytes, of which a guest takes
 * as many at once, but up to a thousand smaller ones; so while there are many of those the kernel is given a few dozen
 * at a time, and what the guest does not take waits here, where it is bounded.
 *
 * Limits: at most 1.5 MiB is queued.
 */
import { setSendBuffer } from '../../../host/ffi/sockets.ts';
import { AnkaError } from '../../../lib/errors.ts';
import type { DropCounts } from '../../../net/drop-reasons.ts';
import { FrameQueue } from '../../../net/memory/frame-queue.ts';
import type { SwitchPort } from '../../../net/switch/switch.ts';
import { get32 } from '../../../wire/bytes.ts';
import type { HostStream } from '../sockets/host-stream.ts';
import { MAX_FRAME, type PortMemory, QUEUE_SIZE, READ_SIZE, type ReadBuffer } from './port-memory.ts';

/** Bytes that the gateway may queue of payload; that it, and that the other guests may queue of all. */
const PAYLOAD = 512 << 10;
const SHARE = 768 << 10;
/**
 * Bytes of other guests in the queue above which they are held back, and those for a slow receiver; a quarter is when
 * they go on.
 */
const HIGH_WATER = 512 << 10;
const SLOW_HIGH_WATER = 128 << 10;
/** Room for a frame without payload. */
const TOLD = 128;
const DEAF_AFTER_MS = 100;
/** What the kernel holds for a guest, bytes; it doubles that. What lies in there is before all that we might say. */
const SEND_BUFFER = { fast: 4 << 20, slow: 64 << 10, small: 2304 } as const;
/** A slow receiver is one until it takes so many bytes in a second. */
const FAST = 128 << 20;
/**
 * Frames that are shorter than this on an average, bytes, are small ones; they are many when more than these come in a
 * time, ms, and until there are fewer than that in a second.
 */
const SMALL = 1200;
const MANY_SMALL = 1000;
const MANY_SMALL_MS = 50;
const FEW_SMALL = 10_000;

/** Another guest's port, whose frames are forwarded. */
export interface Sender extends SwitchPort {
  /** Its run lies in it. */
  readonly reading: ReadBuffer;
  /** Reads from its guest no more until `release`, once for each call. */
  hold(): void;
  release(): void;
}

/** The port whose guest the frames are for. */
export interface Receiver {
  readonly drops: DropCounts;
  /** Whether frames go to it as they are: nothing is translated, and no capture sees them. */
  readonly plain: boolean;
  /** Translates the frames in [start, end), and shows them to captures. */
  translate(start: number, end: number): void;
  /** The gateway was told that there is no room, and there is again. */
  onRoom(): void;
}

export class GuestQueue {
  /** To the guest. */
  readonly counts = { packets: 0, bytes: 0 };
  readonly #receiver: Receiver;
  readonly #memory: PortMemory;
  readonly #at: number;
  readonly #queue: FrameQueue;
  #stream: HostStream | null = null;
  /** A write that the kernel has not finished; memory that it reads from, where that is not the queue's. */
  #writing = false;
  #pinned: ReadBuffer | null = null;
  #flushPlanned = false;
  /** The gateway was told that there is no room. */
  #starved = false;
  /** The last `reserve` found no room. */
  #spilling = false;
  readonly #held = new Set<Sender>();
  #deaf = false;
  #deafTimer: NodeJS.Timeout | null = null;
  /** How much the kernel is given at a time. */
  #pace: keyof typeof SEND_BUFFER = 'fast';
  #paceTimer: NodeJS.Timeout | null = null;
  /** Small frames since then, ms. */
  #small = 0;
  #smallSince = 0;

  constructor(receiver: Receiver, memory: PortMemory) {
    this.#receiver = receiver;
    this.#memory = memory;
    this.#at = memory.takeQueue();
    this.#queue = new FrameQueue(this.#at, QUEUE_SIZE);
  }

  /** The guest's stream has come. */
  open(stream: HostStream): void {
    this.#stream = stream;
    setSendBuffer(stream.fd, SEND_BUFFER.fast);
  }

  /** It is gone: so is all that waits. */
  clear(): void {
    this.#setPace('fast');
    this.#stream = null;
    this.#writing = false;
    this.#unpin();
    this.#queue.clear();
    this.#letGo();
  }

  /** Its memory serves another. */
  free(): void {
    this.#memory.giveQueue(this.#at);
  }

  // ---- the gateway's

  /** As `GuestPort` has it. */
  room(): number {
    if (!this.#stream) return 0;
    const room = Math.min(this.#queue.room(), PAYLOAD - this.#queue.own);
    if (room >= MAX_FRAME + 4) return room;
    this.#starved = true;
    return 0;
  }

  canSendControl(): boolean {
    if (!this.#stream) return false;
    if (Math.min(this.#queue.room(), SHARE - this.#queue.own) >= TOLD) return true;
    this.#starved = true;
    return false;
  }

  /**
   * For who asked for `room` before; what goes beyond it is written to a place from which it is dropped. At most 256
   * KiB then.
   */
  reserve(bytes: number): number {
    const at = this.tryReserve(bytes);
    this.#spilling = at < 0;
    if (at < 0 && bytes > READ_SIZE) throw new AnkaError('internal', `no room for ${bytes} bytes to a guest`);
    return at < 0 ? this.#memory.spillAt() : at;
  }

  /** As `reserve`, but gives -1 when there is no room. */
  tryReserve(bytes: number): number {
    this.#spilling = false;
    return this.#stream && this.#queue.own + bytes <= SHARE ? this.#queue.reserve(bytes) : -1;
  }

  commit(bytes: number): void {
    if (bytes === 0) return;
    if (this.#spilling) this.#receiver.drops.add('queue_full', this.#framesIn(this.#memory.spillAt(), this.#memory.spillAt() + bytes));
    else this.#enqueue(bytes, true);
  }

  /** Writes what was committed, without waiting for the end of the turn. */
  flushPlanned(): void {
    if (this.#flushPlanned) this.#flush();
  }

  // ---- other guests'

  /** A run of another guest's frames. */
  forward(start: number, end: number, from: Sender): void {
    if (!this.#stream) return;
    this.#flush();
    if (!this.#writing && this.#queue.used === 0 && this.#receiver.plain && this.#memory.mayPin) {
      this.#count(start, end);
      if (this.#write(start, end - start)) return;
      this.#pinned = from.reading;
      this.#memory.pin(from.reading);
      return;
    }
    const length = end - start;
    const at = this.#deaf || this.#others + length > SHARE ? -1 : this.#queue.reserve(length);
    if (at < 0) this.#copyWhatFits(start, end, from);
    else {
      this.#memory.mem.u8.copyWithin(at, start, end);
      this.#enqueue(length, false);
    }
    if (this.#others > this.#highWater && !this.#deaf) this.#holdBack(from);
  }

  #copyWhatFits(start: number, end: number, from: Sender): void {
    const b = this.#memory.mem.u8;
    const most = this.#deaf ? this.#highWater : SHARE;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      const at = this.#others + next - p > most ? -1 : this.#queue.reserve(next - p);
      if (at < 0) from.drops.add('queue_full');
      else {
        b.copyWithin(at, p, next);
        this.#enqueue(next - p, false);
      }
      p = next;
    }
  }

  /** Bytes of other guests in the queue. */
  get #others(): number {
    return this.#queue.used - this.#queue.own;
  }

  get #highWater(): number {
    return this.#pace === 'fast' ? HIGH_WATER : SLOW_HIGH_WATER;
  }

  /** The receiver is behind: its sender waits, but not for ever. */
  #holdBack(from: Sender): void {
    if (this.#held.has(from)) return;
    this.#held.add(from);
    from.hold();
    this.#deafTimer ??= setTimeout(() => {
      this.#letGo();
      this.#deaf = true;
      if (this.#pace === 'fast') this.#setPace('slow');
    }, DEAF_AFTER_MS);
  }

  #letGo(): void {
    if (this.#deafTimer) clearTimeout(this.#deafTimer);
    this.#deafTimer = null;
    this.#deaf = false;
    for (const p of this.#held) p.release();
    this.#held.clear();
  }

  /** Has the kernel hold so much for the guest, until there is no reason for it any more. */
  #setPace(pace: keyof typeof SEND_BUFFER): void {
    if (!this.#stream || pace === this.#pace) return;
    this.#pace = pace;
    setSendBuffer(this.#stream.fd, SEND_BUFFER[pace]);
    if (this.#paceTimer) clearInterval(this.#paceTimer);
    this.#paceTimer = null;
    if (pace === 'fast') return;
    let before = this.counts.bytes;
    this.#paceTimer = setInterval(() => {
      const took = this.counts.bytes - before;
      before += took;
      const small = this.#small;
      this.#small = 0;
      if (pace === 'slow' ? took >= FAST : small < FEW_SMALL) this.#setPace('fast');
    }, 1000);
  }

  /** Many small frames are given to the kernel a few at a time. */
  #noteSmall(frames: number): void {
    const now = performance.now();
    if (this.#pace !== 'small' && now - this.#smallSince > MANY_SMALL_MS) {
      this.#smallSince = now;
      this.#small = 0;
    }
    this.#small += frames;
    if (this.#small > MANY_SMALL) this.#setPace('small');
  }

  // ---- to the stream

  /** What was reserved last. `own`: the gateway's. */
  #enqueue(bytes: number, own: boolean): void {
    const at = this.#queue.lastReserved;
    this.#queue.commit(bytes, own);
    this.#count(at, at + bytes);
    if (!this.#receiver.plain) this.#receiver.translate(at, at + bytes);
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    setImmediate(() => {
      this.#flushPlanned = false;
      this.#flush();
    });
  }

  #framesIn(start: number, end: number): number {
    const b = this.#memory.mem.u8;
    let frames = 0;
    for (let p = start; p < end; p += 4 + get32(b, p)) frames++;
    return frames;
  }

  #count(start: number, end: number): void {
    const frames = this.#framesIn(start, end);
    this.counts.packets += frames;
    this.counts.bytes += end - start - 4 * frames;
    if (end - start < SMALL * frames) this.#noteSmall(frames);
  }

  /** Writes; true when the kernel took all of it at once. */
  #write(at: number, length: number): boolean {
    const stream = this.#stream as HostStream;
    stream.write(this.#memory.mem.buffer(at, length));
    this.#writing = stream.queued > 0;
    return !this.#writing;
  }

  #flush(): void {
    while (this.#stream && !this.#writing && this.#queue.next((at, length) => this.#write(at, length))) {
      if (!this.#writing) this.#queue.done();
    }
    if ((this.#held.size > 0 || this.#deaf) && this.#others <= this.#highWater / 4) this.#letGo();
    if (!this.#starved || !this.#stream || this.#queue.own > PAYLOAD / 4) return;
    this.#starved = false;
    this.#receiver.onRoom();
  }

  /** The oldest of the writes that the kernel had not finished is finished. */
  onWritten(): void {
    if (!this.#writing || (this.#stream?.queued ?? 0) > 0) return;
    this.#writing = false;
    if (this.#pinned) this.#unpin();
    else this.#queue.done();
    this.#flush();
  }

  #unpin(): void {
    const pinned = this.#pinned;
    this.#pinned = null;
    if (pinned) this.#memory.unpin(pinned);
  }
}
