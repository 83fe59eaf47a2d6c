/**
 * Echo requests of guests to outside, by the kernel's echo sockets (icmp(7)), which need no privilege if
 * `net.ipv4.ping_group_range` includes our group.
 *
 * Theory of operation: one socket per NIC, guest address, destination and identifier. The kernel assigns an identifier
 * of its own; replies get the guest's back. Node treats the descriptor as a datagram socket. ICMP errors about echoes
 * (unreachable, time exceeded) are relayed, and the guest's time to live and don't-fragment bit are used, so that
 * traceroute and path MTU discovery work. An echo that the host's kernel knows to be too large for its path is reported
 * like one that a router refused.
 *
 * Limits: 64 sockets per NIC, the least recently used is evicted, and one expires after 60 s without an echo (RFC 5508
 * REQ-2); a burst of 64 new ones, and 64 a second.
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
import { monotonicMs } from '../../../lib/clock.ts';
import { takesDatagrams } from '../../../lib/datagram-room.ts';
import { TokenBucket } from '../../../net/token-bucket.ts';
import { formatIpv4, parseIpv4 } from '../../../wire/address.ts';
import { fold16, get16, put16 } from '../../../wire/bytes.ts';
import { ICMP_HEADER, IcmpType, sealIcmp } from '../../../wire/icmp.ts';

const MAX_SOCKETS = 64;
const NEW_SOCKETS_MS = 1000;
const IDLE_MS = 60_000;
const IDENTIFIER = 4;

interface EchoSocket {
  socket: Socket;
  fd: number;
  errors: ErrorQueue;
  ttl: number;
  /** Whether DF is set; null before the first echo. */
  whole: boolean | null;
  lastAt: number;
}

/** Answers to a guest's echo. */
export interface EchoEvents {
  /** A whole reply, with the guest's identifier. */
  onReply(source: number, message: Uint8Array): void;
  /** It did not arrive; the error's payload has the guest's identifier. */
  onLost(error: SocketError): void;
}

/** An echo request of a guest. */
export interface EchoRequest {
  /** The guest's address and the destination as the guest knows it. */
  who: string;
  /** Where it is sent to. */
  destination: number;
  /** Copied. */
  message: Uint8Array;
  ttl: number;
  /** It must not be fragmented. */
  whole: boolean;
}

/** Echo sockets of one NIC. */
interface NicEchoes {
  /** By guest address, destination and identifier; least recently used first. */
  readonly sockets: Map<string, EchoSocket>;
  readonly opened: TokenBucket;
}

export class PingSockets {
  /** By the port's index. */
  readonly #nics = new Map<number, NicEchoes>();
  #refused = '';

  /** Why the last echo to outside could not be sent; empty when it could. */
  get refused(): string {
    return this.#refused;
  }

  /** True if this process may open echo sockets now. */
  allowed(): boolean {
    const opened = openEcho();
    if ('fd' in opened) closeSync(opened.fd);
    return 'fd' in opened;
  }

  /** Sends a guest's echo request; returns the drop reason when it cannot. `nic`: the port's index. */
  send(nic: number, echo: EchoRequest, events: EchoEvents): 'no_ping_right' | 'rate_limit' | 'queue_full' | null {
    const { who, destination, ttl, whole } = echo;
    const message = Buffer.from(echo.message);
    const identifier = get16(message, IDENTIFIER);
    const key = `${who} ${identifier}`;
    const now = monotonicMs();
    const { sockets, opened } = this.#socketsOf(nic);
    let p = sockets.get(key);
    if (p) sockets.delete(key);
    else {
      if (!opened.take(now)) return 'rate_limit';
      if (sockets.size >= MAX_SOCKETS) closeSocket(sockets, sockets.keys().next().value as string);
      const pinger = this.#open(sockets, key, identifier, events);
      if (!pinger) return 'no_ping_right';
      p = pinger;
    }
    p.lastAt = now;
    sockets.set(key, p);
    if (p.ttl !== ttl) setTimeToLive(p.fd, ttl);
    p.ttl = ttl;
    if (p.whole !== whole) forbidFragments(p.fd, whole);
    p.whole = whole;
    const { socket } = p;
    if (!takesDatagrams(socket)) return 'queue_full';
    socket.send(message, 1, formatIpv4(destination), (error) => {
      if (!error || sockets.get(key)?.socket !== socket) return;
      const reported = reportErrors(p, identifier, events);
      const code = unreachableCode(error);
      if ((error as NodeJS.ErrnoException).code === 'EMSGSIZE') {
        const mtu = p.errors.pathMtu(destination);
        if (mtu > 0) events.onLost(tooLarge(mtu, destination, 0, message));
      } else if (!reported && code !== undefined)
        events.onLost({ type: IcmpType.unreachable, code, info: 0, offender: null, destination, port: 0, payload: message });
    });
    return null;
  }

  /** Closes the sockets of a NIC. */
  forget(nic: number): void {
    const { sockets } = this.#nics.get(nic) ?? {};
    for (const key of [...(sockets?.keys() ?? [])]) closeSocket(sockets as Map<string, EchoSocket>, key);
    this.#nics.delete(nic);
  }

  poll(now: number): void {
    for (const [nic, { sockets }] of this.#nics) {
      for (const [key, p] of sockets) if (now - p.lastAt >= IDLE_MS) closeSocket(sockets, key);
      if (sockets.size === 0) this.#nics.delete(nic);
    }
  }

  close(): void {
    for (const nic of [...this.#nics.keys()]) this.forget(nic);
  }

  #socketsOf(nic: number): NicEchoes {
    let pings = this.#nics.get(nic);
    if (!pings) {
      pings = { sockets: new Map(), opened: new TokenBucket(MAX_SOCKETS, NEW_SOCKETS_MS) };
      this.#nics.set(nic, pings);
    }
    return pings;
  }

  #open(sockets: Map<string, EchoSocket>, key: string, identifier: number, events: EchoEvents): EchoSocket | null {
    const opened = openEcho();
    if ('error' in opened) {
      this.#refused = opened.error;
      return null;
    }
    this.#refused = '';
    const { fd } = opened;
    const socket = createSocket('udp4');
    const echoes: EchoSocket = { socket, fd, errors: new ErrorQueue(fd), ttl: 0, whole: null, lastAt: 0 };
    socket.on('message', (bytes, from) => {
      if (bytes.length < ICMP_HEADER || bytes[0] !== IcmpType.echoReply) return;
      put16(bytes, IDENTIFIER, identifier);
      sealIcmp(bytes, 0, bytes.length, IcmpType.echoReply, 0);
      events.onReply(parseIpv4(from.address) ?? 0, bytes);
    });
    socket.on('error', () => {
      if (sockets.get(key)?.socket === socket && !reportErrors(echoes, identifier, events)) closeSocket(sockets, key);
    });
    try {
      socket.bind({ fd });
    } catch (cause) {
      closeSync(fd);
      this.#refused = (cause as Error).message;
      return null;
    }
    return echoes;
  }
}

function closeSocket(sockets: Map<string, EchoSocket>, key: string): void {
  sockets.get(key)?.socket.close();
  sockets.delete(key);
}

function openEcho(): { fd: number } | { error: string } {
  if (process.platform !== 'linux') return { error: 'echo sockets are used on Linux only' };
  const opened = openErrorQueueSocket('echo');
  return 'fd' in opened ? opened : { error: `${opened.error}; see net.ipv4.ping_group_range` };
}

/**
 * Returns true when there were errors. Replaces the kernel's identifier by the guest's, with the checksum (RFC 1624).
 */
function reportErrors({ errors: queue, whole }: EchoSocket, identifier: number, events: EchoEvents): boolean {
  const errors = queue.read();
  for (const e of errors) {
    // a guest that allows fragments needs no MTU
    if (!whole && isTooLarge(e)) continue;
    if (e.payload.length >= ICMP_HEADER) {
      const sum = (~get16(e.payload, 2) & 0xffff) + (~get16(e.payload, IDENTIFIER) & 0xffff) + identifier;
      put16(e.payload, 2, ~fold16(sum) & 0xffff);
      put16(e.payload, IDENTIFIER, identifier);
    }
    events.onLost(e);
  }
  return errors.length > 0;
}
