/**
 * A UDP socket on every address of the host that answers each client from the address which the client asked.
 *
 * Theory of operation: Node discards the address that a datagram was sent to, and an answer from another one never
 * reaches a client with a connected socket. So these sockets are read below Node (ffi/datagrams), which needs no list
 * of the host's addresses: those added later and all of 127.0.0.0/8 work. The kernel announces datagrams by a signal
 * (readable-descriptors.ts). At most 64 of each socket are read in one turn of the event loop.
 *
 * Limits: Linux only.
 */
import { closeSync } from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { EAGAIN, openOnAllAddresses, receiveDatagram, sendDatagramFrom } from './ffi/datagrams.ts';
import { onLinux } from './ffi/koffi.ts';
import { addReadable, installSignalHandler, removeReadable } from './readable-descriptors.ts';

/** Datagrams of one socket in one turn. */
const TURN = 64;

/** The sender of a datagram, and the address of the host that it asked. */
export interface DatagramClient {
  /** IPv4 or IPv6 text. */
  readonly address: string;
  readonly port: number;
  /** Identifies the client and the address that it asked. */
  readonly key: string;
}

/** `key`: its socket address and control message, as latin1 text. */
class Client implements DatagramClient {
  readonly address: string;
  readonly port: number;
  readonly key: string;
  readonly name: Buffer;
  readonly from: Buffer;

  constructor(key: string, name: Buffer, from: Buffer) {
    this.key = key;
    this.name = Buffer.from(name);
    this.from = Buffer.from(from);
    this.port = name.readUInt16BE(2);
    this.address = name.length === 16 ? name.subarray(4, 8).join('.') : textOfIpv6(name.subarray(8, 24));
  }
}

function textOfIpv6(b: Buffer): string {
  return Array.from({ length: 8 }, (_, i) => b.readUInt16BE(2 * i).toString(16)).join(':');
}

export class AnyAddressSocket {
  readonly #fd: number;
  readonly #onDatagram: (bytes: Buffer, from: DatagramClient) => void;
  /** Sender of the last datagram: most often that of the next one. */
  #last: Client | null = null;
  /** The kernel takes no more in this turn of the event loop. */
  #full = false;
  #closed = false;

  private constructor(fd: number, onDatagram: (bytes: Buffer, from: DatagramClient) => void) {
    this.#fd = fd;
    this.#onDatagram = onDatagram;
    addReadable(this);
  }

  /** True where such sockets work. */
  static readonly available = onLinux;

  /** Opens one, or returns the error's code. `bytes` is a copy. */
  static open(isIpv6: boolean, port: number, onDatagram: (bytes: Buffer, from: DatagramClient) => void): AnyAddressSocket | { code: string } {
    installSignalHandler();
    const opened = openOnAllAddresses(isIpv6, port);
    if ('errno' in opened) return { code: getSystemErrorName(-opened.errno) };
    return new AnyAddressSocket(opened.fd, onDatagram);
  }

  read(): void {
    for (let n = 0; n < TURN; n++) {
      if (this.#closed) return;
      const d = receiveDatagram(this.#fd);
      if (!d) return;
      const key = d.name.toString('latin1') + d.from.toString('latin1');
      const client = this.#last?.key === key ? this.#last : new Client(key, d.name, d.from);
      this.#last = client;
      this.#onDatagram(Buffer.from(d.payload), client);
    }
    setImmediate(() => this.read());
  }

  /** Answers a client of this socket; false if the datagram was dropped. */
  send(bytes: Uint8Array, to: DatagramClient): boolean {
    if (this.#closed || this.#full || !(to instanceof Client)) return false;
    const error = sendDatagramFrom(this.#fd, bytes, to.name, to.from);
    if (error === EAGAIN) this.#pause();
    return error === 0;
  }

  /** To ask the kernel in vain for each datagram of a flood would take the time in which frames are read. */
  #pause(): void {
    this.#full = true;
    setImmediate(() => {
      this.#full = false;
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    removeReadable(this);
    closeSync(this.#fd);
  }
}
