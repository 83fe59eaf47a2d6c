/**
 * UDP and ICMP echo sockets that report the ICMP errors to their datagrams, without privileges (ip(7), IP_RECVERR).
 *
 * Theory of operation: the kernel queues errors at the socket and fails its next call; the caller then reads the queue.
 * An error contains the datagram's payload, its destination and the offender. Time to live and "don't fragment" are set
 * per socket: the caller sets them again when they change. A datagram that the kernel itself finds too large for its
 * path fails by EMSGSIZE; that entry of the queue has the path MTU, but neither payload nor port, which the caller has.
 *
 * Limits: Linux only. Elsewhere there is no such socket, and errors are not reported.
 */
import { closeSync } from 'node:fs';
import { openDatagram, receiveError, setIntOption } from './ffi/sockets.ts';

const IPPROTO_IP = 0;
const IPPROTO_ICMP = 1;
const IPPROTO_UDP = 17;
const IP_TTL = 2;
const IP_MTU_DISCOVER = 10;
const IP_RECVERR = 11;
const IP_PMTUDISC_DONT = 0;
const IP_PMTUDISC_DO = 2;
const ORIGIN_LOCAL = 1;
const ORIGIN_ICMP = 2;
const EMSGSIZE = 90;
/** Bytes of a datagram's payload that are kept; routers quote less. */
const PAYLOAD_SIZE = 576;
const CMSG_HEADER = 16;
const EXTENDED_ERROR = 16;
const UNREACHABLE = 3;
const FRAGMENTATION_NEEDED = 4;
/** Most errors read in one call. */
const MAX_ERRORS = 64;
/** Path MTUs of one socket that are remembered. */
const MAX_PATHS = 64;

export interface SocketError {
  /** As in the ICMP message; errors of the host itself use the same numbers. */
  type: number;
  code: number;
  /** Second word of the message: the next hop's MTU if fragmentation is needed. */
  info: number;
  /** Address of the sender of the error; null = this host. */
  offender: number | null;
  /** Destination of the datagram. */
  destination: number;
  port: number;
  /** The payload, or its first bytes; of the whole ICMP message for an echo socket. */
  payload: Uint8Array;
}

/** An entry of the queue. `isLocal`: the kernel did not send the datagram; payload and port are unknown. */
type QueuedError = SocketError & { isLocal: boolean };

/** Codes of ICMP "destination unreachable" for the errors of a call. */
const UNREACHABLE_CODES: Record<string, number> = { ENETUNREACH: 0, EHOSTUNREACH: 1, EACCES: 13, EPERM: 13 };

/** The code of "destination unreachable" that corresponds to a failed call; undefined if there is none. */
export function unreachableCode(error: NodeJS.ErrnoException): number | undefined {
  return UNREACHABLE_CODES[error.code ?? ''];
}

/** An open socket for `dgram`, which closes it; or why there is none. */
export function openErrorQueueSocket(kind: 'udp' | 'echo'): { fd: number } | { error: string } {
  const opened = openDatagram(kind === 'udp' ? IPPROTO_UDP : IPPROTO_ICMP);
  if ('errno' in opened) return { error: `the kernel refuses ${kind} sockets (errno ${opened.errno})` };
  if (setIntOption(opened.fd, IPPROTO_IP, IP_RECVERR, 1)) return opened;
  closeSync(opened.fd);
  return { error: 'the kernel does not report ICMP errors' };
}

export function setTimeToLive(fd: number, hops: number): void {
  setIntOption(fd, IPPROTO_IP, IP_TTL, hops);
}

/** Sets DF: datagrams above the path MTU fail. Without it, the kernel and routers fragment them. */
export function forbidFragments(fd: number, on: boolean): void {
  setIntOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, on ? IP_PMTUDISC_DO : IP_PMTUDISC_DONT);
}

/** "Fragmentation needed" about a datagram that the kernel refused; `mtu` of its path. */
export function tooLarge(mtu: number, destination: number, port: number, payload: Uint8Array): SocketError {
  return { type: UNREACHABLE, code: FRAGMENTATION_NEEDED, info: mtu, offender: null, destination, port, payload };
}

export const isTooLarge = (e: Pick<SocketError, 'type' | 'code'>): boolean => e.type === UNREACHABLE && e.code === FRAGMENTATION_NEEDED;

/** The error queue of one socket. */
export class ErrorQueue {
  readonly #fd: number;
  /** By destination, as the kernel last said; the oldest first. */
  #pathMtus: Map<number, number> | null = null;

  /** `fd`: −1 where errors cannot be read. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Takes the errors that others have sent. */
  read(): SocketError[] {
    const errors = this.#fd < 0 ? [] : readSocketErrors(this.#fd);
    for (const e of errors) if (e.isLocal) this.#remember(e.destination, e.info);
    return errors.filter((e) => !e.isLocal);
  }

  #remember(destination: number, mtu: number): void {
    this.#pathMtus ??= new Map();
    this.#pathMtus.delete(destination);
    if (this.#pathMtus.size >= MAX_PATHS) this.#pathMtus.delete(this.#pathMtus.keys().next().value as number);
    this.#pathMtus.set(destination, mtu);
  }

  /** After EMSGSIZE and `read`: the MTU of the path to a destination, bytes; 0 = unknown. */
  pathMtu(destination: number): number {
    return this.#pathMtus?.get(destination) ?? 0;
  }
}

const name = Buffer.alloc(16);
const payload = Buffer.alloc(PAYLOAD_SIZE);
const control = Buffer.alloc(256);

/** Reads a socket's error queue. */
function readSocketErrors(fd: number): QueuedError[] {
  const errors: QueuedError[] = [];
  for (let n = 0; n < MAX_ERRORS; n++) {
    control.fill(0);
    const length = receiveError(fd, name, payload, control);
    if (length < 0) break;
    const error = parseExtendedError();
    if (error) errors.push({ ...error, destination: name.readUInt32BE(4), port: name.readUInt16BE(2), payload: new Uint8Array(payload.subarray(0, length)) });
  }
  return errors;
}

/** The first control message with a `struct sock_extended_err`, which the offender's address follows. */
function parseExtendedError(): Omit<QueuedError, 'destination' | 'port' | 'payload'> | null {
  for (let o = 0; o + CMSG_HEADER <= control.length; ) {
    const length = Number(control.readBigUInt64LE(o));
    if (length < CMSG_HEADER || o + length > control.length) return null;
    if (control.readInt32LE(o + 8) === IPPROTO_IP && control.readInt32LE(o + 12) === IP_RECVERR && length >= CMSG_HEADER + EXTENDED_ERROR) {
      const e = o + CMSG_HEADER;
      const origin = control[e + 4];
      const info = control.readUInt32LE(e + 8);
      if (origin === ORIGIN_LOCAL && control.readUInt32LE(e) === EMSGSIZE)
        return { type: UNREACHABLE, code: FRAGMENTATION_NEEDED, info, offender: null, isLocal: true };
      if (origin !== ORIGIN_ICMP) return null;
      const offender = length >= CMSG_HEADER + EXTENDED_ERROR + 8 ? control.readUInt32BE(e + EXTENDED_ERROR + 4) : 0;
      return { type: control[e + 5] as number, code: control[e + 6] as number, info, offender: offender || null, isLocal: false };
    }
    o += (length + 7) & ~7;
  }
  return null;
}
