/** Netlink messages (netlink(7)). Reading is synchronous. */
import { readSync, writeSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';

const REQUEST = 0x1;
export const ACK = 0x4;
export const DUMP = 0x300;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;
export const AF_INET = 2;

/** A request. `body`: the header of its family, and attributes. */
export function request(type: number, flags: number, body: Buffer): Buffer {
  const head = Buffer.alloc(16);
  head.writeUInt32LE(16 + body.length, 0);
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

/** Attributes of a buffer, by type without flags: the payload, and the whole attribute. */
export function attributes(b: Buffer): Map<number, { payload: Buffer; whole: Buffer }> {
  const found = new Map<number, { payload: Buffer; whole: Buffer }>();
  for (let at = 0; at + 4 <= b.length; ) {
    const length = b.readUInt16LE(at);
    if (length < 4 || at + length > b.length) break;
    const end = Math.min(b.length, at + Math.ceil(length / 4) * 4);
    found.set(b.readUInt16LE(at + 2) & 0x3fff, { payload: b.subarray(at + 4, at + length), whole: b.subarray(at, end) });
    at = end;
  }
  return found;
}

/** Sends a request. Returns the bodies of the answers, or throws the kernel's error. */
export function query(fd: number, request: Buffer): Buffer[] {
  writeSync(fd, request);
  const buffer = Buffer.alloc(1 << 16);
  const bodies: Buffer[] = [];
  for (;;) {
    const length = readSync(fd, buffer);
    for (let at = 0; at + 16 <= length; ) {
      const size = buffer.readUInt32LE(at);
      if (size < 16 || at + size > length) break;
      const type = buffer.readUInt16LE(at + 4);
      if (type === NLMSG_DONE) return bodies;
      if (type === NLMSG_ERROR) {
        const errno = -buffer.readInt32LE(at + 16);
        if (errno === 0) return bodies;
        throw new AnkaError('network', `netlink: errno ${errno}`, { cause: { errno } });
      }
      if (size >= 20) bodies.push(Buffer.from(buffer.subarray(at + 20, at + size)));
      at += Math.ceil(size / 4) * 4;
    }
  }
}
