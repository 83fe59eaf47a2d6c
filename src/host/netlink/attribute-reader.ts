/**
 * Reads attributes of a netlink message in place (RFC 3549 2.2). A dump of many links has thousands of attributes of
 * which few matter, so none is copied before it is asked for.
 *
 * Limits: little-endian hosts. Attributes end at the first one whose length is impossible. Of several of one type, the
 * first counts.
 */
const HEADER = 4;
/** Without the flags NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
const TYPE_MASK = 0x3fff;

export class AttributeReader {
  readonly #bytes: Buffer;
  readonly #start: number;

  /** `start`: length of the family's header, which stands before the attributes. */
  constructor(bytes: Buffer, start = 0) {
    this.#bytes = bytes;
    this.#start = start;
  }

  /** The payload; null if there is no such attribute, or it has less than `size` bytes. */
  bytes(type: number, size = 0): Buffer | null {
    const b = this.#bytes;
    for (let at = this.#start; at + HEADER <= b.length; ) {
      const length = b.readUInt16LE(at);
      if (length < HEADER || at + length > b.length) break;
      if ((b.readUInt16LE(at + 2) & TYPE_MASK) === type) return length - HEADER < size ? null : b.subarray(at + HEADER, at + length);
      at += Math.ceil(length / 4) * 4;
    }
    return null;
  }

  has(type: number): boolean {
    return this.bytes(type) !== null;
  }

  u8(type: number): number | null {
    return this.bytes(type, 1)?.readUInt8() ?? null;
  }

  u32(type: number): number | null {
    return this.bytes(type, 4)?.readUInt32LE() ?? null;
  }

  /** Exact below 2^53. */
  u64(type: number): number | null {
    const b = this.bytes(type, 8);
    return b && Number(b.readBigUInt64LE());
  }

  /** An IPv4 address in host order. */
  ipv4(type: number): number | null {
    return this.bytes(type, 4)?.readUInt32BE() ?? null;
  }

  /** Text up to its first zero byte; empty if there is none. */
  text(type: number): string {
    const b = this.bytes(type);
    if (!b) return '';
    const end = b.indexOf(0);
    return b.toString('utf8', 0, end < 0 ? b.length : end);
  }

  /** The attributes inside of one; none if it is missing. */
  nested(type: number): AttributeReader {
    return new AttributeReader(this.bytes(type) ?? EMPTY);
  }
}

const EMPTY = Buffer.alloc(0);
