/**
 * One TCP connection of the host below node:net: the handles that Node's own sockets are made of, by `process.binding`.
 *
 * Theory of operation: half of the cost of a new connection was node:net's: stream states, listeners, ticks, options. A
 * handle is a C++ object around libuv's stream. Its methods return error numbers, and call back functions that all
 * handles share. Further results of a call (bytes read, whether a write finished at once) are in one array that all
 * streams use. A request object is only used up by a call that does not finish at once, so one serves many writes.
 * Clients of a server are taken as handles, before node:net makes sockets of them. A FIN that a close would follow is
 * left to the close. TCP_NODELAY is set at the second write, as the first is never delayed.
 *
 * Limits: the binding is internal to Node and deprecated (DEP0111). It is used only in releases of Node that the tests
 * have run with (`RELEASES`), and only when it has the expected shape; otherwise node:net serves.
 * docs/decisions/0014 has the figures and the risk. IPv4 only.
 */
import type { Server, Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import { inlineUrgent, keepAlive, limitUnsent, takeError } from '../../../host/ffi/sockets.ts';
import type { ClientHandle, TcpDestination } from '../../../net/tcp/interface.ts';
import { type HostStream, isFresh, NetStream, type StreamEvents, takeHandle } from './host-stream.ts';

/** Major releases of Node whose handles were tested. */
const RELEASES = ['20', '22', '24'];

interface Handle {
  onread: (this: Handle) => Uint8Array | undefined;
  /** Ours: its stream. */
  stream?: HandleStream<unknown>;
  readonly fd: number;
  bind(address: string, port: number): number;
  connect(request: Request, address: string, port: number): number;
  readStart(): number;
  readStop(): number;
  useUserBuffer(buffer: Uint8Array): void;
  writeBuffer(request: Request, bytes: Uint8Array): number;
  shutdown(request: Request): number;
  setNoDelay(on: boolean): number;
  getpeername(into: { address?: string; port?: number }): number;
  /** Pipes have none. */
  reset?(): number;
  close(): void;
}

/** The handle of a listening socket. */
interface ListenHandle {
  onconnection: (this: ListenHandle, status: number, client: Handle) => void;
  readonly fd: number;
  setNoDelay(on: boolean): number;
}

interface Request {
  oncomplete: (this: Request, status: number, handle: Handle) => void;
  /** Ours: bytes of the write, kept from garbage collection. */
  bytes?: Uint8Array;
}

interface Binding {
  TCP: new (type: number) => Handle;
  TCPConnectWrap: new () => Request;
  WriteWrap: new () => Request;
  ShutdownWrap: new () => Request;
  streamBaseState: Int32Array;
  kReadBytesOrError: number;
  kLastWriteWasAsync: number;
}

const METHODS = [
  'bind',
  'connect',
  'readStart',
  'readStop',
  'useUserBuffer',
  'writeBuffer',
  'shutdown',
  'setNoDelay',
  'getpeername',
  'reset',
  'close',
] as const;
/** Argument of `TCP`: a socket, not a server. */
const SOCKET = 0;
/** UV_EOF of libuv, the same on all systems. */
const UV_EOF = -4095;

/** The binding, or null if it is not as expected. */
function load(): Binding | null {
  const { binding } = process as { binding?: (name: string) => object };
  if (!RELEASES.includes(process.versions.node.split('.')[0] as string) || !binding || process.permission) return null;
  const b = { ...binding('tcp_wrap'), ...binding('stream_wrap') } as Partial<Binding>;
  const made = [b.TCP, b.TCPConnectWrap, b.WriteWrap, b.ShutdownWrap].every((c) => typeof c === 'function');
  const hasState = b.streamBaseState instanceof Int32Array && typeof b.kReadBytesOrError === 'number' && typeof b.kLastWriteWasAsync === 'number';
  if (!made || !hasState) return null;
  const methods = b.TCP?.prototype as Record<string, unknown>;
  return METHODS.every((m) => typeof methods[m] === 'function') ? (b as Binding) : null;
}

const native = load();

/** True if `HandleStream` may be used. */
export const hasHandles = native !== null;

const { TCP, TCPConnectWrap, WriteWrap, ShutdownWrap, streamBaseState, kReadBytesOrError, kLastWriteWasAsync } = native ?? ({} as Binding);
let spareRequest: Request | null = null;

function onRead(this: Handle): Uint8Array | undefined {
  return this.stream?.onRead(streamBaseState[kReadBytesOrError] as number);
}

function onConnect(this: Request, status: number, handle: Handle): void {
  handle.stream?.onConnect(status);
}

function onWritten(this: Request, status: number, handle: Handle): void {
  handle.stream?.onWritten(status, this.bytes?.length ?? 0);
}

function onShutdown(this: Request, _status: number, handle: Handle): void {
  handle.stream?.onShutdown();
}

function writeRequest(): Request {
  const request = new WriteWrap();
  request.oncomplete = onWritten;
  return request;
}

export class HandleStream<Owner> implements HostStream {
  queued = 0;
  readonly #handle: Handle;
  readonly #owner: Owner;
  readonly #events: StreamEvents<Owner>;
  #buffer: Uint8Array | null = null;
  /** Closed or failed: no more events. */
  #closed = false;
  #connected: boolean;
  /** The peer has sent FIN. */
  #peerEnded = false;
  /** `end` was called. */
  #ended = false;
  /** A FIN is on its way to the kernel. */
  #shutdownPending = false;
  /** `reset` was called meanwhile. */
  #resetAfterShutdown = false;
  #noDelay: boolean;
  #wrote = false;

  private constructor(handle: Handle, owner: Owner, events: StreamEvents<Owner>, adopted: boolean) {
    this.#handle = handle;
    this.#owner = owner;
    this.#events = events;
    this.#connected = this.#noDelay = adopted;
    handle.stream = this as HandleStream<unknown>;
    handle.onread = onRead;
  }

  static connect<Owner>(owner: Owner, events: StreamEvents<Owner>, { host, port, from }: TcpDestination): HostStream {
    const handle = new TCP(SOCKET);
    const stream = new HandleStream(handle, owner, events, false);
    const request = new TCPConnectWrap();
    request.oncomplete = onConnect;
    const error = (from === undefined ? 0 : handle.bind(from, 0)) || handle.connect(request, host, port);
    if (error !== 0) process.nextTick(() => stream.#fail(error));
    // at once: libuv then registers both events in one call, and makes no failing attempt to add the socket again once
    // it is connected
    else {
      inlineUrgent(handle.fd);
      stream.#begin();
    }
    return stream;
  }

  /** `handle`: of an accepted socket, or from `takeClients`. */
  static adopt<Owner>(owner: Owner, events: StreamEvents<Owner>, handle: object): HostStream {
    const h = handle as Handle;
    const stream = new HandleStream(h, owner, events, true);
    stream.#begin();
    return stream;
  }

  #begin(): void {
    this.#buffer = this.#events.readBuffer(this.#owner);
    this.#handle.useUserBuffer(this.#buffer);
    this.resume();
  }

  onConnect(status: number): void {
    if (this.#closed) return;
    if (status !== 0) {
      this.#fail(status);
      return;
    }
    this.#connected = true;
    this.#events.onConnect(this.#owner);
  }

  /** `bytes`: bytes read, or an error number. Returns a new buffer for the next read, if it changes. */
  onRead(bytes: number): Uint8Array | undefined {
    if (this.#closed || bytes === 0) return;
    if (bytes > 0) {
      this.#events.onData(this.#owner, bytes);
      if (this.#closed) return;
      const next = this.#events.readBuffer(this.#owner);
      if (next === this.#buffer) return;
      this.#buffer = next;
      return next;
    }
    // an end may be a reset: host/hidden-reset.ts
    const error = bytes === UV_EOF ? takeError(this.#handle.fd) : bytes;
    if (error === 0) {
      this.#peerEnded = true;
      this.#events.onEnd(this.#owner);
      this.#finish();
    } else this.#fail(error);
    return;
  }

  onWritten(status: number, bytes: number): void {
    this.queued -= bytes;
    if (this.#closed) return;
    if (status !== 0) {
      this.#fail(status);
      return;
    }
    this.#events.onWritten(this.#owner);
    this.#finish();
  }

  onShutdown(): void {
    this.#shutdownPending = false;
    if (this.#resetAfterShutdown) this.#reset();
  }

  get fd(): number {
    return this.#handle.fd;
  }

  write(bytes: Uint8Array): void {
    if (this.#closed) return;
    if (!this.#noDelay && this.#wrote) {
      this.#noDelay = true;
      this.#handle.setNoDelay(true);
    }
    this.#wrote = true;
    spareRequest ??= writeRequest();
    const request = spareRequest;
    const error = this.#handle.writeBuffer(request, bytes);
    if (error !== 0) {
      spareRequest = null;
      process.nextTick(() => this.#fail(error));
    } else if (streamBaseState[kLastWriteWasAsync] !== 0) {
      spareRequest = null;
      request.bytes = bytes;
      this.queued += bytes.length;
    }
  }

  keepAlive(): void {
    keepAlive(this.#handle.fd);
  }

  limitUnsent(bytes: number): void {
    limitUnsent(this.#handle.fd, bytes);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#finish();
  }

  /** After `end`, once nothing is queued: sends FIN, or closes if the peer has ended, too. */
  #finish(): void {
    if (this.#closed || !this.#ended || this.queued > 0) return;
    if (this.#peerEnded) {
      this.#closed = true;
      this.#handle.close();
      this.#events.onClosed(this.#owner);
    } else if (!this.#shutdownPending) {
      this.#shutdownPending = true;
      const request = new ShutdownWrap();
      request.oncomplete = onShutdown;
      const error = this.#handle.shutdown(request);
      if (error !== 0) process.nextTick(() => this.#fail(error));
    }
  }

  pause(): void {
    if (!this.#closed) this.#handle.readStop();
  }

  resume(): void {
    if (!this.#closed && !this.#peerEnded) this.#handle.readStart();
  }

  reset(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#shutdownPending) this.#resetAfterShutdown = true;
    else this.#reset();
  }

  #reset(): void {
    if (this.#connected && this.#handle.reset) this.#handle.reset();
    else this.#handle.close();
  }

  #fail(error: number): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
    this.#events.onFailed(this.#owner, getSystemErrorName(error));
  }
}

/** A stream from an accepted, paused socket, by the cheapest means. */
export function adoptStream<Owner>(owner: Owner, events: StreamEvents<Owner>, given: Socket): HostStream {
  if (!hasHandles || !isFresh(given)) return NetStream.adopt(owner, events, given);
  const handle = takeHandle(given) as Handle;
  // pipes have none
  handle.setNoDelay?.(true);
  return HandleStream.adopt(owner, events, handle);
}

/**
 * Delivers the clients of a listening TCP server as handles with their addresses, so that no socket is made around
 * them. They inherit socket options from the server. Does nothing where handles cannot be used; clients then come as
 * sockets, as earlier ones do.
 */
export function takeClients(server: Server, onClient: (client: ClientHandle, address: string, port: number) => void): void {
  const listening = (server as Server & { _handle: Partial<ListenHandle> | null })._handle;
  if (!hasHandles || typeof listening?.onconnection !== 'function') return;
  const handle = listening as ListenHandle;
  const failed = handle.onconnection;
  handle.setNoDelay(true);
  keepAlive(handle.fd);
  handle.onconnection = function (status, client) {
    if (status !== 0) {
      failed.call(this, status, client);
      return;
    }
    const from: { address?: string; port?: number } = {};
    client.getpeername(from);
    onClient(client as Handle & ClientHandle, from.address ?? '', from.port ?? 0);
  };
}
