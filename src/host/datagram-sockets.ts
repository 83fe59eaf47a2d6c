/**
 * UDP and echo sockets of Linux that also tell of the ICMP errors about what they sent, which needs no privilege
 * (ip(7), IP_RECVERR).
 *
 * Theory of operation: the kernel keeps errors in a queue of the socket, and makes its next call fail; whoever sees a
 * call fail empties the queue. An error says what was sent, to whom, and who complains. The time to live and the bit
 * that forbids fragments are set per socket: the caller sets them anew when they change.
 *
 * Limits: Linux only; elsewhere there is none, and errors are not told.
 */
import { closeSync } from 'node:fs';
import { openDatagram, receiveError, setIntOption } from './ffi/sockets.ts';

const IPPROTO_IP = 0;
const IPPROTO_ICMP = 1;
const IPPROTO_UDP = 17;
const IP_TTL = 2;
const IP_MTU_DISCOVER = 10;
const IP_RECVERR = 11;
const IP_PMTUDISC_WANT = 1;
const IP_PMTUDISC_DO = 2;
const ORIGIN_LOCAL = 1;
const ORIGIN_ICMP = 2;
const EMSGSIZE = 90;
/** Bytes of what was sent that are kept; routers quote less. */
const PAYLOAD = 576;
const CMSG_HEADER = 16;
const EXTENDED_ERROR = 16;
const UNREACHABLE = 3;
const FRAGMENTATION_NEEDED = 4;
/** Errors taken out of the queue in one turn. */
const MAX_ERRORS = 64;

export interface SocketError {
  /** As in the ICMP message; what the host itself found is put in the same words. */
  type: number;
  code: number;
  /** Second word of the message: the next hop's MTU where fragmentation is needed. */
  info: number;
  /** Who says so; null = the host. */
  offender: number | null;
  /** To whom the datagram went. */
  destination: number;
  port: number;
  /** Beginning of what was sent; with an echo socket of the whole message. */
  payload: Uint8Array;
}

/** What the kernel says at once, when it finds no way: codes of ICMP's unreachable. */
const NO_WAY: Record<string, number> = { ENETUNREACH: 0, EHOSTUNREACH: 1, EACCES: 13, EPERM: 13 };

/** The code of unreachable that says the same as the failure of a call; undefined where there is none. */
export function noWay(error: NodeJS.ErrnoException): number | undefined {
  return NO_WAY[error.code ?? ''];
}

/** An open socket, to be handed to `dgram`, which closes it; or why there is none. */
export function openTellingSocket(kind: 'udp' | 'echo'): { fd: number } | { error: string } {
  const opened = openDatagram(kind === 'udp' ? IPPROTO_UDP : IPPROTO_ICMP);
  if ('errno' in opened) return { error: `the kernel refuses ${kind} sockets (errno ${opened.errno})` };
  if (setIntOption(opened.fd, IPPROTO_IP, IP_RECVERR, 1)) return opened;
  closeSync(opened.fd);
  return { error: 'the kernel does not tell of errors' };
}

export function setTimeToLive(fd: number, hops: number): void {
  setIntOption(fd, IPPROTO_IP, IP_TTL, hops);
}

/** `false`: what is too large for the way goes in fragments. */
export function forbidFragments(fd: number, on: boolean): void {
  setIntOption(fd, IPPROTO_IP, IP_MTU_DISCOVER, on ? IP_PMTUDISC_DO : IP_PMTUDISC_WANT);
}

const name = Buffer.alloc(16);
const payload = Buffer.alloc(PAYLOAD);
const control = Buffer.alloc(256);

/** Empties the socket's queue of errors. */
export function readSocketErrors(fd: number): SocketError[] {
  const errors: SocketError[] = [];
  for (let n = 0; n < MAX_ERRORS; n++) {
    control.fill(0);
    const length = receiveError(fd, name, payload, control);
    if (length < 0) break;
    const error = parseExtendedError();
    if (error) errors.push({ ...error, destination: name.readUInt32BE(4), port: name.readUInt16BE(2), payload: new Uint8Array(payload.subarray(0, length)) });
  }
  return errors;
}

/** `struct sock_extended_err` and the offender's address behind it, in the first control message of its kind. */
function parseExtendedError(): Pick<SocketError, 'type' | 'code' | 'info' | 'offender'> | null {
  for (let o = 0; o + CMSG_HEADER <= control.length; ) {
    const length = Number(control.readBigUInt64LE(o));
    if (length < CMSG_HEADER || o + length > control.length) return null;
    if (control.readInt32LE(o + 8) === IPPROTO_IP && control.readInt32LE(o + 12) === IP_RECVERR && length >= CMSG_HEADER + EXTENDED_ERROR) {
      const e = o + CMSG_HEADER;
      const origin = control[e + 4];
      const info = control.readUInt32LE(e + 8);
      if (origin === ORIGIN_LOCAL && control.readUInt32LE(e) === EMSGSIZE) return { type: UNREACHABLE, code: FRAGMENTATION_NEEDED, info, offender: null };
      if (origin !== ORIGIN_ICMP) return null;
      const told = length >= CMSG_HEADER + EXTENDED_ERROR + 8 ? control.readUInt32BE(e + EXTENDED_ERROR + 4) : 0;
      return { type: control[e + 5] as number, code: control[e + 6] as number, info, offender: told || null };
    }
    o += (length + 7) & ~7;
  }
  return null;
}
