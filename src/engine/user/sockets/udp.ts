/**
 * Host sockets of guests' UDP flows (net/udp-nat).
 *
 * Theory of operation: one unconnected socket per flow, on a port that the kernel chooses, for all destinations of the
 * flow (RFC 4787, endpoint-independent mapping). On Linux such a socket also receives ICMP errors about what it sent
 * (host/datagram-sockets). They are read when a call fails, never per packet, and relayed to the guest. A datagram that
 * failed only because of an earlier one's error is sent again. The guest's time to live and don't-fragment bit are set
 * on the socket, so that traceroute and path MTU discovery work; a datagram that the host's kernel knows to be too
 * large is reported like one that a router refused. Bytes are copied, since the kernel may take them after the call.
 * Limits: on systems other than Linux, a guest that sends to a closed port outside gets no error.
 */
import { createSocket, type Socket } from 'node:dgram';
import { closeSync } from 'node:fs';
import {
  ErrorQueue,
  forbidFragments,
  isTooLarge,
  openErrorQueueSocket,
  type SocketError,
  setTimeToLive,
  tooLarge,
  unreachableCode,
} from '../../../host/datagram-sockets.ts';
import { onLinux } from '../../../host/ffi/koffi.ts';
import { takesDatagrams } from '../../../lib/datagram-room.ts';
import type { HostDatagrams } from '../../../net/udp-nat.ts';
import { formatIpv4, parseIpv4 } from '../../../wire/address.ts';
import { IcmpType } from '../../../wire/icmp.ts';

/** Events of a flow's socket. */
export interface UdpEvents {
  onMessage(bytes: Uint8Array, ip: number, port: number): void;
  /** A datagram did not arrive. */
  onLost(error: SocketError): void;
  /** The socket is unusable. */
  onFailed(): void;
}

/** Addresses are numeric: avoids a lookup, which would delay each datagram. */
const noLookup = (host: string, _options: unknown, callback: (error: null, address: string, family: number) => void): void => callback(null, host, 4);

/**
 * A bound socket, or null when none can be opened. `from`: the address to send from; without one, the kernel chooses
 * for each datagram. A socket with an address reports no ICMP errors.
 */
export function openUdp(events: UdpEvents, from: string | null = null): HostDatagrams | null {
  const fd = onLinux && from === null ? openErrorQueueSocket('udp') : { fd: -1 };
  return 'fd' in fd ? new FlowSocket(fd.fd, from, events) : null;
}

class FlowSocket implements HostDatagrams {
  readonly #events: UdpEvents;
  readonly #socket: Socket;
  /** -1 where errors cannot be read. */
  readonly #fd: number;
  readonly #errors: ErrorQueue;
  #closed = false;
  #ttl = 0;
  /** Whether DF is set; null before the first datagram. */
  #whole: boolean | null = null;

  constructor(fd: number, from: string | null, events: UdpEvents) {
    this.#fd = fd;
    this.#errors = new ErrorQueue(fd);
    this.#events = events;
    this.#socket = createSocket({ type: 'udp4', lookup: noLookup as never });
    this.#socket.on('message', (bytes, from) => events.onMessage(bytes, parseIpv4(from.address) ?? 0, from.port));
    this.#socket.on('error', () => {
      if (this.#closed || this.#reportErrors()) return;
      this.close();
      events.onFailed();
    });
    try {
      if (fd < 0) this.#socket.bind(0, from ?? undefined);
      else this.#socket.bind({ fd });
    } catch (cause) {
      if (fd >= 0) closeSync(fd);
      this.#socket.emit('error', cause);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.close();
  }

  send(bytes: Uint8Array, ip: number, port: number, ttl: number, whole: boolean): boolean {
    if (this.#closed || !takesDatagrams(this.#socket)) return false;
    if (this.#fd >= 0 && ttl !== this.#ttl) {
      setTimeToLive(this.#fd, ttl);
      this.#ttl = ttl;
    }
    if (this.#fd >= 0 && whole !== this.#whole) {
      forbidFragments(this.#fd, whole);
      this.#whole = whole;
    }
    this.#send(Buffer.from(bytes), ip, port, true);
    return true;
  }

  #send(bytes: Buffer, ip: number, port: number, again: boolean): void {
    this.#socket.send(bytes, port, formatIpv4(ip), (error) => {
      if (!error || this.#closed) return;
      const code = unreachableCode(error);
      const reported = this.#reportErrors();
      if ((error as NodeJS.ErrnoException).code === 'EMSGSIZE') this.#tooLarge(bytes, ip, port);
      else if (reported && code === undefined) {
        // the error was about an earlier datagram
        if (again && !this.#closed) this.#send(bytes, ip, port, false);
      } else if (code !== undefined) this.#events.onLost({ type: IcmpType.unreachable, code, info: 0, offender: null, destination: ip, port, payload: bytes });
    });
  }

  #tooLarge(bytes: Buffer, ip: number, port: number): void {
    const mtu = this.#errors.pathMtu(ip);
    if (mtu > 0 && !this.#closed) this.#events.onLost(tooLarge(mtu, ip, port, bytes));
  }

  /** Returns true when there were errors. */
  #reportErrors(): boolean {
    const errors = this.#errors.read();
    // a guest that allows fragments needs no MTU
    for (const e of errors) if (!this.#closed && (this.#whole || !isTooLarge(e))) this.#events.onLost(e);
    return errors.length > 0;
  }
}
