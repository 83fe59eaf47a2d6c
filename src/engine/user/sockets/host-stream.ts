/**
 * One TCP connection of the host, as the TCP path uses it, by node:net.
 *
 * Theory of operation: `HostStream` is a stream's commands, `StreamEvents` its events: one set of functions for all
 * streams, each called with the stream's owner. It reads into memory that its owner names. Memory of a write that is
 * queued must not change until `onWritten`. A stream closes itself when both directions have ended; after that, and
 * after `onFailed`, there are no more events. No event comes before the call that leads to it has returned, except
 * `onClosed`, to which `end` may lead at once.
 *
 * Limits: handle-stream.ts does the same below node:net at a fraction of the cost, and is preferred. This one serves
 * elsewhere, and for sockets that were read before.
 */
import { connect, Socket } from 'node:net';
import { descriptorOf } from '../../../host/descriptor.ts';
import { inlineUrgent, keepAlive, limitUnsent } from '../../../host/ffi/sockets.ts';
import { onEnd } from '../../../host/hidden-reset.ts';
import type { TcpDestination } from '../../../net/tcp/interface.ts';

export interface HostStream {
  /** Bytes written that the kernel has not taken yet. */
  readonly queued: number;
  /** Its descriptor; -1 where there is none. */
  readonly fd: number;
  write(bytes: Uint8Array): void;
  /** Turns on TCP keep-alive. Accepted sockets inherit it from their listener. */
  keepAlive(): void;
  /** Limits unsent bytes in the kernel (TCP_NOTSENT_LOWAT). */
  limitUnsent(bytes: number): void;
  /** FIN, after what is queued. */
  end(): void;
  pause(): void;
  resume(): void;
  /** Sends RST if it is a TCP connection; queued bytes are lost. No more events. */
  reset(): void;
}

export interface StreamEvents<Owner> {
  /** The buffer for the next read. */
  readBuffer(owner: Owner): Uint8Array;
  onConnect(owner: Owner): void;
  /** `bytes` are at the start of the last `readBuffer`. */
  onData(owner: Owner, bytes: number): void;
  /** Bytes that were read elsewhere; the owner keeps them. */
  onCopied(owner: Owner, bytes: Buffer): void;
  /** The peer has sent FIN. */
  onEnd(owner: Owner): void;
  /** The oldest queued write is finished. */
  onWritten(owner: Owner): void;
  /** It failed, e.g. with ECONNREFUSED. */
  onFailed(owner: Owner, code: string): void;
  /** Both directions have ended. */
  onClosed(owner: Owner): void;
}

/** The internal handle of a node:net socket. */
export type SocketInternals = Socket & { _handle: (object & { reading?: boolean }) | null };

/** True when the handle of an accepted, paused socket may be taken: nothing has been read from it. */
export function isFresh(socket: Socket): boolean {
  return (socket as SocketInternals)._handle !== null && socket.readableLength === 0 && socket.bytesRead === 0;
}

/** Takes the handle; the socket is unusable afterwards. */
export function takeHandle(socket: Socket): object {
  const within = socket as SocketInternals;
  const handle = within._handle as object;
  within._handle = null;
  socket.destroy();
  return handle;
}

/** Closes a socket with RST if it is a TCP connection. */
export function resetSocket(socket: Socket): void {
  if (socket.remoteAddress === undefined) socket.destroy();
  else socket.resetAndDestroy();
}

export class NetStream<Owner> implements HostStream {
  readonly #socket: Socket;
  readonly #owner: Owner;
  readonly #events: StreamEvents<Owner>;
  #closed = false;

  private constructor(make: (onread: object) => Socket, owner: Owner, events: StreamEvents<Owner>) {
    this.#owner = owner;
    this.#events = events;
    const callback = (bytes: number): boolean => {
      if (!this.#closed) events.onData(owner, bytes);
      return true;
    };
    const socket = make({ buffer: () => events.readBuffer(owner), callback });
    this.#socket = socket;
    onEnd(socket, () => {
      if (!this.#closed) events.onEnd(owner);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#closed) return;
      this.#closed = true;
      events.onFailed(owner, error.code ?? '');
    });
    socket.on('close', () => {
      if (this.#closed) return;
      this.#closed = true;
      events.onClosed(owner);
    });
  }

  static connect<Owner>(owner: Owner, events: StreamEvents<Owner>, { host, port, from }: TcpDestination): HostStream {
    const local = from === undefined ? {} : { localAddress: from };
    const make = (onread: object): Socket => connect({ host, port, ...local, allowHalfOpen: true, noDelay: true, onread: onread as never });
    const stream = new NetStream(make, owner, events);
    stream.#socket.once('connect', () => {
      inlineUrgent(stream.fd);
      events.onConnect(owner);
    });
    return stream;
  }

  /** Wraps an accepted, paused socket anew, so that it reads into our memory, unless it was read before. */
  static adopt<Owner>(owner: Owner, events: StreamEvents<Owner>, given: Socket): HostStream {
    const fresh = isFresh(given);
    const stream = new NetStream((onread) => (fresh ? new Socket({ handle: takeHandle(given), allowHalfOpen: true, onread } as never) : given), owner, events);
    if (fresh) stream.#socket.setNoDelay(true);
    else
      given.on('data', (data: Buffer) => {
        if (!stream.#closed) events.onCopied(owner, data);
      });
    stream.#socket.resume();
    return stream;
  }

  get queued(): number {
    return this.#socket.writableLength;
  }

  get fd(): number {
    return descriptorOf(this.#socket);
  }

  write(bytes: Uint8Array): void {
    if (this.#socket.destroyed) return;
    let synchronous = false;
    this.#socket.write(bytes, () => {
      if (!synchronous && !this.#closed) this.#events.onWritten(this.#owner);
    });
    synchronous = this.#socket.writableLength === 0;
  }

  keepAlive(): void {
    keepAlive(this.fd);
  }

  limitUnsent(bytes: number): void {
    limitUnsent(this.fd, bytes);
  }

  end(): void {
    this.#socket.end();
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  reset(): void {
    this.#closed = true;
    const socket = this.#socket;
    // wait for a FIN on its way to the kernel: until then Node cannot reset the socket, and would never close it
    if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) socket.once('finish', () => resetSocket(socket));
    else if (socket.connecting) socket.destroy();
    else resetSocket(socket);
  }
}
