/**
 * One card's port: the stream to QEMU, frames in and frames out.
 *
 * Theory of operation: QEMU listens on a unix socket, and each frame on it has four bytes of length before it (big-endian). The port dials it, and dials again
 * every 200 ms while it is gone. What is read lands in packet memory; the unfinished frame at the end is moved to stand before the place of
 * the next read, and the run of whole frames is given to the network in one call. Out: a run from another port is written from where it lies, if the socket is idle;
 * what cannot be written at once, and what the gateway says, waits in a queue and leaves at the end of the turn, in one write. Memory under a write
 * that the kernel has not finished is pinned: the port that read it goes on in another buffer, and where too many are pinned already, bytes are copied. In the queue the gateway and the other guests have a share each, so that
 * neither keeps the other out. Other guests are held back for a moment when theirs is full; if it still is after 100 ms, they go on, and what they send beyond it is dropped as `queue_full` until the receiver has caught up.
 * For such a slow receiver their share is small, and the kernel's buffer too, until it has taken 128 MiB in a second: what waits is taken in milliseconds, so that a guest that is flooded still hears the gateway.
 * A guest that sends more than can be handled in `TURN_MS` waits until the others had their turn: with what is left of a read, as small frames for the gateway cost some microseconds each, and with more reads.
 *
 * Limits: at most 16 buffers are pinned for host sockets of one card, 256 in all (80 MiB); a stream that is no framing (a length below 14 or above 65,600) is closed and dialled again. Out at most 1.5 MiB is queued.
 */
import { createConnection, type Socket } from 'node:net';
import { setSendBuffer } from '../../host/ffi.ts';
import { AnkaError } from '../../lib/errors.ts';
import { DropCounts } from '../../net/drops.ts';
import { FrameQueue } from '../../net/frame-queue.ts';
import type { GuardedCard } from '../../net/guard.ts';
import { translateFromGuest, translateToGuest } from '../../net/mac-map.ts';
import type { GuestPort } from '../../net/nat/tcp-path.ts';
import type { PacketMemory } from '../../net/packet-memory.ts';
import type { SwitchPort } from '../../net/switch.ts';
import { get32, put32 } from '../../wire/bytes.ts';
import { adoptStream } from './handle-stream.ts';
import type { HostStream, StreamEvents } from './host-stream.ts';
import { stayAwake } from './stay-awake.ts';

const REDIAL_MS = 200;
const MAX_FRAME = 65_600;
const MIN_FRAME = 14;
/** Before each read's place: room for an unfinished frame and its length. */
const TAIL_ROOM = 65_664;
const READ_SIZE = 256 << 10;
const QUEUE_SIZE = 1536 << 10;
/** Bytes that the gateway may queue of payload; that it, and that the other guests may queue of all. */
const PAYLOAD = 512 << 10;
const SHARE = 768 << 10;
/** Bytes of other guests in the queue above which they are held back, and those for a slow receiver; a quarter is when they go on. */
const HIGH_WATER = 512 << 10;
const SLOW_HIGH_WATER = 128 << 10;
/** Room for a frame without payload. */
const TOLD = 128;
const DEAF_AFTER_MS = 100;
/** Small frames after which the clock is looked at (a read has few large ones), and how long one guest's are handled while others wait, ms. */
const SLICE = 64;
const SMALL = 512;
const TURN_MS = 1;
/** Read buffers that wait for host sockets of one port, and for all of all ports. */
const MAX_KEPT = 16;
const MAX_PINNED = 256;
/** What the kernel holds for a guest, and for a slow one, until it takes `FAST` in a second, bytes: what lies in there is before all that we might say. */
const SEND_BUFFER = 4 << 20;
const SLOW_SEND_BUFFER = 64 << 10;
const FAST = 128 << 20;

/** A place to read into. Pinned while a write from it is not finished. */
class ReadBuffer {
  readonly at: number;
  readonly view: Buffer;
  pins = 0;
  /** Of those, for host sockets of the port that reads into it. */
  kept = 0;
  /** No port reads into it any more; it goes back to the pool with its last pin. */
  left = false;

  constructor(mem: PacketMemory) {
    this.at = mem.alloc(TAIL_ROOM + READ_SIZE) + TAIL_ROOM;
    this.view = mem.buffer(this.at, READ_SIZE);
  }
}

/** Buffers of ports that are gone serve those that come: packet memory is never given back. */
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
    r.left = false;
    this.#reads.push(r);
  }

  takeQueue(): number {
    return this.#queues.pop() ?? this.mem.alloc(QUEUE_SIZE);
  }

  /** Where bytes go that nobody will see. */
  spillAt(): number {
    this.#spill ||= this.mem.alloc(READ_SIZE);
    return this.#spill;
  }

  giveQueue(at: number): void {
    this.#queues.push(at);
  }

  /** Whether one more buffer may be pinned. */
  get mayPin(): boolean {
    return this.#pinned < MAX_PINNED;
  }

  pin(r: ReadBuffer): void {
    if (r.pins++ === 0) this.#pinned++;
  }

  unpin(r: ReadBuffer): void {
    if (--r.pins > 0) return;
    this.#pinned--;
    if (r.left) this.giveRead(r);
  }
}

/** What a port tells its network. */
export interface PortOwner {
  onRun(port: Port, start: number, end: number): void;
  /** The queue has drained. */
  onRoom(port: Port): void;
  /** The stream came or went. */
  onLink(port: Port): void;
}

export interface PortConfig {
  index: number;
  card: GuardedCard;
  insideMac: number;
  isolated: boolean;
  mtu: number;
  socket: string;
}

/** A frame as a capture sees it. `toGuest`: its direction. */
export type FrameTap = (frame: Uint8Array, toGuest: boolean) => void;

export class Port implements GuestPort, SwitchPort {
  readonly index: number;
  readonly id: string;
  readonly card: GuardedCard;
  readonly insideMac: number;
  readonly socketPath: string;
  readonly drops = new DropCounts();
  guestMac: number;
  isolated: boolean;
  mtu: number;
  connected = false;
  /** From and to the guest. */
  readonly counts = { fromPackets: 0, fromBytes: 0, toPackets: 0, toBytes: 0 };
  /** Captures of what the guest sees, and of what the network sees. */
  readonly taps = { inside: new Set<FrameTap>(), outside: new Set<FrameTap>() };
  /** Called when the card is pulled out for good. */
  readonly onClosed = new Set<() => void>();
  readonly #memory: PortMemory;
  readonly #owner: PortOwner;
  readonly #mapped: boolean;
  readonly #queueAt: number;
  readonly #queue: FrameQueue;
  #read: ReadBuffer;
  /** Bytes of the unfinished frame, which stand just before `#read.at`. */
  #rest = 0;
  /** How long reads have been handled that came right after each other, ms. */
  #busy = 0;
  #outOfTime = false;
  /** While it dials, and then. */
  #dialling: Socket | null = null;
  #stream: HostStream | null = null;
  #redial: NodeJS.Timeout | null = null;
  #closed = false;
  /** A write that the kernel has not finished; memory that it reads from. */
  #writing = false;
  #pinned: ReadBuffer | null = null;
  /** Buffers of this port that wait for host sockets. */
  #kept = 0;
  #flushPlanned = false;
  /** Somebody was told that there is no room. */
  #starved = false;
  /** The last `reserve` found no room. */
  #spilling = false;
  readonly #held = new Set<Port>();
  #holders = 0;
  #deaf = false;
  #deafTimer: NodeJS.Timeout | null = null;
  #slowTimer: NodeJS.Timeout | null = null;

  constructor(config: PortConfig, memory: PortMemory, owner: PortOwner) {
    this.index = config.index;
    this.card = config.card;
    this.id = config.card.id;
    this.guestMac = config.card.mac;
    this.insideMac = config.insideMac;
    this.isolated = config.isolated;
    this.mtu = config.mtu;
    this.socketPath = config.socket;
    this.#mapped = config.insideMac !== config.card.mac;
    this.#memory = memory;
    this.#owner = owner;
    this.#read = memory.takeRead();
    this.#queueAt = memory.takeQueue();
    this.#queue = new FrameQueue(this.#queueAt, QUEUE_SIZE);
    this.#dial();
  }

  close(): void {
    this.#closed = true;
    for (const tell of [...this.onClosed]) tell();
    if (this.#redial) clearTimeout(this.#redial);
    this.#dialling?.removeAllListeners('close').destroy();
    if (this.#stream) this.#hangUp();
    this.#free();
  }

  #free(): void {
    if (this.#read.pins > 0) this.#read.left = true;
    else this.#memory.giveRead(this.#read);
    this.#memory.giveQueue(this.#queueAt);
  }

  #dial(): void {
    const socket = createConnection({ path: this.socketPath });
    this.#dialling = socket;
    socket.on('connect', () => {
      socket.removeAllListeners('close');
      this.#dialling = null;
      this.#stream = adoptStream(this, Port.#events, socket);
      setSendBuffer(this.#stream.fd, SEND_BUFFER);
      this.connected = true;
      this.#owner.onLink(this);
    });
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => this.#onClose());
  }

  static readonly #events: StreamEvents<Port> = {
    readBuffer: (port) => port.#read.view,
    onConnect: () => {}, // it was connected before
    onData: (port, bytes) => port.#onRead(bytes),
    onCopied: () => {}, // nothing was read before
    onEnd: (port) => port.#hangUp(),
    onWritten: (port) => port.#onDrain(),
    onFailed: (port) => port.#onClose(),
    onClosed: (port) => port.#onClose(),
  };

  #hangUp(): void {
    this.#stream?.reset();
    this.#onClose();
  }

  #onClose(): void {
    const was = this.connected;
    this.connected = false;
    this.#dialling = this.#stream = null;
    this.#rest = 0;
    this.#writing = false;
    this.#holders = 0;
    this.#unpin();
    this.#queue.clear();
    this.#letGo();
    this.#speedUp();
    if (!this.#closed) this.#redial = setTimeout(() => this.#dial(), REDIAL_MS);
    if (was) this.#owner.onLink(this);
  }

  // ---- from the guest

  #onRead(n: number): void {
    stayAwake(n);
    // a read that fills its buffer is followed by another in this same turn, up to 32 times
    if (n < READ_SIZE) this.#busy = 0;
    const read = this.#read;
    const end = read.at + n;
    const stopped = this.#handle(read.at - this.#rest, end);
    const late = stopped >= 0 && this.#outOfTime;
    // the stream reads into whatever stands here when this returns, and may be told so at no other time
    if (late || read.pins > 0) {
      this.#read = this.#memory.takeRead();
      read.left = true;
    }
    if (stopped < 0) return;
    if (late) {
      this.#memory.pin(read);
      this.#hold();
      this.#goOnLater(read, stopped, end);
      return;
    }
    this.#keepRest(stopped, end);
    if (n < READ_SIZE) return;
    // the guest would wait for its ACKs meanwhile
    if (this.#flushPlanned) this.#flush();
    if (this.#busy < TURN_MS) return;
    this.#hold();
    this.#goOnLater(null, 0, 0);
  }

  /** Handles the frames in [start, end) of `#read`, or as many as there is time for: then `#outOfTime` is set. Gives where it stopped; -1 when the stream is closed now, as one is that is no framing. */
  #handle(start: number, end: number): number {
    const b = this.#memory.mem.u8;
    const from = performance.now();
    const before = this.#busy;
    this.#outOfTime = false;
    let p = start;
    for (let more = true; more && !this.#outOfTime; ) {
      const begin = p;
      let frames = 0;
      let small = 0;
      more = false;
      while (p + 4 <= end) {
        const length = get32(b, p);
        if (length < MIN_FRAME || length > MAX_FRAME) {
          this.drops.add('malformed');
          this.#hangUp();
          return -1;
        }
        if (p + 4 + length > end) break;
        more = small === SLICE;
        if (more) break;
        if (length < SMALL) small++;
        p += 4 + length;
        frames++;
      }
      if (frames === 0) break;
      this.counts.fromPackets += frames;
      this.counts.fromBytes += p - begin - 4 * frames;
      if (this.#mapped || this.taps.inside.size > 0 || this.taps.outside.size > 0) this.#prepare(begin, p);
      this.#owner.onRun(this, begin, p);
      if (!this.connected) return -1;
      this.#busy = before + performance.now() - from;
      this.#outOfTime = more && this.#busy >= TURN_MS;
    }
    return p;
  }

  /** An unfinished frame is put before the place of the next read. */
  #keepRest(start: number, end: number): void {
    this.#rest = end - start;
    if (this.#rest > 0) this.#memory.mem.u8.copyWithin(this.#read.at - this.#rest, start, end);
  }

  /** Reads no more in this turn of the event loop, and does in the next what is left in [start, end) of a buffer that is pinned for that. */
  #goOnLater(left: ReadBuffer | null, start: number, end: number): void {
    const stream = this.#stream;
    setImmediate(() => {
      this.#busy = 0;
      if (left === null) {
        if (this.#stream === stream) this.#release();
        return;
      }
      let stopped = -1;
      if (stream !== null && this.#stream === stream) {
        const next = this.#read;
        this.#read = left;
        stopped = this.#handle(start, end);
        this.#read = next;
        if (stopped >= 0 && this.#outOfTime) return this.#goOnLater(left, stopped, end);
        if (stopped >= 0) this.#keepRest(stopped, end);
      }
      this.#memory.unpin(left);
      if (stopped >= 0) this.#release();
    });
  }

  /** Translates a run from inside to outside, and shows it to captures. */
  #prepare(start: number, end: number): void {
    const b = this.#memory.mem.u8;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      for (const tap of this.taps.inside) tap(b.subarray(p + 4, next), false);
      if (this.#mapped) translateFromGuest(b, p + 4, next, this.insideMac, this.card.mac);
      for (const tap of this.taps.outside) tap(b.subarray(p + 4, next), false);
      p = next;
    }
  }

  /** Keeps the memory of the run that is being handled until the returned function is called; null when enough is kept. */
  pinRun(): (() => void) | null {
    const read = this.#read;
    if (read.kept === 0 && (this.#kept >= MAX_KEPT || !this.#memory.mayPin)) return null;
    if (read.kept++ === 0) this.#kept++;
    this.#memory.pin(read);
    return () => {
      if (--read.kept === 0) this.#kept--;
      this.#memory.unpin(read);
    };
  }

  /** Shows a frame that was put together as a run of this port's; `pinRun` holds for it too. */
  asRun(frame: Uint8Array, use: (start: number, end: number) => void): void {
    const own = this.#read;
    const r = this.#memory.takeRead();
    put32(this.#memory.mem.u8, r.at, frame.length);
    this.#memory.mem.u8.set(frame, r.at + 4);
    this.#read = r;
    use(r.at, r.at + 4 + frame.length);
    this.#read = own;
    if (r.pins > 0) r.left = true;
    else this.#memory.giveRead(r);
  }

  /** Stops reading from the guest until `release`, once for each call. */
  #hold(): void {
    if (this.#holders++ === 0) this.#stream?.pause();
  }

  #release(): void {
    if (this.#holders > 0 && --this.#holders === 0) this.#stream?.resume();
  }

  // ---- to the guest

  room(): number {
    if (!this.connected) return 0;
    const room = Math.min(this.#queue.room(), PAYLOAD - this.#queue.own);
    if (room >= MAX_FRAME + 4) return room;
    this.#starved = true;
    return 0;
  }

  mayTell(): boolean {
    if (!this.connected) return false;
    if (Math.min(this.#queue.room(), SHARE - this.#queue.own) >= TOLD) return true;
    this.#starved = true;
    return false;
  }

  /** For who asked for `room` before; what goes beyond it is written to a place from which it is dropped. At most 256 KiB then. */
  reserve(bytes: number): number {
    const at = this.tryReserve(bytes);
    this.#spilling = at < 0;
    if (at < 0 && bytes > READ_SIZE) throw new AnkaError('internal', `no room for ${bytes} bytes to a guest`);
    return at < 0 ? this.#memory.spillAt() : at;
  }

  /** As `reserve`, but gives -1 when there is no room. */
  tryReserve(bytes: number): number {
    this.#spilling = false;
    return this.connected && this.#queue.own + bytes <= SHARE ? this.#queue.reserve(bytes) : -1;
  }

  commit(bytes: number): void {
    if (bytes === 0) return;
    if (this.#spilling) this.drops.add('queue_full', this.#framesIn(this.#memory.spillAt(), this.#memory.spillAt() + bytes));
    else this.#enqueue(bytes, true);
  }

  /** What was reserved last. `own`: the gateway's. */
  #enqueue(bytes: number, own: boolean): void {
    const at = this.#queue.lastReserved;
    this.#queue.commit(bytes, own);
    this.#finish(at, at + bytes);
    if (this.#flushPlanned) return;
    this.#flushPlanned = true;
    setImmediate(() => {
      this.#flushPlanned = false;
      this.#flush();
    });
  }

  /** A run of another port's frames. */
  forward(start: number, end: number, from: Port): void {
    if (!this.connected) return;
    this.#flush();
    if (!this.#writing && this.#queue.used === 0 && !this.#mapped && this.taps.inside.size === 0 && this.taps.outside.size === 0 && this.#memory.mayPin) {
      this.#count(start, end);
      if (this.#write(start, end - start)) return;
      this.#pinned = from.#read;
      this.#memory.pin(from.#read);
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

  #copyWhatFits(start: number, end: number, from: Port): void {
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
    return this.#slowTimer === null ? HIGH_WATER : SLOW_HIGH_WATER;
  }

  /** Translates what was just queued, shows it to captures, and counts it. */
  #finish(start: number, end: number): void {
    const b = this.#memory.mem.u8;
    this.#count(start, end);
    if (!this.#mapped && this.taps.inside.size === 0 && this.taps.outside.size === 0) return;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      for (const tap of this.taps.outside) tap(b.subarray(p + 4, next), true);
      if (this.#mapped) translateToGuest(b, p + 4, next, this.insideMac, this.card.mac);
      for (const tap of this.taps.inside) tap(b.subarray(p + 4, next), true);
      p = next;
    }
  }

  #framesIn(start: number, end: number): number {
    const b = this.#memory.mem.u8;
    let frames = 0;
    for (let p = start; p < end; p += 4 + get32(b, p)) frames++;
    return frames;
  }

  #count(start: number, end: number): void {
    const frames = this.#framesIn(start, end);
    this.counts.toPackets += frames;
    this.counts.toBytes += end - start - 4 * frames;
  }

  /** Writes; true when the kernel took all of it at once. */
  #write(at: number, length: number): boolean {
    const stream = this.#stream as HostStream;
    stream.write(this.#memory.mem.buffer(at, length));
    this.#writing = stream.queued > 0;
    return !this.#writing;
  }

  #flush(): void {
    while (this.connected && !this.#writing && this.#queue.next((at, length) => this.#write(at, length))) {
      if (!this.#writing) this.#queue.done();
    }
    if ((this.#held.size > 0 || this.#deaf) && this.#others <= this.#highWater / 4) this.#letGo();
    if (!this.#starved || !this.connected || this.#queue.own > PAYLOAD / 4) return;
    this.#starved = false;
    this.#owner.onRoom(this);
  }

  #onDrain(): void {
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

  /** The receiver is behind: its sender waits, but not for ever. */
  #holdBack(from: Port): void {
    if (this.#held.has(from)) return;
    this.#held.add(from);
    from.#hold();
    this.#deafTimer ??= setTimeout(() => {
      this.#letGo();
      this.#deaf = true;
      this.#slowDown();
    }, DEAF_AFTER_MS);
  }

  /** Has the kernel hold little for the guest, until it is fast. */
  #slowDown(): void {
    if (this.#slowTimer || !this.#stream) return;
    const { fd } = this.#stream;
    setSendBuffer(fd, SLOW_SEND_BUFFER);
    let before = this.counts.toBytes;
    this.#slowTimer = setInterval(() => {
      const took = this.counts.toBytes - before;
      before += took;
      if (took < FAST) return;
      setSendBuffer(fd, SEND_BUFFER);
      this.#speedUp();
    }, 1000);
  }

  #speedUp(): void {
    if (this.#slowTimer) clearInterval(this.#slowTimer);
    this.#slowTimer = null;
  }

  #letGo(): void {
    if (this.#deafTimer) clearTimeout(this.#deafTimer);
    this.#deafTimer = null;
    this.#deaf = false;
    for (const p of this.#held) p.#release();
    this.#held.clear();
  }
}
