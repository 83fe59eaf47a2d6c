/**
 * Host sockets of guests' UDP flows (net/udp-nat).
 *
 * Theory of operation: one unconnected socket per flow, on a port that the kernel chooses, for all destinations of the
 * flow (RFC 4787, endpoint-independent mapping). On Linux such a socket also receives ICMP errors about what it sent
 * (host/datagram-sockets). They are read when a call fails, never per packet, and relayed to the guest. A datagram that
 * failed only because of an earlier one's error is sent again. The guest's time to live and don't-fragment bit are set
 * on the socket, so that traceroute and path MTU discovery work. Bytes are copied, since the kernel may take them after
 * the call. Limits: on systems other than Linux, a guest that sends to a closed port outside gets no error.
 */
import { createSocket, type Socket } from 'node:dgram';
import { closeSync } from 'node:fs';
import { forbidFragments, openErrorQueueSocket, readSocketErrors, type SocketError, setTimeToLive, unreachableCode } from '../../../host/datagram-sockets.ts';
import { takesDatagrams } from '../../../lib/datagram-room.ts';
import type { HostDatagrams } from '../../../net/udp-nat.ts';
import { formatIpv4, parseIpv4 } from '../../../wire/address.ts';
import { IcmpType, Unreachable } from '../../../wire/icmp.ts';

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

/** A bound socket, or null when none can be opened. */
export function openUdp(events: UdpEvents): HostDatagrams | null {
  const fd = process.platform === 'linux' ? openErrorQueueSocket('udp') : { fd: -1 };
  return 'fd' in fd ? new FlowSocket(fd.fd, events) : null;
}

class FlowSocket implements HostDatagrams {
  readonly #events: UdpEvents;
  readonly #socket: Socket;
  /** -1 where errors cannot be read. */
  readonly #fd: number;
  #closed = false;
  #ttl = 0;
  #whole = false;

  constructor(fd: number, events: UdpEvents) {
    this.#fd = fd;
    this.#events = events;
    this.#socket = createSocket({ type: 'udp4', lookup: noLookup as never });
    this.#socket.on('message', (bytes, from) => events.onMessage(bytes, parseIpv4(from.address) ?? 0, from.port));
    this.#socket.on('error', () => {
      if (this.#closed || this.#reportErrors()) return;
      this.close();
      events.onFailed();
    });
    try {
      if (fd < 0) this.#socket.bind(0);
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
      if (this.#reportErrors() && code === undefined) {
        // the error was about an earlier datagram, unless this one is too large itself
        if (again && !this.#closed && (error as NodeJS.ErrnoException).code !== 'EMSGSIZE') this.#send(bytes, ip, port, false);
      } else if (code !== undefined)
        this.#events.onLost({ type: IcmpType.unreachable, code, info: 0, offender: null, destination: ip, port, payload: bytes.subarray(0, 512) });
    });
  }

  /** Returns true when there were errors. */
  #reportErrors(): boolean {
    const errors = this.#fd < 0 ? [] : readSocketErrors(this.#fd);
    for (const e of errors) {
      // a guest that allows fragments needs no MTU: the kernel fragments the next datagrams
      const fragmentable = e.type === IcmpType.unreachable && e.code === Unreachable.fragmentationNeeded && !this.#whole;
      if (!fragmentable && !this.#closed) this.#events.onLost(e);
    }
    return errors.length > 0;
  }
}
