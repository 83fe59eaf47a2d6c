/**
 * One card's port: the stream to QEMU, frames in and frames out.
 *
 * Theory of operation: QEMU listens on a unix socket, and each frame on it has four bytes of length before it
 * (big-endian). The port dials it, and dials again every 50 ms while it is gone. What is read lands in packet memory;
 * the unfinished frame at the end is moved to stand before the place of the next read, and the run of whole frames is
 * given to the network in one call. While somebody still writes from the memory of a run, it is pinned, and the port
 * reads into another buffer. A guest that sends more than can be handled in `TURN_MS` waits until the others had their
 * turn: with what is left of a read, as small frames for the gateway cost some microseconds each, and with more reads.
 * What goes to the guest is guest-queue.ts.
 *
 * Limits: at most 16 buffers are pinned for host sockets of one card; a stream that is no framing (a length below 14 or
 * above 65,600) is closed and dialled again.
 */
import { createConnection, type Socket } from 'node:net';
import { DropCounts } from '../../../net/drop-reasons.ts';
import type { GuardedCard } from '../../../net/switch/guard.ts';
import { translateFromGuest, translateToGuest } from '../../../net/switch/mac-translation.ts';
import type { SwitchPort } from '../../../net/switch/switch.ts';
import type { GuestPort } from '../../../net/tcp/interface.ts';
import { get32, put32 } from '../../../wire/bytes.ts';
import { adoptStream } from '../sockets/handle-stream.ts';
import type { HostStream, StreamEvents } from '../sockets/host-stream.ts';
import { GuestQueue, type Receiver, type Sender } from './guest-queue.ts';
import { MAX_FRAME, type PortMemory, READ_SIZE, type ReadBuffer } from './port-memory.ts';
import { stayAwake } from './stay-awake.ts';

const REDIAL_MS = 50;
const MIN_FRAME = 14;
/**
 * Small frames after which the clock is looked at (a read has few large ones), and how long one guest's are handled
 * while others wait, ms.
 */
const SLICE = 64;
const SMALL = 512;
const TURN_MS = 1;
/** Read buffers that wait for host sockets. */
const MAX_KEPT = 16;

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

export class Port implements GuestPort, SwitchPort, Sender, Receiver {
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
  readonly fromGuest = { packets: 0, bytes: 0 };
  /** Captures of what the guest sees, and of what the network sees. */
  readonly taps = { inside: new Set<FrameTap>(), outside: new Set<FrameTap>() };
  /** Called when the card is pulled out for good. */
  readonly onClosed = new Set<() => void>();
  readonly #memory: PortMemory;
  readonly #owner: PortOwner;
  readonly #mapped: boolean;
  /** Frames to the guest. */
  readonly queue: GuestQueue;
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
  /** Buffers of this port that wait for host sockets. */
  #kept = 0;
  #holders = 0;

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
    this.queue = new GuestQueue(this, memory);
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
    this.queue.free();
  }

  #dial(): void {
    const socket = createConnection({ path: this.socketPath });
    this.#dialling = socket;
    socket.on('connect', () => {
      socket.removeAllListeners('close');
      this.#dialling = null;
      this.#stream = adoptStream(this, Port.#events, socket);
      this.queue.open(this.#stream);
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
    onWritten: (port) => port.queue.onWritten(),
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
    this.#holders = 0;
    this.queue.clear();
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
      this.hold();
      this.#goOnLater(read, stopped, end);
      return;
    }
    this.#keepRest(stopped, end);
    if (n < READ_SIZE) return;
    // the guest would wait for its ACKs meanwhile
    this.queue.flushPlanned();
    if (this.#busy < TURN_MS) return;
    this.hold();
    this.#goOnLater(null, 0, 0);
  }

  /**
   * Handles the frames in [start, end) of `#read`, or as many as there is time for: then `#outOfTime` is set. Gives
   * where it stopped; -1 when the stream is closed now, as one is that is no framing.
   */
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
      this.fromGuest.packets += frames;
      this.fromGuest.bytes += p - begin - 4 * frames;
      if (!this.plain) this.#prepare(begin, p);
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

  /**
   * Reads no more in this turn of the event loop, and does in the next what is left in [start, end) of a buffer that is
   * pinned for that.
   */
  #goOnLater(left: ReadBuffer | null, start: number, end: number): void {
    const stream = this.#stream;
    setImmediate(() => {
      this.#busy = 0;
      if (left === null) {
        if (this.#stream === stream) this.release();
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
      if (stopped >= 0) this.release();
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

  /**
   * Keeps the memory of the run that is being handled until the returned function is called; null when enough is kept.
   */
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

  /** Its run lies in it, while it is handled. */
  get reading(): ReadBuffer {
    return this.#read;
  }

  /** Stops reading from the guest until `release`, once for each call. */
  hold(): void {
    if (this.#holders++ === 0) this.#stream?.pause();
  }

  release(): void {
    if (this.#holders > 0 && --this.#holders === 0) this.#stream?.resume();
  }

  // ---- to the guest

  get plain(): boolean {
    return !this.#mapped && this.taps.inside.size === 0 && this.taps.outside.size === 0;
  }

  /** Translates a run from outside to inside, and shows it to captures. */
  translate(start: number, end: number): void {
    const b = this.#memory.mem.u8;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      for (const tap of this.taps.outside) tap(b.subarray(p + 4, next), true);
      if (this.#mapped) translateToGuest(b, p + 4, next, this.insideMac, this.card.mac);
      for (const tap of this.taps.inside) tap(b.subarray(p + 4, next), true);
      p = next;
    }
  }

  onRoom(): void {
    this.#owner.onRoom(this);
  }
}
