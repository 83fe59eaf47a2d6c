/**
 * One TCP connection of the host below node:net: the handles that Node's own sockets are made of, by `process.binding`.
 *
 * Theory of operation. Half of what a new connection cost was node:net's: stream states, listeners, ticks, options. A
 * handle is a C++ object around libuv's stream, whose methods give error numbers, and whose answers come to functions
 * that all handles share. What a call tells beside its result (bytes read, whether a write was finished at once) stands
 * in one array that all streams use. A request object is used up only by what is not finished at once, so one serves
 * many writes. Clients of a server are taken as handles, before node:net makes sockets of them. A FIN that would be
 * followed by a close is left to the close; small segments are not held back (TCP_NODELAY) from the second write on, as
 * the first is never held back.
 *
 * Limits. The binding is inside Node, and deprecated in its documentation (DEP0111): it is used in those releases of
 * Node for which the tests were run (`RELEASES`), and only when it looks as it does there; elsewhere node:net serves.
 * docs/decisions/0014 has the figures and the risk. IPv4 only.
 */
import type { Server, Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import { keepAlive, limitUnsent } from '../../../host/ffi/sockets.ts';
import type { ClientHandle } from '../../../net/tcp/interface.ts';
import { type HostStream, isFresh, NetStream, type StreamEvents, takeHandle } from './host-stream.ts';

/** Major releases of Node whose handles are known to behave as is expected here. */
const RELEASES = ['20', '22', '24'];

interface Handle {
  onread: (this: Handle) => Uint8Array | undefined;
  /** Ours: whose it is. */
  stream?: HandleStream<unknown>;
  readonly fd: number;
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

/** What a listening socket is made of. */
interface ListenHandle {
  onconnection: (this: ListenHandle, status: number, client: Handle) => void;
  readonly fd: number;
  setNoDelay(on: boolean): number;
}

interface Request {
  oncomplete: (this: Request, status: number, handle: Handle) => void;
  /** Ours: what is being written, which must not be collected. */
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

const METHODS = ['connect', 'readStart', 'readStop', 'useUserBuffer', 'writeBuffer', 'shutdown', 'setNoDelay', 'getpeername', 'reset', 'close'] as const;
/** `TCP`'s argument: a socket, not a server. */
const SOCKET = 0;
/** libuv's number for the end of a stream, the same on all systems. */
const UV_EOF = -4095;

/** The binding, or null where there is none that we know. */
function load(): Binding | null {
  const { binding } = process as { binding?: (name: string) => object };
  if (!RELEASES.includes(process.versions.node.split('.')[0] as string) || !binding || process.permission) return null;
  const b = { ...binding('tcp_wrap'), ...binding('stream_wrap') } as Partial<Binding>;
  const made = [b.TCP, b.TCPConnectWrap, b.WriteWrap, b.ShutdownWrap].every((c) => typeof c === 'function');
  const told = b.streamBaseState instanceof Int32Array && typeof b.kReadBytesOrError === 'number' && typeof b.kLastWriteWasAsync === 'number';
  if (!made || !told) return null;
  const methods = b.TCP?.prototype as Record<string, unknown>;
  return METHODS.every((m) => typeof methods[m] === 'function') ? (b as Binding) : null;
}

const native = load();

/** Whether `HandleStream` may be used. */
export const hasHandles = native !== null;

const { TCP, TCPConnectWrap, WriteWrap, ShutdownWrap, streamBaseState, kReadBytesOrError, kLastWriteWasAsync } = native ?? ({} as Binding);
let spare: Request | null = null;

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
  /** Closed, or failed: nothing more is told. */
  #over = false;
  #connected: boolean;
  /** The peer sends no more; we shall send no more. */
  #peerEnded = false;
  #ended = false;
  /** A FIN is on its way to the kernel, and what to do then. */
  #shutting = false;
  #resetLater = false;
  #undelayed: boolean;
  #wrote = false;

  private constructor(handle: Handle, owner: Owner, events: StreamEvents<Owner>, adopted: boolean) {
    this.#handle = handle;
    this.#owner = owner;
    this.#events = events;
    this.#connected = this.#undelayed = adopted;
    handle.stream = this as HandleStream<unknown>;
    handle.onread = onRead;
  }

  static connect<Owner>(owner: Owner, events: StreamEvents<Owner>, host: string, port: number): HostStream {
    const handle = new TCP(SOCKET);
    const stream = new HandleStream(handle, owner, events, false);
    const request = new TCPConnectWrap();
    request.oncomplete = onConnect;
    const error = handle.connect(request, host, port);
    if (error !== 0) process.nextTick(() => stream.#fail(error));
    // at once: libuv then asks the kernel for both events in one call, and does not try in vain to add the socket anew
    // when it is connected
    else stream.#begin();
    return stream;
  }

  /** A handle that was taken out of a socket from outside, or that `takeClients` gave. */
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
    if (this.#over) return;
    if (status !== 0) {
      this.#fail(status);
      return;
    }
    this.#connected = true;
    this.#events.onConnect(this.#owner);
  }

  /** Bytes read, or an error number. Gives a buffer for the next read when it is another. */
  onRead(bytes: number): Uint8Array | undefined {
    if (this.#over || bytes === 0) return;
    if (bytes > 0) {
      this.#events.onData(this.#owner, bytes);
      if (this.#over) return;
      const next = this.#events.readBuffer(this.#owner);
      if (next === this.#buffer) return;
      this.#buffer = next;
      return next;
    }
    if (bytes === UV_EOF) {
      this.#peerEnded = true;
      this.#events.onEnd(this.#owner);
      this.#finish();
    } else this.#fail(bytes);
    return;
  }

  onWritten(status: number, bytes: number): void {
    this.queued -= bytes;
    if (this.#over) return;
    if (status !== 0) {
      this.#fail(status);
      return;
    }
    this.#events.onWritten(this.#owner);
    this.#finish();
  }

  onShutdown(): void {
    this.#shutting = false;
    if (this.#resetLater) this.#reset();
  }

  get fd(): number {
    return this.#handle.fd;
  }

  write(bytes: Uint8Array): void {
    if (this.#over) return;
    if (!this.#undelayed && this.#wrote) {
      this.#undelayed = true;
      this.#handle.setNoDelay(true);
    }
    this.#wrote = true;
    spare ??= writeRequest();
    const request = spare;
    const error = this.#handle.writeBuffer(request, bytes);
    if (error !== 0) {
      spare = null;
      process.nextTick(() => this.#fail(error));
    } else if (streamBaseState[kLastWriteWasAsync] !== 0) {
      spare = null;
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

  /** What is to be done when we shall send no more and all that we had to send is with the kernel. */
  #finish(): void {
    if (this.#over || !this.#ended || this.queued > 0) return;
    if (this.#peerEnded) {
      this.#over = true;
      this.#handle.close();
      this.#events.onClosed(this.#owner);
    } else if (!this.#shutting) {
      this.#shutting = true;
      const request = new ShutdownWrap();
      request.oncomplete = onShutdown;
      const error = this.#handle.shutdown(request);
      if (error !== 0) process.nextTick(() => this.#fail(error));
    }
  }

  pause(): void {
    if (!this.#over) this.#handle.readStop();
  }

  resume(): void {
    if (!this.#over && !this.#peerEnded) this.#handle.readStart();
  }

  reset(): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#shutting) this.#resetLater = true;
    else this.#reset();
  }

  #reset(): void {
    if (this.#connected && this.#handle.reset) this.#handle.reset();
    else this.#handle.close();
  }

  #fail(error: number): void {
    if (this.#over) return;
    this.#over = true;
    this.#handle.close();
    this.#events.onFailed(this.#owner, getSystemErrorName(error));
  }
}

/** A stream out of a socket from outside, paused, by whatever serves it best. */
export function adoptStream<Owner>(owner: Owner, events: StreamEvents<Owner>, given: Socket): HostStream {
  if (!hasHandles || !isFresh(given)) return NetStream.adopt(owner, events, given);
  const handle = takeHandle(given) as Handle;
  // pipes have no such thing
  handle.setNoDelay?.(true);
  return HandleStream.adopt(owner, events, handle);
}

/**
 * Has the clients of a listening TCP server given as handles from now on, each with its address, so that no socket is
 * made around them only to be taken apart; what the kernel is to know of each it takes over from the server. Does
 * nothing where there are no handles: they come as sockets then, as those do that came before.
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
