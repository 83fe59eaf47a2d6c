/** Netlink messages (netlink(7)). Reading is synchronous. */
import { readSync, writeSync } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { AnkaError } from '../../lib/errors.ts';

const REQUEST = 0x1;
/** Flag of an error's message: attributes follow. */
const HAS_ATTRIBUTES = 0x200;
const ERROR_TEXT = 1;
/** Flag of a dump's messages: what is dumped changed meanwhile. */
const DUMP_INTERRUPTED = 0x10;
export const ACK = 0x4;
export const DUMP = 0x300;
/** NLM_F_CREATE: adds an object, or changes it if it exists; with NLM_F_EXCL that is an error. */
export const CREATE_OR_CHANGE = 0x400;
export const CREATE = CREATE_OR_CHANGE | 0x200;
/** What was read last: reading is synchronous, so one is enough. */
const received = Buffer.allocUnsafeSlow(1 << 16);
/** Length of a message's header. */
const HEADER = 16;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
export const AF_INET = 2;
export const AF_INET6 = 10;
export const ENOENT = 2;
export const EINTR = 4;
const EPROTO = 71;

/** A request. `body`: the header of its family, and attributes. */
export function request(type: number, flags: number, body: Buffer): Buffer {
  const head = Buffer.alloc(HEADER);
  head.writeUInt32LE(HEADER + body.length, 0);
  head.writeUInt16LE(type, 4);
  head.writeUInt16LE(REQUEST | flags, 6);
  return Buffer.concat([head, body]);
}

/** An attribute, padded. */
export function attribute(type: number, payload: Buffer): Buffer {
  const b = Buffer.alloc(4 + Math.ceil(payload.length / 4) * 4);
  b.writeUInt16LE(4 + payload.length, 0);
  b.writeUInt16LE(type, 2);
  payload.copy(b, 4);
  return b;
}

export function u32(value: number, bigEndian = false): Buffer {
  const b = Buffer.alloc(4);
  if (bigEndian) b.writeUInt32BE(value);
  else b.writeUInt32LE(value);
  return b;
}

interface Attribute {
  /** Without flags. */
  type: number;
  payload: Buffer;
  /** Header, payload and padding. */
  whole: Buffer;
}

/** Attributes of a buffer in their order. Ends at the first one whose length is impossible. */
export function* attributeList(b: Buffer): Generator<Attribute> {
  for (let at = 0; at + 4 <= b.length; ) {
    const length = b.readUInt16LE(at);
    if (length < 4 || at + length > b.length) break;
    const end = Math.min(b.length, at + Math.ceil(length / 4) * 4);
    yield { type: b.readUInt16LE(at + 2) & 0x3fff, payload: b.subarray(at + 4, at + length), whole: b.subarray(at, end) };
    at = end;
  }
}

/** Attributes of a buffer by type; of several of one type, the last. */
export function attributes(b: Buffer): Map<number, Attribute> {
  return new Map([...attributeList(b)].map((a) => [a.type, a]));
}

/** The kernel's error number of what `query` threw; 0 for other errors. */
export function errnoOf(cause: unknown): number {
  return cause instanceof AnkaError ? ((cause.cause as { errno?: number } | undefined)?.errno ?? 0) : 0;
}

/** What `exchange` threw, in the kernel's words or those of its error number. */
export function reasonOf(cause: unknown): string {
  const reason = cause instanceof AnkaError ? (cause.cause as { reason?: string } | undefined)?.reason : '';
  return reason || (getSystemErrorMap().get(-errnoOf(cause))?.[1] ?? (cause as Error).message);
}

/**
 * Sends a request. Returns the bodies of the answers, or throws the kernel's error; EINTR if what was dumped changed
 * meanwhile, so that the answers may be incomplete.
 */
export function query(fd: number, request: Buffer): Buffer[] {
  const bodies: Buffer[] = [];
  let interrupted = false;
  const onInterrupted = (): void => {
    interrupted = true;
  };
  for (const read of answers(fd, request, received, onInterrupted)) for (const body of read) bodies.push(Buffer.from(body));
  if (interrupted) throw kernelError(EINTR);
  return bodies;
}

/**
 * Sends a request. Yields the bodies of the answers, those of one read at a time: they are in `buffer` until the next
 * read. Throws the kernel's error. `onInterrupted`: what was dumped changed meanwhile.
 */
export function* answers(fd: number, request: Buffer, buffer = Buffer.allocUnsafe(1 << 16), onInterrupted = () => {}): Generator<Buffer[]> {
  for (const { bodies, interrupted } of datagrams(fd, request, buffer)) {
    if (interrupted) onInterrupted();
    // without netfilter's header
    yield bodies.flatMap((b) => (b.length >= 4 ? [b.subarray(4)] : []));
  }
}

/** Sends a request. Returns all answers, with their family's header. Throws the kernel's error. */
export function exchange(fd: number, request: Buffer): { bodies: Buffer[]; interrupted: boolean } {
  const all = { bodies: [] as Buffer[], interrupted: false };
  for (const { bodies, interrupted } of datagrams(fd, request, received)) {
    for (const body of bodies) all.bodies.push(Buffer.from(body));
    all.interrupted ||= interrupted;
  }
  return all;
}

function* datagrams(fd: number, request: Buffer, buffer: Buffer): Generator<Datagram> {
  writeSync(fd, request);
  for (;;) {
    const datagram = parseDatagram(buffer.subarray(0, readSync(fd, buffer)));
    if (datagram.end > 0) throw kernelError(datagram.end, datagram.reason);
    yield datagram;
    if (datagram.end === 0) return;
  }
}

export interface Datagram {
  /** Messages without their netlink header, in the datagram's memory. */
  bodies: Buffer[];
  /** The kernel's error number; 0: these were the last messages; -1: more follow. */
  end: number;
  /** What was dumped changed meanwhile, so it may be incomplete. */
  interrupted: boolean;
  /** The kernel's words for the error, if it has any. */
  reason?: string;
}

export function parseDatagram(b: Buffer): Datagram {
  const found: Datagram = { bodies: [], end: -1, interrupted: false };
  for (let at = 0; at + HEADER <= b.length; ) {
    const size = b.readUInt32LE(at);
    if (size < HEADER || at + size > b.length) break;
    const type = b.readUInt16LE(at + 4);
    found.interrupted ||= (b.readUInt16LE(at + 6) & DUMP_INTERRUPTED) !== 0;
    if (type === NLMSG_DONE || type === NLMSG_ERROR) {
      const errno = size < HEADER + 4 ? EPROTO : 0 - b.readInt32LE(at + HEADER);
      const reason = (b.readUInt16LE(at + 6) & HAS_ATTRIBUTES) === 0 ? '' : reasonIn(b.subarray(at + HEADER, at + size));
      return { ...found, end: Math.max(0, errno), ...(reason === '' ? {} : { reason }) };
    }
    found.bodies.push(b.subarray(at + HEADER, at + size));
    at += Math.ceil(size / 4) * 4;
  }
  return found;
}

/** A message without its header. */
export interface NetlinkMessage {
  type: number;
  /** In the datagram's memory. */
  body: Buffer;
}

/** The messages of a datagram, up to the first one whose length is impossible. */
export function parseMessages(b: Buffer): NetlinkMessage[] {
  const found: NetlinkMessage[] = [];
  for (let at = 0; at + HEADER <= b.length; ) {
    const size = b.readUInt32LE(at);
    if (size < HEADER || at + size > b.length) break;
    found.push({ type: b.readUInt16LE(at + 4), body: b.subarray(at + HEADER, at + size) });
    at += Math.ceil(size / 4) * 4;
  }
  return found;
}

/** In the body of an error whose request is left out but for its header (NETLINK_CAP_ACK). Empty if there is none. */
function reasonIn(body: Buffer): string {
  return (
    attributes(body.subarray(4 + HEADER))
      .get(ERROR_TEXT)
      ?.payload.toString('utf8')
      .replace(/\0.*$/s, '') ?? ''
  );
}

function kernelError(errno: number, reason = ''): AnkaError {
  return new AnkaError('network', `netlink: errno ${errno}${reason === '' ? '' : ` (${reason})`}`, { cause: { errno, reason } });
}
