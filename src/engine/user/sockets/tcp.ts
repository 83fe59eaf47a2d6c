/**
 * Host sockets of the TCP path: the host's streams (host-stream.ts, handle-stream.ts) on one side, the machine of
 * src/net/nat on the other.
 *
 * Theory of operation. Streams read into packet memory. A socket that trickles reads into one buffer that all share,
 * from where payload is copied into its flow's send buffer; one that fills its reads gets chunks of its own, into which
 * the kernel writes what will later be sent and sent again, without a copy. Writes go from the guest's run straight to
 * the kernel when nothing is queued; when the kernel takes only a part, the run's memory is pinned until it has taken
 * the rest, and so is that of large writes behind it: copies of them were so much memory outside V8's heap that it
 * collected garbage all the time. Where it cannot be pinned, payload is copied first.
 *
 * At most 64 are dialled in one turn of the event loop, so that a guest's burst of SYNs does not keep the others
 * waiting; dial-queue.ts says which go first. When the process has no descriptor left, or the host no port, the guest
 * hears nothing, and tries again.
 *
 * Limits. Sockets that come from outside are re-wrapped, so that they too read into packet memory; one from which
 * something has been read already is left as it is, and copied from. SO_SNDBUF and SO_RCVBUF stay the kernel's: its own
 * tuning goes further than an unprivileged process may ask for; but what it keeps unsent is bounded, and what it keeps
 * unread (receive-buffers.ts).
 */
import { Socket } from 'node:net';
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
  NotifyUnreachable,
  ResolveTarget,
  TcpFlowRef,
  TcpPath,
  TcpRefusal,
} from '../../../net/tcp/interface.ts';
import { TcpMachine } from '../../../net/tcp/machine.ts';
import type { KeepAlive } from '../../../net/tcp/send.ts';
import { stayAwake } from '../port/stay-awake.ts';
import { adoptStream, HandleStream, hasHandles } from './handle-stream.ts';
import { type HostStream, NetStream, resetSocket, type StreamEvents } from './host-stream.ts';
import { ReceiveBuffer } from './receive-buffers.ts';
import { socketsWithin } from './socket-limit.ts';

/** A read of at least this many bytes earns a socket chunks of its own. */
const BUSY_READ = 16 << 10;
/**
 * What the kernel may keep unsent of a socket, bytes: else each whose peer stops reading leaves 4 MiB there
 * (docs/endurance.md). Told once more than `SMALL` was written: most connections never come to that.
 */
const UNSENT = 512 << 10;
const SMALL = 64 << 10;
/**
 * A write behind others keeps the guest's memory from this many bytes on; fewer are copied, as a whole read buffer is
 * kept for them.
 */
const WORTH_PINNING = 32 << 10;
/** A chunk with less room than this is not read into again. */
const MIN_READ = 16 << 10;
/** New host sockets in one turn of the event loop: each costs 40–100 µs. */
const DIALS_PER_TURN = 64;
/**
 * How long at most a connection goes without the kernel's keep-alive, ms, which begins after hours: most are over
 * before, and are not asked for it.
 */
const YOUNG = 10_000;
/** No fault of the peer's. */
const NO_SOCKET = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM', 'EADDRNOTAVAIL']);

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
  /** Host sockets by node:net even where there is something cheaper. */
  plainSockets?: boolean;
  keepAlive?: KeepAlive;
}

/** One host socket. */
class HostSocket {
  stream: HostStream | null = null;
  readonly flow: TcpFlow;
  readonly received: ReceiveBuffer;
  /** The chunk that the kernel writes into, or null for the shared buffer. */
  chunk: Chunk | null = null;
  /** Payload for which there was no packet memory. */
  spill: Buffer | null = null;
  connected = false;
  /** Bytes written, up to the first more than `SMALL`. */
  sent = 0;
  /** The machine has forgotten the flow; what is queued still goes out. */
  detached = false;
  /**
   * Gives back the guest's memory that a queued write uses, for each of those, the oldest first; null for one of a
   * copy.
   */
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
  /** Host sockets opened in this turn of the loop, and those that wait for the next. */
  #dialled = 0;
  readonly #toDial = new TcpDialQueue();
  /** Connected lately, and not under keep-alive yet. */
  readonly #young = new Set<HostSocket>();
  #growUp: NodeJS.Timeout | null = null;
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
      connect: (flow, host, port, priority) => this.#connect({ flow, host, port }, priority),
      write: (flow, at, length, queued) => this.#write(flow, at, length, queued),
      end: (flow) => (flow.host as HostSocket | null)?.stream?.end(),
      close: (flow) => this.#close(flow),
      reset: (flow) => this.#reset(flow.host as HostSocket | null),
      read: (flow, on) => this.#read(flow, on),
    };
    const limits = { sockets: socketsWithin(openFilesLimit()), ...o.limits };
    this.#machine = new TcpMachine({ ...o, host, limits, now: performance.now() });
  }

  // ---- what the network process calls

  onRun(port: GuestPort, start: number, end: number): void {
    this.#run = port;
    this.#machine.onRun(port, start, end, performance.now());
    this.#run = null;
    this.#arm();
  }

  onRoom(port: GuestPort): void {
    this.#machine.onRoom(port, performance.now());
    this.#arm();
  }

  removePort(port: GuestPort): void {
    this.#machine.onPortRemoved(port);
    for (const h of [...this.#detached]) if (h.flow.owner.port === port) this.#reset(h);
  }

  removeGuestAddress(port: GuestPort, ip: number): void {
    this.#machine.onAddressRemoved(port, ip, performance.now());
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
    for (const timer of [this.#timer, this.#growUp]) if (timer) clearTimeout(timer);
    this.#timer = this.#growUp = null;
  }

  /** One real timer for all deadlines: moved when an earlier one comes up, left when they move later. */
  #arm(): void {
    const at = this.#machine.nextAt();
    if (at >= this.#timerAt || this.#closed) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timerAt = at;
    this.#timer = setTimeout(
      () => {
        this.#timer = null;
        this.#timerAt = Number.POSITIVE_INFINITY;
        this.#machine.run(performance.now());
        this.#arm();
      },
      Math.max(1, Math.ceil(at - performance.now())),
    );
  }

  // ---- sockets

  /**
   * Dials, but not too often in a turn: a burst of SYNs must not keep the other cards waiting. What the machine evicts
   * meanwhile costs no socket.
   */
  #connect(dial: Dial, priority: number): void {
    if (this.#dialled === 0) setImmediate(() => this.#dialMore());
    if (this.#dialled++ < DIALS_PER_TURN) this.#dial(dial);
    else this.#toDial.push(dial, priority);
  }

  #dialMore(): void {
    this.#dialled = 0;
    for (let dial = this.#toDial.next(); dial; dial = this.#toDial.next()) {
      this.#dial(dial);
      if (++this.#dialled >= DIALS_PER_TURN) break;
    }
    if (this.#dialled > 0) setImmediate(() => this.#dialMore());
  }

  #dial({ flow, host, port }: Dial): void {
    const h = new HostSocket(flow);
    flow.host = h;
    h.stream = this.#handles ? HandleStream.connect(h, this.#events, host, port) : NetStream.connect(h, this.#events, host, port);
  }

  #onConnect(h: HostSocket): void {
    h.connected = true;
    this.#young.add(h);
    this.#growUp ??= setTimeout(() => this.#keepAlive(), YOUNG);
    this.#machine.onConnected(h.flow, performance.now());
    this.#arm();
  }

  #keepAlive(): void {
    this.#growUp = null;
    for (const h of this.#young) h.stream?.keepAlive();
    this.#young.clear();
  }

  #onEnd(h: HostSocket): void {
    if (!h.detached) this.#machine.onHostFin(h.flow, performance.now());
    this.#arm();
  }

  #onFailed(h: HostSocket, code: string): void {
    this.#letGo(h);
    if (h.detached) return;
    const now = performance.now();
    if (h.connected) this.#machine.onHostReset(h.flow, now);
    else if (NO_SOCKET.has(code)) this.#machine.onNoSocket(h.flow, now);
    else this.#machine.onNotConnected(h.flow, { kind: REFUSALS[code] ?? 'host-unreachable' }, now);
    this.#arm();
  }

  #onClosed(h: HostSocket): void {
    this.#letGo(h);
    // without an end: whatever was the cause, nothing more will pass
    if (!h.detached && !h.flow.has(TcpEvents.hostFin)) this.#machine.onHostReset(h.flow, performance.now());
  }

  /** It is over: gives back what it borrowed. */
  #letGo(h: HostSocket): void {
    h.stream = null;
    h.received.release();
    this.#young.delete(h);
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
    // with payload in it, it is in the send buffer, which gives it back
    if (chunk.start === chunk.end) this.#machine.pool.give(chunk);
  }

  // ---- reading

  #readBuffer(h: HostSocket): Uint8Array {
    const chunk = h.chunk;
    if (!chunk) return this.#sharedView;
    if (chunk.end === chunk.at && chunk.size % h.flow.mss === 0) return chunk.view(this.#memory);
    // whole segments, so that no small one follows each read
    const room = chunk.free;
    return this.#memory.buffer(chunk.end, room > h.flow.mss ? room - (room % h.flow.mss) : room);
  }

  #onData(h: HostSocket, bytes: number): void {
    stayAwake(bytes);
    const flow = h.flow;
    if (h.detached) return;
    if (h.received.read(bytes) && h.stream) h.received.look(h.stream);
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

  /** From a socket that could not be re-wrapped. */
  #onCopied(h: HostSocket, data: Buffer): void {
    if (h.detached) return;
    const all = h.spill ? Buffer.concat([h.spill, data]) : data;
    h.spill = null;
    this.#unspill(h, all);
    this.#machine.onHostData(h.flow, performance.now());
    this.#arm();
  }

  /** Puts as much as there is memory for into the send buffer, and keeps the rest. */
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
    if (h.sent <= SMALL) {
      h.sent += length;
      if (h.sent > SMALL) stream.limitUnsent(UNSENT);
    }
    const before = stream.queued;
    const unpin = queued || (before > 0 && length < WORTH_PINNING) ? null : (this.#run?.pinRun?.() ?? null);
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

  // ---- ends

  /** Both directions are done: what is queued goes out, and the stream closes itself after its FIN. */
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
    this.#letGo(h);
    stream?.reset();
  }
}
