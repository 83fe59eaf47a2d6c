/**
 * The port of one NIC: the stream to QEMU, frames in and frames out.
 *
 * Theory of operation: QEMU listens on a unix socket, where each frame has a prefix of four bytes with its length
 * (big-endian). The port connects, and reconnects every 50 ms while it is disconnected. Reads land in packet memory.
 * The unfinished frame at the end is moved in front of the next read, and the run of whole frames goes to the network
 * in one call. While somebody still writes from the memory of a run, it is pinned, and the port reads into another
 * buffer.
 *
 * Fairness: a guest that sends more than the network handles in `TURN_MS` yields to the others. The rest of a read, as
 * small frames to the gateway take microseconds each, and further reads wait for the next turn. Frames to the guest:
 * guest-queue.ts.
 *
 * Limits: at most 16 buffers are pinned for host sockets of one NIC; a stream with invalid framing (a length below 14
 * or above 65,600) is closed and connected again.
 */
import { createConnection, type Socket } from 'node:net';
import { DropCounts } from '../../../net/drop-reasons.ts';
import type { PacketFilter } from '../../../net/filter/packet-filter.ts';
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

const RECONNECT_MS = 50;
const MIN_FRAME = 14;
/** Small frames between two looks at the clock; a read has few large ones. */
const SLICE = 64;
/** Shorter frames count as small, bytes. */
const SMALL_FRAME = 512;
/** Longest time for one guest's frames while others wait. */
const TURN_MS = 1;
/** Read buffers that host sockets may pin. */
const MAX_KEPT = 16;

/** Events of a port. */
export interface PortOwner {
  onRun(port: Port, start: number, end: number): void;
  /** Its queue has room again. */
  onRoom(port: Port): void;
  /** The stream was connected or lost. */
  onLink(port: Port): void;
}

export interface PortConfig {
  index: number;
  card: GuardedCard;
  insideMac: number;
  isolated: boolean;
  mtu: number;
  /** Of its VM. */
  filter?: PacketFilter | null;
  socket: string;
}

/** Receives each frame of a capture. */
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
  filter: PacketFilter | null;
  connected = false;
  readonly fromGuest = { packets: 0, bytes: 0 };
  /** Captures, by side of the MAC translation. */
  readonly taps = { inside: new Set<FrameTap>(), outside: new Set<FrameTap>() };
  /** Called when the NIC is detached. */
  readonly onClosed = new Set<() => void>();
  readonly #memory: PortMemory;
  readonly #owner: PortOwner;
  readonly #translates: boolean;
  /** Frames to the guest. */
  readonly queue: GuestQueue;
  #read: ReadBuffer;
  /** Bytes of the unfinished frame, just before `#read.at`. */
  #partial = 0;
  /** Time spent on consecutive reads, ms. */
  #busy = 0;
  #outOfTime = false;
  /** While it connects. */
  #connecting: Socket | null = null;
  #stream: HostStream | null = null;
  #reconnectTimer: NodeJS.Timeout | null = null;
  #closed = false;
  /** Buffers of this port that host sockets pin. */
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
    this.filter = config.filter ?? null;
    this.socketPath = config.socket;
    this.#translates = config.insideMac !== config.card.mac;
    this.#memory = memory;
    this.#owner = owner;
    this.#read = memory.takeRead();
    this.queue = new GuestQueue(this, memory);
    this.#connect();
  }

  close(): void {
    this.#closed = true;
    for (const notify of [...this.onClosed]) notify();
    if (this.#reconnectTimer) clearTimeout(this.#reconnectTimer);
    this.#connecting?.removeAllListeners('close').destroy();
    if (this.#stream) this.#disconnect();
    this.#free();
  }

  #free(): void {
    if (this.#read.pins > 0) this.#read.abandoned = true;
    else this.#memory.giveRead(this.#read);
    this.queue.free();
  }

  #connect(): void {
    const socket = createConnection({ path: this.socketPath });
    this.#connecting = socket;
    socket.on('connect', () => {
      socket.removeAllListeners('close');
      this.#connecting = null;
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
    onConnect: () => {}, // already connected
    onData: (port, bytes) => {
      try {
        port.#onRead(bytes);
      } catch (cause) {
        port.#disconnect(); // what the run has left half done ends with the connection
        throw cause;
      }
    },
    onCopied: () => {}, // only for sockets that were read before
    onEnd: (port) => port.#disconnect(),
    onWritten: (port) => port.queue.onWritten(),
    onFailed: (port) => port.#onClose(),
    onClosed: (port) => port.#onClose(),
  };

  #disconnect(): void {
    this.#stream?.reset();
    this.#onClose();
  }

  #onClose(): void {
    const was = this.connected;
    this.connected = false;
    this.#connecting = this.#stream = null;
    this.#partial = 0;
    this.#holders = 0;
    this.queue.clear();
    if (!this.#closed) this.#reconnectTimer = setTimeout(() => this.#connect(), RECONNECT_MS);
    if (was) this.#owner.onLink(this);
  }

  // ---- from the guest

  #onRead(n: number): void {
    stayAwake(n);
    // a read that fills its buffer is followed by another in this same turn, up to 32 times
    if (n < READ_SIZE) this.#busy = 0;
    const read = this.#read;
    const end = read.at + n;
    const stopped = this.#handle(read.at - this.#partial, end);
    const late = stopped >= 0 && this.#outOfTime;
    // the stream takes its next buffer when this returns, and at no other time
    if (late || read.pins > 0) {
      this.#read = this.#memory.takeRead();
      read.abandoned = true;
    }
    if (stopped < 0) return;
    if (late) {
      this.#memory.pin(read);
      this.hold();
      this.#continueLater(read, stopped, end);
      return;
    }
    this.#savePartial(stopped, end);
    if (n < READ_SIZE) return;
    // else the guest would wait for its ACKs
    this.queue.flushPlanned();
    if (this.#busy < TURN_MS) return;
    this.hold();
    this.#continueLater(null, 0, 0);
  }

  /**
   * Handles the frames in [start, end) of `#read` until `TURN_MS` is over: then `#outOfTime` is set. Returns where it
   * stopped; -1 when the stream is closed, also because of invalid framing.
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
          this.#disconnect();
          return -1;
        }
        if (p + 4 + length > end) break;
        more = small === SLICE;
        if (more) break;
        if (length < SMALL_FRAME) small++;
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

  /** Moves an unfinished frame in front of the next read. */
  #savePartial(start: number, end: number): void {
    this.#partial = end - start;
    if (this.#partial > 0) this.#memory.mem.u8.copyWithin(this.#read.at - this.#partial, start, end);
  }

  /** Continues in the next turn with [start, end) of a pinned buffer; if `left` is null, only resumes reading. */
  #continueLater(left: ReadBuffer | null, start: number, end: number): void {
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
        if (stopped >= 0 && this.#outOfTime) return this.#continueLater(left, stopped, end);
        if (stopped >= 0) this.#savePartial(stopped, end);
      }
      this.#memory.unpin(left);
      if (stopped >= 0) this.release();
    });
  }

  /** Translates a run from inside to outside, and passes it to captures. */
  #prepare(start: number, end: number): void {
    const b = this.#memory.mem.u8;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      for (const tap of this.taps.inside) tap(b.subarray(p + 4, next), false);
      if (this.#translates) translateFromGuest(b, p + 4, next, this.insideMac, this.card.mac);
      for (const tap of this.taps.outside) tap(b.subarray(p + 4, next), false);
      p = next;
    }
  }

  /** Pins the memory of the current run until the returned function is called; null when too much is pinned. */
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

  /** Passes a reassembled frame on as a run of this port; `pinRun` works for it, too. */
  asRun(frame: Uint8Array, use: (start: number, end: number) => void): void {
    const own = this.#read;
    const r = this.#memory.takeRead();
    put32(this.#memory.mem.u8, r.at, frame.length);
    this.#memory.mem.u8.set(frame, r.at + 4);
    this.#read = r;
    use(r.at, r.at + 4 + frame.length);
    this.#read = own;
    if (r.pins > 0) r.abandoned = true;
    else this.#memory.giveRead(r);
  }

  /** The buffer that holds the current run. */
  get reading(): ReadBuffer {
    return this.#read;
  }

  /** Pauses reading from the guest until `release`; calls are counted. */
  hold(): void {
    if (this.#holders++ === 0) this.#stream?.pause();
  }

  release(): void {
    if (this.#holders > 0 && --this.#holders === 0) this.#stream?.resume();
  }

  // ---- to the guest

  get plain(): boolean {
    return !this.#translates && this.taps.inside.size === 0 && this.taps.outside.size === 0;
  }

  /** Translates a run from outside to inside, and passes it to captures. */
  translate(start: number, end: number): void {
    const b = this.#memory.mem.u8;
    for (let p = start; p < end; ) {
      const next = p + 4 + get32(b, p);
      for (const tap of this.taps.outside) tap(b.subarray(p + 4, next), true);
      if (this.#translates) translateToGuest(b, p + 4, next, this.insideMac, this.card.mac);
      for (const tap of this.taps.inside) tap(b.subarray(p + 4, next), true);
      p = next;
    }
  }

  onRoom(): void {
    this.#owner.onRoom(this);
  }
}
