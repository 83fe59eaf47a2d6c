/**
 * Frames on their way to one guest.
 *
 * Theory of operation: a run of another guest's frames is written from where it lies if the stream is idle. What cannot
 * be written at once, and every frame of the gateway, waits in a queue, which is written once at the end of the turn.
 * Memory under a write that the kernel has not finished is pinned; where too many buffers are pinned, bytes are copied.
 *
 * Fairness: the gateway and the other guests each have a share of the queue, so that neither locks the other out. When
 * the share of the other guests is full, their reading is paused. If it is still full after 100 ms, the receiver counts
 * as stalled: they resume, and frames beyond the share are dropped as `queue_full` until the receiver has caught up.
 * For such a slow receiver the share and the kernel's buffer are small, until it takes 128 MiB in a second. A flooded
 * guest thus still receives the gateway's frames within milliseconds.
 *
 * Small frames: QEMU buffers any number of frames that its guest does not take; after each that the guest takes, QEMU
 * reads up to 68 KiB again. That is 45 frames of 1514 bytes, which a guest takes at once, but up to a thousand small
 * ones. While there are many small frames, the kernel therefore gets only a few dozen at a time; the rest waits here,
 * where the queue is bounded.
 *
 * Limits: at most 1.5 MiB is queued.
 */
import { setSendBuffer } from '../../../host/ffi/sockets.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import { AnkaError } from '../../../lib/errors.ts';
import type { DropCounts } from '../../../net/drop-reasons.ts';
import type { PacketFilter } from '../../../net/filter/packet-filter.ts';
import { FrameQueue } from '../../../net/memory/frame-queue.ts';
import type { SwitchPort } from '../../../net/switch/switch.ts';
import { get32 } from '../../../wire/bytes.ts';
import type { HostStream } from '../sockets/host-stream.ts';
import { MAX_FRAME, type PortMemory, QUEUE_SIZE, READ_SIZE, type ReadBuffer } from './port-memory.ts';

/** Bytes that the gateway may queue of segments with payload. */
const PAYLOAD_SHARE = 512 << 10;
/** Bytes that the gateway may queue in all; the same for the other guests together. */
const SHARE = 768 << 10;
/** Bytes of other guests in the queue above which they are paused; they resume at a quarter of it. */
const HIGH_WATER = 512 << 10;
const SLOW_HIGH_WATER = 128 << 10;
/** Room for a frame without payload, bytes. */
const CONTROL_ROOM = 128;
const STALL_MS = 100;
/** The kernel's send buffer for a guest, bytes; Linux doubles it. Its contents delay every later frame. */
const SEND_BUFFER = { fast: 4 << 20, slow: 64 << 10, small: 2304 } as const;
/** A receiver counts as slow until it takes so many bytes in a second. */
const FAST_BYTES = 128 << 20;
/** Runs whose frames are shorter on average, bytes, count as small frames. */
const SMALL_FRAME = 1200;
/**
 * There are many small frames from so many within so many ms on, until there are fewer than `FEW_SMALL` in a second.
 */
const MANY_SMALL = 1000;
const MANY_SMALL_MS = 50;
const FEW_SMALL = 10_000;

/** Another guest's port, whose frames are forwarded. */
export interface Sender extends SwitchPort {
  /** The buffer that holds its current run. */
  readonly reading: ReadBuffer;
  /** Pauses reading from its guest until `release`; calls are counted. */
  hold(): void;
  release(): void;
}

/** The port whose guest the frames are for. */
export interface Receiver {
  readonly drops: DropCounts;
  /** Of its VM; null = none. */
  readonly filter: PacketFilter | null;
  /** True when frames go to it unchanged: no MAC translation, no capture. */
  readonly plain: boolean;
  /** Translates the frames in [start, end), and passes them to captures. */
  translate(start: number, end: number): void;
  /** After `room` or `mayTell` reported none: there is room again. */
  onRoom(): void;
}

export class GuestQueue {
  /** Frames to the guest, and their bytes. */
  readonly counts = { packets: 0, bytes: 0 };
  readonly #receiver: Receiver;
  readonly #memory: PortMemory;
  readonly #memoryAt: number;
  readonly #queue: FrameQueue;
  #stream: HostStream | null = null;
  /** The kernel has not finished a write. */
  #writing = false;
  /** Memory under that write, where it is not the queue's. */
  #pinned: ReadBuffer | null = null;
  #flushPlanned = false;
  /** The gateway waits for room. */
  #starved = false;
  /** The last `reserve` found no room. */
  #spilling = false;
  readonly #paused = new Set<Sender>();
  #stalled = false;
  #stallTimer: NodeJS.Timeout | null = null;
  /** Selects the size of the kernel's send buffer. */
  #pace: keyof typeof SEND_BUFFER = 'fast';
  #paceTimer: NodeJS.Timeout | null = null;
  #small = 0;
  /** Start of the count of small frames, ms. */
  #smallSince = 0;

  constructor(receiver: Receiver, memory: PortMemory) {
    this.#receiver = receiver;
    this.#memory = memory;
    this.#memoryAt = memory.takeQueue();
    this.#queue = new FrameQueue(this.#memoryAt, QUEUE_SIZE);
  }

  /** The guest's stream is connected. */
  open(stream: HostStream): void {
    this.#stream = stream;
    setSendBuffer(stream.fd, SEND_BUFFER.fast);
  }

  /** The stream was closed: drops everything that waits. */
  clear(): void {
    this.#setPace('fast');
    this.#stream = null;
    this.#writing = false;
    this.#unpin();
    this.#queue.clear();
    this.#resumeSenders();
  }

  /** Returns its memory. */
  free(): void {
    this.#memory.giveQueue(this.#memoryAt);
  }

  // ---- from the gateway

  /** See `SegmentQueue`. */
  room(): number {
    if (!this.#stream) return 0;
    const room = Math.min(this.#queue.room(), PAYLOAD_SHARE - this.#queue.own);
    if (room >= MAX_FRAME + 4) return room;
    this.#starved = true;
    return 0;
  }

  canSendControl(): boolean {
    if (!this.#stream) return false;
    if (Math.min(this.#queue.room(), SHARE - this.#queue.own) >= CONTROL_ROOM) return true;
    this.#starved = true;
    return false;
  }

  /**
   * For callers that asked for `room` before. Without room, the bytes go to a discard area and are dropped; 256 KiB at
   * most.
   */
  reserve(bytes: number): number {
    const at = this.tryReserve(bytes);
    this.#spilling = at < 0;
    if (at < 0 && bytes > READ_SIZE) throw new AnkaError('internal', `no room for ${bytes} bytes to a guest`);
    return at < 0 ? this.#memory.spillAt() : at;
  }

  /** As `reserve`, but returns -1 when there is no room. */
  tryReserve(bytes: number): number {
    this.#spilling = false;
    return this.#stream && this.#queue.own + bytes <= SHARE ? this.#queue.reserve(bytes) : -1;
  }

  commit(bytes: number): void {
    if (bytes === 0) return;
    if (this.#spilling) this.#receiver.drops.add('queue_full', this.#framesIn(this.#memory.spillAt(), this.#memory.spillAt() + bytes));
    else this.#enqueue(this.#filterReserved(bytes), true);
  }

  /** Writes what was committed now, not at the end of the turn. */
  flushPlanned(): void {
    if (this.#flushPlanned) this.#flush();
  }

  // ---- from other guests

  /** A run of another guest's frames. */
  forward(start: number, end: number, from: Sender): void {
    if (!this.#stream) return;
    if (this.#receiver.filter === null) {
      this.#forward(start, end, from);
      return;
    }
    const b = this.#memory.mem.u8;
    const now = monotonicMs();
    let passing = start;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      if (!this.#passes(p + 4, next, now)) {
        if (p > passing) this.#forward(passing, p, from);
        passing = next;
      }
      p = next;
    }
    if (end > passing) this.#forward(passing, end, from);
  }

  #forward(start: number, end: number, from: Sender): void {
    this.#flush();
    if (!this.#writing && this.#queue.used === 0 && this.#receiver.plain && this.#memory.mayPin) {
      this.#count(start, end);
      if (this.#write(start, end - start)) return;
      this.#pinned = from.reading;
      this.#memory.pin(from.reading);
      return;
    }
    const length = end - start;
    const at = this.#stalled || this.#otherBytes + length > SHARE ? -1 : this.#queue.reserve(length);
    if (at < 0) this.#copyWhatFits(start, end, from);
    else {
      this.#memory.mem.u8.copyWithin(at, start, end);
      this.#enqueue(length, false);
    }
    if (this.#otherBytes > this.#highWater && !this.#stalled) this.#pauseSender(from);
  }

  #copyWhatFits(start: number, end: number, from: Sender): void {
    const b = this.#memory.mem.u8;
    const most = this.#stalled ? this.#highWater : SHARE;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      const at = this.#otherBytes + next - p > most ? -1 : this.#queue.reserve(next - p);
      if (at < 0) from.drops.add('queue_full');
      else {
        b.copyWithin(at, p, next);
        this.#enqueue(next - p, false);
      }
      p = next;
    }
  }

  /** Bytes of other guests in the queue. */
  get #otherBytes(): number {
    return this.#queue.used - this.#queue.own;
  }

  get #highWater(): number {
    return this.#pace === 'fast' ? HIGH_WATER : SLOW_HIGH_WATER;
  }

  /** Pauses a sender because the receiver is behind; for `STALL_MS` at most. */
  #pauseSender(from: Sender): void {
    if (this.#paused.has(from)) return;
    this.#paused.add(from);
    from.hold();
    this.#stallTimer ??= setTimeout(() => {
      this.#resumeSenders();
      this.#stalled = true;
      if (this.#pace === 'fast') this.#setPace('slow');
    }, STALL_MS);
  }

  #resumeSenders(): void {
    if (this.#stallTimer) clearTimeout(this.#stallTimer);
    this.#stallTimer = null;
    this.#stalled = false;
    for (const p of this.#paused) p.release();
    this.#paused.clear();
  }

  /** Sets the kernel's buffer, and returns to `fast` when the reason is over. */
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
      if (pace === 'slow' ? took >= FAST_BYTES : small < FEW_SMALL) this.#setPace('fast');
    }, 1000);
  }

  /** Switches to a tiny kernel buffer when there are many small frames. */
  #countSmall(frames: number): void {
    const now = performance.now();
    if (this.#pace !== 'small' && now - this.#smallSince > MANY_SMALL_MS) {
      this.#smallSince = now;
      this.#small = 0;
    }
    this.#small += frames;
    if (this.#small > MANY_SMALL) this.#setPace('small');
  }

  // ---- the VM's filter

  /** Whether the filter lets a frame to the guest through; a drop is counted. */
  #passes(frame: number, end: number, now: number): boolean {
    const drop = this.#receiver.filter?.check(this.#memory.mem.u8, frame, end, false, now) ?? null;
    if (drop !== null) this.#receiver.drops.add(drop);
    return drop === null;
  }

  /** Removes from what was reserved last the frames that the filter drops. Returns the bytes that are left. */
  #filterReserved(bytes: number): number {
    if (this.#receiver.filter === null) return bytes;
    const b = this.#memory.mem.u8;
    const start = this.#queue.lastReserved;
    const now = monotonicMs();
    let kept = start;
    for (let p = start; p < start + bytes; ) {
      const next = p + 4 + get32(b, p);
      if (this.#passes(p + 4, next, now)) {
        if (kept < p) b.copyWithin(kept, p, next);
        kept += next - p;
      }
      p = next;
    }
    return kept - start;
  }

  // ---- to the stream

  /** Queues what was reserved last. */
  #enqueue(bytes: number, fromGateway: boolean): void {
    if (bytes === 0) return;
    const at = this.#queue.lastReserved;
    this.#queue.commit(bytes, fromGateway);
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
    if (end - start < SMALL_FRAME * frames) this.#countSmall(frames);
  }

  /** Returns true when the kernel took everything at once. */
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
    if ((this.#paused.size > 0 || this.#stalled) && this.#otherBytes <= this.#highWater / 4) this.#resumeSenders();
    if (!this.#starved || !this.#stream || this.#queue.own > PAYLOAD_SHARE / 4) return;
    this.#starved = false;
    this.#receiver.onRoom();
  }

  /** The kernel has finished the oldest pending write. */
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
