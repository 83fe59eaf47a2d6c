/**
 * One TCP connection of the host, as the TCP path uses it, by node:net.
 *
 * Theory of operation. `HostStream` is what a stream is told, `StreamEvents` what it tells: one set of functions for
 * all streams, each called with the owner that its stream was made for. It reads into memory that its owner names, and
 * writes from memory that has to stay as it is until `onWritten` where `write` left it queued. A stream closes itself
 * when both directions have ended; then, and after `onFailed`, nothing more is told. No event comes before the call
 * that leads to it has returned, but `onClosed`, which `end` may lead to at once.
 *
 * Limits. handle-stream.ts is the same below node:net, and a good deal cheaper; it serves wherever it can. Here is what
 * serves elsewhere, and for sockets from which something has been read already.
 */
import { connect, Socket } from 'node:net';
import { keepAlive, limitUnsent } from '../../../host/ffi/sockets.ts';

export interface HostStream {
  /** Bytes that were written and that the kernel has not taken yet. */
  readonly queued: number;
  /** Its descriptor; -1 where there is none. */
  readonly fd: number;
  write(bytes: Uint8Array): void;
  /** Has the kernel find out when the peer is gone. Those from outside have it from their listener. */
  keepAlive(): void;
  /** Has the kernel keep no more than `bytes` that it has not sent yet. */
  limitUnsent(bytes: number): void;
  /** FIN, after what is queued. */
  end(): void;
  pause(): void;
  resume(): void;
  /** RST, where there is such a thing and a connection; what is queued is lost. Nothing more is told. */
  reset(): void;
}

export interface StreamEvents<Owner> {
  /** Where the next read goes to. */
  readBuffer(owner: Owner): Uint8Array;
  onConnect(owner: Owner): void;
  /** Bytes are at the beginning of what `readBuffer` gave. */
  onData(owner: Owner, bytes: number): void;
  /** Bytes that came elsewhere; they are the owner's. */
  onCopied(owner: Owner, bytes: Buffer): void;
  /** Its peer sends no more. */
  onEnd(owner: Owner): void;
  /** The oldest of the writes that were queued is finished. */
  onWritten(owner: Owner): void;
  /** It ended by an error, such as ECONNREFUSED. */
  onFailed(owner: Owner, code: string): void;
  /** Both directions have ended. */
  onClosed(owner: Owner): void;
}

/** What node:net keeps of a socket below itself. */
export type SocketWithin = Socket & { _handle: (object & { reading?: boolean; fd?: number }) | null };

/**
 * Whether the handle of a socket that came from outside, paused, may be taken out of it: nothing has been read from it.
 */
export function isFresh(socket: Socket): boolean {
  return (socket as SocketWithin)._handle !== null && socket.readableLength === 0 && socket.bytesRead === 0;
}

/** Takes it out; the socket is nothing any more. */
export function takeHandle(socket: Socket): object {
  const within = socket as SocketWithin;
  const handle = within._handle as object;
  within._handle = null;
  socket.destroy();
  return handle;
}

/** Ends a socket so that its peer notices: a reset, where there is such a thing. */
export function resetSocket(socket: Socket): void {
  if (socket.remoteAddress === undefined) socket.destroy();
  else socket.resetAndDestroy();
}

export class NetStream<Owner> implements HostStream {
  readonly #socket: Socket;
  readonly #owner: Owner;
  readonly #events: StreamEvents<Owner>;
  #over = false;

  private constructor(make: (onread: object) => Socket, owner: Owner, events: StreamEvents<Owner>) {
    this.#owner = owner;
    this.#events = events;
    const callback = (bytes: number): boolean => {
      if (!this.#over) events.onData(owner, bytes);
      return true;
    };
    const socket = make({ buffer: () => events.readBuffer(owner), callback });
    this.#socket = socket;
    socket.on('end', () => {
      if (!this.#over) events.onEnd(owner);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#over) return;
      this.#over = true;
      events.onFailed(owner, error.code ?? '');
    });
    socket.on('close', () => {
      if (this.#over) return;
      this.#over = true;
      events.onClosed(owner);
    });
  }

  static connect<Owner>(owner: Owner, events: StreamEvents<Owner>, host: string, port: number): HostStream {
    const make = (onread: object): Socket => connect({ host, port, allowHalfOpen: true, noDelay: true, onread: onread as never });
    const stream = new NetStream(make, owner, events);
    stream.#socket.once('connect', () => events.onConnect(owner));
    return stream;
  }

  /**
   * A socket from outside, paused: wrapped anew, so that it reads into our memory, unless something was read from it.
   */
  static adopt<Owner>(owner: Owner, events: StreamEvents<Owner>, given: Socket): HostStream {
    const fresh = isFresh(given);
    const stream = new NetStream((onread) => (fresh ? new Socket({ handle: takeHandle(given), allowHalfOpen: true, onread } as never) : given), owner, events);
    if (fresh) stream.#socket.setNoDelay(true);
    else
      given.on('data', (data: Buffer) => {
        if (!stream.#over) events.onCopied(owner, data);
      });
    stream.#socket.resume();
    return stream;
  }

  get queued(): number {
    return this.#socket.writableLength;
  }

  get fd(): number {
    return (this.#socket as SocketWithin)._handle?.fd ?? -1;
  }

  write(bytes: Uint8Array): void {
    if (this.#socket.destroyed) return;
    let atOnce = false;
    this.#socket.write(bytes, () => {
      if (!atOnce && !this.#over) this.#events.onWritten(this.#owner);
    });
    atOnce = this.#socket.writableLength === 0;
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
    this.#over = true;
    const socket = this.#socket;
    // a FIN on its way to the kernel is waited for: Node could not reset the socket, and would never close it
    if (socket.writableEnded && !socket.writableFinished && socket.writableLength === 0) socket.once('finish', () => resetSocket(socket));
    else if (socket.connecting) socket.destroy();
    else resetSocket(socket);
  }
}
