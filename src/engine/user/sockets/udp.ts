/**
 * Host sockets of guests' UDP flows (net/udp-nat).
 *
 * Theory of operation: one unconnected socket per flow, on a port that the kernel chooses, whatever the guest talks to
 * by it (RFC 4787, endpoint-independent mapping). On Linux the kernel tells such a socket, too, of ICMP errors about
 * what it sent (host/datagram-sockets): they are read when a call fails, never per packet, and are carried back to the
 * guest. A datagram that was not sent since an earlier one's error came up is sent again. The guest's time to live and
 * its bit against fragments are the socket's own, so that traceroute and path MTU discovery work through it. Bytes are
 * copied on their way out, since the kernel may take them later than the call. Limits: where there is no Linux, a guest
 * that asks a closed port outside gets silence.
 */
import { createSocket, type Socket } from 'node:dgram';
import { closeSync } from 'node:fs';
import { forbidFragments, openErrorQueueSocket, readSocketErrors, type SocketError, setTimeToLive, unreachableCode } from '../../../host/datagram-sockets.ts';
import { takesDatagrams } from '../../../lib/datagram-room.ts';
import type { HostDatagrams } from '../../../net/udp-nat.ts';
import { formatIpv4, parseIpv4 } from '../../../wire/address.ts';
import { IcmpType, Unreachable } from '../../../wire/icmp.ts';

/** What a flow's socket tells. */
export interface UdpEvents {
  onMessage(bytes: Uint8Array, ip: number, port: number): void;
  /** What was sent did not arrive. */
  onLost(error: SocketError): void;
  /** The socket is of no use any more. */
  onFailed(): void;
}

/** Addresses are numbers already: there is nothing to look up, and nothing to wait for. */
const noLookup = (host: string, _options: unknown, callback: (error: null, address: string, family: number) => void): void => callback(null, host, 4);

/** A bound socket, or null when there is none to be had. */
export function openUdp(events: UdpEvents): HostDatagrams | null {
  const fd = process.platform === 'linux' ? openErrorQueueSocket('udp') : { fd: -1 };
  return 'fd' in fd ? new FlowSocket(fd.fd, events) : null;
}

class FlowSocket implements HostDatagrams {
  readonly #events: UdpEvents;
  readonly #socket: Socket;
  /** -1 where errors are not told. */
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
      if (this.#closed || this.#tellErrors()) return;
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
      if (this.#tellErrors() && code === undefined) {
        // that was about an earlier one, unless this one is too large itself
        if (again && !this.#closed && (error as NodeJS.ErrnoException).code !== 'EMSGSIZE') this.#send(bytes, ip, port, false);
      } else if (code !== undefined)
        this.#events.onLost({ type: IcmpType.unreachable, code, info: 0, offender: null, destination: ip, port, payload: bytes.subarray(0, 512) });
    });
  }

  /** True when there were some. */
  #tellErrors(): boolean {
    const errors = this.#fd < 0 ? [] : readSocketErrors(this.#fd);
    for (const e of errors) {
      // who lets it be cut is told of no size: the kernel cuts the next ones
      const cut = e.type === IcmpType.unreachable && e.code === Unreachable.fragmentationNeeded && !this.#whole;
      if (!cut && !this.#closed) this.#events.onLost(e);
    }
    return errors.length > 0;
  }
}
