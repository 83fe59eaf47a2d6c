/**
 * Host sockets of the TCP path: the host's streams (host-stream.ts, handle-stream.ts) on one side, the machine of
 * src/net/tcp on the other.
 *
 * Theory of operation: streams read into packet memory. A socket with small reads uses one buffer that all share;
 * payload is copied from it into the flow's send buffer. One that fills its reads gets chunks of its own: the kernel
 * writes into them what is later sent and retransmitted, without a copy. Writes go from the guest's run straight to the
 * kernel when nothing is queued. When the kernel takes only a part, the run's memory is pinned until it has taken the
 * rest, and so is the memory of large writes behind it: copies would be so much memory outside V8's heap that it would
 * collect garbage all the time. Where memory cannot be pinned, payload is copied first.
 *
 * At most 64 connections are opened in one turn of the event loop, so that a guest's burst of SYNs does not delay the
 * others; dial-queue.ts sets the order. When the process has no descriptor left, or the host no port, the SYN is
 * dropped, and the guest retransmits it.
 *
 * Limits: accepted sockets are wrapped anew, so that they too read into packet memory; one that was read before is left
 * as it is, and its reads are copied. SO_SNDBUF and SO_RCVBUF are left to the kernel: its tuning goes further than an
 * unprivileged process may ask for. What it keeps unsent is bounded, and what it keeps unread (receive-buffers.ts).
 */
import { Socket, type SocketConstructorOpts } from 'node:net';
import { peerActivity, probeAfter, probeSoon } from '../../../host/ffi/sockets.ts';
import { openSocketPair } from '../../../host/ffi/unix-socket.ts';
import { openFilesLimit } from '../../../host/process.ts';
import type { Kernels } from '../../../net/memory/kernels.ts';
import type { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { type Chunk, LARGE_CHUNK } from '../../../net/tcp/chunks.ts';
import type { HostSide, TcpLimits } from '../../../net/tcp/context.ts';
import { type Dial, TcpDialQueue } from '../../../net/tcp/dial-queue.ts';
import { TcpEvents, type TcpFlow } from '../../../net/tcp/flow.ts';
import type {
  ClientHandle,
  GuestPort,
  InboundConnection,
  LostSegment,
  NotifyUnreachable,
  ResolveTarget,
  TcpFlowRef,
  TcpPath,
  TcpRefusal,
  TcpService,
} from '../../../net/tcp/interface.ts';
import { TcpMachine } from '../../../net/tcp/machine.ts';
import { MIN_PATIENCE } from '../../../net/tcp/peer-life.ts';
import type { KeepAlive } from '../../../net/tcp/send.ts';
import { stayAwake } from '../port/stay-awake.ts';
import { adoptStream, HandleStream, hasHandles } from './handle-stream.ts';
import { type HostStream, NetStream, resetSocket, type StreamEvents } from './host-stream.ts';
import { ReceiveBuffer } from './receive-buffers.ts';
import { socketsWithin } from './socket-limit.ts';

/** A socket gets chunks of its own from a read of so many bytes on. */
const BUSY_READ = 16 << 10;
/**
 * Unsent bytes that the kernel may keep of a socket; otherwise each whose peer stops reading leaves 4 MiB there
 * (docs/endurance.md).
 */
const MAX_UNSENT = 512 << 10;
/** That limit is set after so many bytes; most connections send less. */
const LIMIT_UNSENT_AFTER = 64 << 10;
/** Shorter writes behind others are copied, bytes: pinning them would keep a whole read buffer. */
const MIN_PINNED = 32 << 10;
/** A chunk with less room, bytes, is not read into again. */
const MIN_READ = 16 << 10;
/** New host sockets in one turn of the event loop; each costs 40–100 µs. */
const DIALS_PER_TURN = 64;
/** The kernel's keep-alive, which starts after hours, is turned on so late, ms: most connections end before. */
const KEEP_ALIVE_AFTER_MS = 10_000;
/** More than two round trips: what a peer may delay its ACK, ms (RFC 1122 4.2.3.2 allows 500, 40 is usual). */
const PATIENCE_MARGIN_MS = 50;
/** Failures on this host: the peer is not to blame. */
const LOCAL_FAILURES = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL']);

const REFUSALS: Record<string, TcpRefusal['kind']> = {
  ECONNREFUSED: 'refused',
  ECONNRESET: 'refused',
  EHOSTUNREACH: 'host-unreachable',
  EHOSTDOWN: 'host-unreachable',
  ENETUNREACH: 'net-unreachable',
  ETIMEDOUT: 'timeout',
  EACCES: 'prohibited',
  EPERM: 'prohibited',
};

export interface TcpGatewayOptions {
  memory: PacketMemory;
  kernels: Kernels;
  gatewayMac: number;
  resolve: ResolveTarget;
  onUnreachable: NotifyUnreachable;
  /** At least 16 random bytes, for initial sequence numbers. */
  secret: Buffer;
  limits?: Partial<TcpLimits>;
  /** Use node:net even where handles can be used. */
  plainSockets?: boolean;
  keepAlive?: KeepAlive;
}

/** One host socket. */
class HostSocket {
  stream: HostStream | null = null;
  readonly flow: TcpFlow;
  readonly received: ReceiveBuffer;
  /** The chunk that the kernel reads into; null: the shared buffer. */
  chunk: Chunk | null = null;
  /** Payload for which there was no packet memory. */
  spill: Buffer | null = null;
  connected = false;
  /** Idle time before the kernel's keep-alive, s, while the kernel sends one soon. */
  keepAliveIdle = 0;
  /** Bytes written; not counted beyond `LIMIT_UNSENT_AFTER`. */
  sent = 0;
  /** The machine has forgotten the flow; what is queued still goes out. */
  detached = false;
  /** For each queued write, the oldest first: unpins the guest's memory; null if the write uses a copy. */
  unpins: ((() => void) | null)[] = [];

  constructor(flow: TcpFlow) {
    this.flow = flow;
    this.received = new ReceiveBuffer(flow.owner);
  }
}

export class TcpGateway implements TcpPath {
  readonly #memory: PacketMemory;
  readonly #machine: TcpMachine;
  readonly #shared: number;
  readonly #sharedView: Buffer;
  readonly #detached = new Set<HostSocket>();
  readonly #handles: boolean;
  readonly #events: StreamEvents<HostSocket> = {
    readBuffer: (h) => this.#readBuffer(h),
    onConnect: (h) => this.#onConnect(h),
    onData: (h, bytes) => this.#onData(h, bytes),
    onCopied: (h, data) => this.#onCopied(h, data),
    onEnd: (h) => this.#onEnd(h),
    onWritten: (h) => this.#onWritten(h),
    onFailed: (h, code) => this.#onFailed(h, code),
    onClosed: (h) => this.#onClosed(h),
  };
  /** Host sockets opened in this turn of the loop. */
  #dialled = 0;
  /** Those that wait for the next turn. */
  readonly #dialQueue = new TcpDialQueue();
  /** Connected, and without keep-alive until the timer. */
  readonly #withoutKeepAlive = new Set<HostSocket>();
  #keepAliveTimer: NodeJS.Timeout | null = null;
  #run: GuestPort | null = null;
  #timer: NodeJS.Timeout | null = null;
  #timerAt = Number.POSITIVE_INFINITY;
  #closed = false;

  constructor(o: TcpGatewayOptions) {
    this.#memory = o.memory;
    this.#handles = hasHandles && !o.plainSockets;
    this.#shared = o.memory.alloc(LARGE_CHUNK);
    this.#sharedView = o.memory.buffer(this.#shared, LARGE_CHUNK);
    const host: HostSide = {
      connect: (flow, to, priority) => this.#connect({ flow, to }, priority),
      write: (flow, at, length, queued) => this.#write(flow, at, length, queued),
      end: (flow) => (flow.host as HostSocket | null)?.stream?.end(),
      close: (flow) => this.#close(flow),
      reset: (flow) => this.#reset(flow.host as HostSocket | null),
      read: (flow, on) => this.#read(flow, on),
      sinceHeard: (flow) => this.#sinceHeard(flow),
      askPeer: (flow, on) => this.#askPeer(flow.host as HostSocket | null, on),
    };
    const limits = { sockets: socketsWithin(openFilesLimit()), ...o.limits };
    this.#machine = new TcpMachine({ ...o, host, limits, now: performance.now() });
  }

  // ---- TcpPath

  onRun(port: GuestPort, start: number, end: number): void {
    this.#run = port;
    try {
      this.#machine.onRun(port, start, end, performance.now());
    } finally {
      this.#run = null;
      this.#arm();
    }
  }

  onRoom(port: GuestPort): void {
    this.#machine.onRoom(port, performance.now());
    this.#arm();
  }

  onSegmentLost(port: GuestPort, lost: LostSegment): void {
    this.#machine.onSegmentLost(port, lost, performance.now());
    this.#arm();
  }

  removePort(port: GuestPort): void {
    this.#machine.onPortRemoved(port);
    for (const h of [...this.#detached]) if (h.flow.owner.port === port) this.#reset(h);
  }

  removeGuestAddress(port: GuestPort, ip: number): void {
    this.#machine.onAddressRemoved(port, ip, performance.now());
  }

  removePeers(port: GuestPort, isBarred: (ip: number, tcpPort: number) => boolean): void {
    this.#machine.onPeersRemoved(port, isBarred, performance.now());
    this.#arm();
  }

  accept(port: GuestPort, connection: InboundConnection): TcpFlowRef {
    const { client, onAnswer } = connection;
    const flow = this.#machine.accept(port, connection, performance.now());
    if (!flow) {
      onAnswer?.({ kind: 'prohibited' });
      if (client instanceof Socket) resetSocket(client);
      else client.reset();
      return { serial: 0, closed: true };
    }
    if (onAnswer) flow.onAnswer = onAnswer;
    const h = new HostSocket(flow);
    h.connected = true;
    flow.host = h;
    h.stream = this.#adopt(h, client);
    this.#arm();
    return flow;
  }

  #adopt(h: HostSocket, client: Socket | ClientHandle): HostStream {
    if (!(client instanceof Socket)) return HandleStream.adopt(h, this.#events, client);
    return this.#handles ? adoptStream(h, this.#events, client) : NetStream.adopt(h, this.#events, client);
  }

  cut(ref: TcpFlowRef): void {
    if (ref.serial !== 0) this.#machine.cut(ref as TcpFlow, performance.now());
  }

  stats(): Record<string, number> {
    return { ...this.#machine.stats(), detached: this.#detached.size };
  }

  close(): void {
    this.#closed = true;
    this.#machine.close();
    for (const h of [...this.#detached]) this.#reset(h);
    for (const timer of [this.#timer, this.#keepAliveTimer]) if (timer) clearTimeout(timer);
    this.#timer = this.#keepAliveTimer = null;
  }

  /** One real timer for all deadlines: set anew for an earlier one, not for a later one. */
  #arm(): void {
    const at = this.#machine.nextAt();
    if (at >= this.#timerAt || this.#closed) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.#timerAt = Number.POSITIVE_INFINITY;
        try {
          this.#machine.run(performance.now());
        } finally {
          this.#arm();
        }
      },
      Math.max(1, Math.ceil(at - performance.now())),
    );
  }

  // ---- sockets

  /**
   * Connects at most `DIALS_PER_TURN` sockets in a turn: a burst of SYNs must not delay the other NICs. Flows that the
   * machine evicts meanwhile cost no socket.
   */
  #connect(dial: Dial, priority: number): void {
    if (this.#dialled === 0) setImmediate(() => this.#dialMore());
    if (this.#dialled++ < DIALS_PER_TURN) this.#dial(dial);
    else this.#dialQueue.push(dial, priority);
  }

  #dialMore(): void {
    this.#dialled = 0;
    for (let dial = this.#dialQueue.next(); dial; dial = this.#dialQueue.next()) {
      this.#dial(dial);
      if (++this.#dialled >= DIALS_PER_TURN) break;
    }
    if (this.#dialled > 0) setImmediate(() => this.#dialMore());
  }

  #dial({ flow, to }: Dial): void {
    const h = new HostSocket(flow);
    flow.host = h;
    if ('serve' in to) this.#connectService(h, to);
    else h.stream = this.#handles ? HandleStream.connect(h, this.#events, to) : NetStream.connect(h, this.#events, to);
  }

  /** By a socket pair, which nobody else can connect to. */
  #connectService(h: HostSocket, { serve }: TcpService): void {
    const pair = openSocketPair();
    if (!pair) return void setImmediate(() => h.flow.closed || this.#onFailed(h, 'EMFILE'));
    const [ours, theirs] = pair;
    // `readable` and `writable`: else Node uses neither direction of a descriptor
    const both = { readable: true, writable: true };
    h.stream = this.#adopt(h, new Socket({ fd: ours, ...both, allowHalfOpen: true, pauseOnCreate: true } as SocketConstructorOpts));
    setImmediate(() => h.stream && this.#onConnect(h));
    serve(new Socket({ fd: theirs, ...both }));
  }

  #onConnect(h: HostSocket): void {
    h.connected = true;
    this.#withoutKeepAlive.add(h);
    this.#keepAliveTimer ??= setTimeout(() => this.#keepAlive(), KEEP_ALIVE_AFTER_MS);
    this.#machine.onConnected(h.flow, performance.now());
    this.#arm();
  }

  #keepAlive(): void {
    this.#keepAliveTimer = null;
    for (const h of this.#withoutKeepAlive) h.stream?.keepAlive();
    this.#withoutKeepAlive.clear();
  }

  #sinceHeard(flow: TcpFlow): number {
    const peer = peerActivity((flow.host as HostSocket | null)?.stream?.fd ?? -1);
    // a peer that closed its window answers for it rarely, whatever the guest asks
    if (!peer || peer.windowClosed) return 0;
    flow.life.patience = Math.max(MIN_PATIENCE, 2 * peer.roundTrip + PATIENCE_MARGIN_MS);
    return peer.idle;
  }

  #askPeer(h: HostSocket | null, on: boolean): void {
    if (!h?.stream) return;
    if (on) h.keepAliveIdle = probeSoon(h.stream.fd);
    else probeAfter(h.stream.fd, h.keepAliveIdle);
  }

  #onEnd(h: HostSocket): void {
    if (!h.detached) this.#machine.onHostFin(h.flow, performance.now());
    this.#arm();
  }

  #onFailed(h: HostSocket, code: string): void {
    this.#release(h);
    if (h.detached) return;
    const now = performance.now();
    if (h.connected) this.#machine.onHostReset(h.flow, now);
    else if (LOCAL_FAILURES.has(code)) this.#machine.onNoSocket(h.flow, now);
    else this.#machine.onNotConnected(h.flow, { kind: REFUSALS[code] ?? 'host-unreachable' }, now);
    this.#arm();
  }

  #onClosed(h: HostSocket): void {
    this.#release(h);
    // closed without FIN: no more data passes in either direction
    if (!h.detached && !h.flow.has(TcpEvents.hostFin)) this.#machine.onHostReset(h.flow, performance.now());
  }

  /** Returns the memory that it borrowed. */
  #release(h: HostSocket): void {
    h.stream = null;
    h.received.release();
    this.#withoutKeepAlive.delete(h);
    this.#detached.delete(h);
    for (const unpin of h.unpins) unpin?.();
    h.unpins.length = 0;
    h.flow.owner.queued -= h.flow.queued;
    h.flow.queued = 0;
    this.#dropChunk(h);
    h.spill = null;
  }

  #dropChunk(h: HostSocket): void {
    const chunk = h.chunk;
    h.chunk = null;
    if (!chunk) return;
    chunk.reading = false;
    // with payload, it is in the send buffer, which returns it
    if (chunk.start === chunk.end) this.#machine.pool.give(chunk);
  }

  // ---- reading

  #readBuffer(h: HostSocket): Uint8Array {
    const chunk = h.chunk;
    if (!chunk) return this.#sharedView;
    if (chunk.end === chunk.at && chunk.size % h.flow.mss === 0) return chunk.view(this.#memory);
    // whole segments, so that no read ends in a short one
    const room = chunk.free;
    return this.#memory.buffer(chunk.end, room > h.flow.mss ? room - (room % h.flow.mss) : room);
  }

  #onData(h: HostSocket, bytes: number): void {
    stayAwake(bytes);
    const flow = h.flow;
    if (h.detached) return;
    if (h.received.read(bytes) && h.stream) h.received.check(h.stream);
    const chunk = h.chunk;
    if (chunk) {
      flow.send.grow(chunk, bytes);
      if (bytes < BUSY_READ) this.#dropChunk(h);
      else if (chunk.free < MIN_READ || bytes > LARGE_CHUNK / 2) {
        this.#dropChunk(h);
        this.#takeChunk(h);
      }
    } else {
      if (!flow.send.append(this.#shared, bytes)) h.spill = Buffer.from(this.#sharedView.subarray(0, bytes));
      if (bytes >= BUSY_READ) this.#takeChunk(h);
    }
    this.#machine.onHostData(flow, performance.now());
    this.#arm();
  }

  #takeChunk(h: HostSocket): void {
    const chunk = this.#machine.pool.take(LARGE_CHUNK);
    if (!chunk) return;
    chunk.reading = true;
    h.chunk = chunk;
  }

  /** From a socket that could not be wrapped anew. */
  #onCopied(h: HostSocket, data: Buffer): void {
    if (h.detached) return;
    const all = h.spill ? Buffer.concat([h.spill, data]) : data;
    h.spill = null;
    this.#unspill(h, all);
    this.#machine.onHostData(h.flow, performance.now());
    this.#arm();
  }

  /** Moves as much as packet memory allows into the send buffer, and keeps the rest. */
  #unspill(h: HostSocket, data: Buffer): void {
    for (let done = 0; done < data.length; ) {
      const part = Math.min(LARGE_CHUNK, data.length - done);
      this.#sharedView.set(data.subarray(done, done + part));
      if (!h.flow.send.append(this.#shared, part)) {
        h.spill = data.subarray(done);
        return;
      }
      done += part;
    }
  }

  #read(flow: TcpFlow, on: boolean): boolean {
    const h = flow.host as HostSocket | null;
    const stream = h?.stream;
    if (!h || !stream) return on;
    if (!on) {
      stream.pause();
      return false;
    }
    if (h.spill) {
      const spill = h.spill;
      h.spill = null;
      this.#unspill(h, spill);
      if (h.spill) return false;
    }
    stream.resume();
    return true;
  }

  // ---- writing

  #write(flow: TcpFlow, at: number, length: number, queued: boolean): void {
    const h = flow.host as HostSocket;
    const stream = h.stream;
    if (!stream) return;
    if (h.sent <= LIMIT_UNSENT_AFTER) {
      h.sent += length;
      if (h.sent > LIMIT_UNSENT_AFTER) stream.limitUnsent(MAX_UNSENT);
    }
    const before = stream.queued;
    const unpin = queued || (before > 0 && length < MIN_PINNED) ? null : (this.#run?.pinRun?.() ?? null);
    stream.write(unpin ? this.#memory.buffer(at, length) : Buffer.from(this.#memory.u8.subarray(at, at + length)));
    if (stream.queued > before) h.unpins.push(unpin);
    else unpin?.();
    this.#account(h, stream);
  }

  #account(h: HostSocket, stream: HostStream): void {
    const queued = stream.queued;
    h.flow.owner.queued += queued - h.flow.queued;
    h.flow.queued = queued;
  }

  #onWritten(h: HostSocket): void {
    h.unpins.shift()?.();
    if (!h.stream) return;
    this.#account(h, h.stream);
    if (!h.detached) this.#machine.onDrained(h.flow, performance.now());
  }

  // ---- closing

  /** Both directions have ended: queued bytes leave, and the stream closes itself after its FIN. */
  #close(flow: TcpFlow): void {
    const h = flow.host as HostSocket | null;
    if (!h) return;
    h.detached = true;
    this.#dropChunk(h);
    const stream = h.stream;
    if (!stream) return;
    this.#detached.add(h);
    stream.resume();
    stream.end();
  }

  #reset(h: HostSocket | null): void {
    if (!h) return;
    h.detached = true;
    const stream = h.stream;
    this.#release(h);
    stream?.reset();
  }
}
