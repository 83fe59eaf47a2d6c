/**
 * SFTP version 3 as sshfs speaks it (draft-ietf-secsh-filexfer-02): packets, and their fields as values.
 *
 * Theory of operation: a packet is a length of four bytes, a type, and fields. `SftpPackets` cuts a stream into
 * packets, `SftpReader` reads the fields of one in order, and `SftpWriter` builds one. Paths are bytes: a host may hold
 * names that are not UTF-8, so they are kept as latin1 strings, one character for each byte.
 *
 * Limits: OpenSSH's order of the fields of SYMLINK. Extended attributes are skipped.
 */
import { get32 } from './bytes.ts';

/** SSH_FXP_…: what a client sends, and what a server answers. */
export const SFTP = {
  init: 1,
  version: 2,
  open: 3,
  close: 4,
  read: 5,
  write: 6,
  lstat: 7,
  fstat: 8,
  setstat: 9,
  fsetstat: 10,
  opendir: 11,
  readdir: 12,
  remove: 13,
  mkdir: 14,
  rmdir: 15,
  realpath: 16,
  stat: 17,
  rename: 18,
  readlink: 19,
  symlink: 20,
  status: 101,
  handle: 102,
  data: 103,
  name: 104,
  attributes: 105,
  extended: 200,
  extendedReply: 201,
} as const;

/** SSH_FX_… */
export const SFTP_STATUS = { ok: 0, endOfFile: 1, noSuchFile: 2, permissionDenied: 3, failure: 4, badMessage: 5, unsupported: 8 } as const;

/** SSH_FXF_…: how a file is opened. */
export const SFTP_OPEN = { read: 1, write: 2, append: 4, create: 8, truncate: 16, exclusive: 32 } as const;

/** SSH_FILEXFER_ATTR_… */
const ATTR = { size: 1, owner: 2, permissions: 4, times: 8, extended: 0x80000000 } as const;

/** The longest packet that is accepted, bytes: OpenSSH's limit. */
export const MAX_PACKET = 256 << 10;
/** The most bytes that one READ returns. */
export const MAX_READ = MAX_PACKET - 1024;
/** The longest path or name that is accepted, bytes: PATH_MAX. */
export const MAX_PATH = 4096;

/** Attributes of a file; each may be absent. */
export interface SftpAttributes {
  /** Bytes. */
  size?: number;
  owner?: { uid: number; gid: number };
  /** With the file's type, as st_mode. */
  permissions?: number;
  /** Seconds since 1970. */
  times?: { accessed: number; modified: number };
}

/** A packet that is not as the protocol has it. */
export class SftpError extends Error {}

/** Cuts a stream into packets. */
export class SftpPackets {
  #chunks: Uint8Array[] = [];
  #size = 0;

  /** Adds bytes of the stream. They must not change afterwards. */
  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#size += chunk.length;
  }

  /** The next complete packet, from its type on; null until there is one. Throws `SftpError` for a bad length. */
  next(): Buffer | null {
    if (this.#size < 4) return null;
    const length = get32(this.#head(4), 0);
    if (length < 1 || length > MAX_PACKET) throw new SftpError(`a packet of ${length} bytes`);
    if (this.#size < 4 + length) return null;
    const bytes = this.#head(4 + length);
    const rest = bytes.subarray(4 + length);
    this.#chunks[0] = rest;
    this.#size -= 4 + length;
    return bytes.subarray(4, 4 + length);
  }

  /** The first chunk, made at least `count` bytes long. */
  #head(count: number): Buffer {
    const first = this.#chunks[0] as Uint8Array;
    if (first.length < count) this.#chunks = [Buffer.concat(this.#chunks)];
    const head = this.#chunks[0] as Uint8Array;
    return Buffer.from(head.buffer, head.byteOffset, head.length);
  }
}

/** Reads the fields of one packet in order. Each method throws `SftpError` beyond the packet's end. */
export class SftpReader {
  readonly #b: Buffer;
  #at = 0;

  constructor(packet: Buffer) {
    this.#b = packet;
  }

  #take(count: number): number {
    const at = this.#at;
    if (count > this.#b.length - at) throw new SftpError('a packet that is too short');
    this.#at += count;
    return at;
  }

  byte(): number {
    return this.#b[this.#take(1)] as number;
  }

  uint32(): number {
    return this.#b.readUInt32BE(this.#take(4));
  }

  /** Throws `SftpError` for more than a file can have. */
  uint64(): number {
    const value = this.#b.readBigUInt64BE(this.#take(8));
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new SftpError('an offset beyond 2^53');
    return Number(value);
  }

  /** A view of the packet's bytes. */
  bytes(): Buffer {
    const length = this.uint32();
    const at = this.#take(length);
    return this.#b.subarray(at, at + length);
  }

  /** A path, name or handle. Throws `SftpError` if it is too long, or contains a zero byte. */
  string(): string {
    const bytes = this.bytes();
    if (bytes.length > MAX_PATH || bytes.includes(0)) throw new SftpError('a string that is no path');
    return bytes.toString('latin1');
  }

  attributes(): SftpAttributes {
    const flags = this.uint32();
    const found: SftpAttributes = {};
    if (flags & ATTR.size) found.size = this.uint64();
    if (flags & ATTR.owner) found.owner = { uid: this.uint32(), gid: this.uint32() };
    if (flags & ATTR.permissions) found.permissions = this.uint32();
    if (flags & ATTR.times) found.times = { accessed: this.uint32(), modified: this.uint32() };
    if (flags & ATTR.extended) {
      for (let count = this.uint32(); count > 0; count--) {
        this.bytes();
        this.bytes();
      }
    }
    return found;
  }
}

/** Builds one packet. */
export class SftpWriter {
  #b: Buffer;
  #at = 4;

  /** `room`: bytes that the packet is expected to have. */
  constructor(type: number, room = 256) {
    this.#b = Buffer.allocUnsafe(room + 5);
    this.byte(type);
  }

  /** Makes room for `count` bytes, and returns their offset. */
  #room(count: number): number {
    const at = this.#at;
    if (at + count > this.#b.length) this.#b = Buffer.concat([this.#b.subarray(0, at)], 2 * (at + count));
    this.#at += count;
    return at;
  }

  byte(value: number): this {
    const at = this.#room(1);
    this.#b[at] = value;
    return this;
  }

  uint32(value: number): this {
    const at = this.#room(4);
    this.#b.writeUInt32BE(value >>> 0, at);
    return this;
  }

  uint64(value: number | bigint): this {
    const at = this.#room(8);
    this.#b.writeBigUInt64BE(BigInt.asUintN(64, BigInt(value)), at);
    return this;
  }

  string(text: string): this {
    this.uint32(text.length);
    const at = this.#room(text.length);
    this.#b.write(text, at, 'latin1');
    return this;
  }

  attributes(a: Required<Pick<SftpAttributes, 'size' | 'permissions' | 'times'>>): this {
    return this.uint32(ATTR.size | ATTR.owner | ATTR.permissions | ATTR.times)
      .uint64(a.size)
      .uint32(0)
      .uint32(0)
      .uint32(a.permissions)
      .uint32(a.times.accessed)
      .uint32(a.times.modified);
  }

  /** Lets `fill` write at most `most` bytes as a string; it returns how many it wrote. */
  fill(most: number, fill: (target: Buffer) => number): this {
    const start = this.#room(4);
    const at = this.#room(most);
    const count = fill(this.#b.subarray(at, at + most));
    this.#b.writeUInt32BE(count, start);
    this.#at = at + count;
    return this;
  }

  /** The packet with its length. */
  end(): Buffer {
    this.#b.writeUInt32BE(this.#at - 4, 0);
    return this.#b.subarray(0, this.#at);
  }
}
