/**
 * Reassembly of IPv4 packets from fragments (RFC 791, RFC 815), with bounds.
 *
 * Theory of operation: `add` takes one fragment, whose header was checked, and returns the packet when it is complete.
 * The packet begins with the header of the fragment at offset 0, without fragment bits and with its total length; its
 * header checksum is not updated. An overlapping fragment discards the whole packet, as no honest sender overlaps (RFC
 * 5722 requires it for IPv6).
 *
 * Limits: 32 packets at once per table, the oldest is evicted; 30 seconds and 64 fragments each.
 */
import { get16, get32, put16 } from '../../wire/bytes.ts';
import { IPV4 } from '../../wire/ipv4.ts';

const MAX_PACKETS = 32;
const MAX_FRAGMENTS = 64;
const LIFE_MS = 30_000;
const MAX_TOTAL = 65_535;

interface Partial {
  deadline: number;
  /** Header of the first fragment, or null. */
  header: Uint8Array | null;
  /** Bytes of payload once the last fragment has arrived, else -1. */
  total: number;
  received: number;
  pieces: { at: number; bytes: Uint8Array }[];
}

export class Reassembly {
  #partials = new Map<string, Partial>();

  /** Incomplete packets. */
  get size(): number {
    return this.#partials.size;
  }

  /**
   * Adds the fragment `b[ip..end)`. Returns the complete packet, null while something is missing, or why the packet was
   * discarded.
   */
  add(b: Uint8Array, ip: number, end: number, now: number): Uint8Array | null | 'overlap' | 'too-many' {
    const key = `${get32(b, ip + IPV4.source)} ${get32(b, ip + IPV4.destination)} ${get16(b, ip + IPV4.id)} ${b[ip + IPV4.protocol]}`;
    const field = get16(b, ip + IPV4.fragment);
    const header = (b[ip] & 15) << 2;
    const at = (field & 0x1fff) * 8;
    const more = (field & 0x2000) !== 0;
    const length = end - ip - header;
    let p = this.#partials.get(key);
    if (!p) {
      if (this.#partials.size >= MAX_PACKETS) this.#partials.delete(this.#partials.keys().next().value as string);
      p = { deadline: now + LIFE_MS, header: null, total: -1, received: 0, pieces: [] };
      this.#partials.set(key, p);
    }
    const bad = at + length + header > MAX_TOTAL || (more && (length === 0 || length % 8 !== 0));
    const overlap = p.pieces.some((x) => at < x.at + x.bytes.length && x.at < at + length) || (p.total >= 0 && (!more || at + length > p.total));
    if (bad || overlap || p.pieces.length >= MAX_FRAGMENTS) {
      this.#partials.delete(key);
      return p.pieces.length >= MAX_FRAGMENTS ? 'too-many' : 'overlap';
    }
    p.pieces.push({ at, bytes: new Uint8Array(b.subarray(ip + header, end)) }); // outlives the call
    p.received += length;
    if (at === 0) p.header = new Uint8Array(b.subarray(ip, ip + header));
    if (!more) p.total = at + length;
    if (p.total < 0 || p.received < p.total || !p.header) return null;
    this.#partials.delete(key);
    return p.pieces.every((x) => x.at + x.bytes.length <= (p?.total ?? 0)) ? join(p.header, p.pieces, p.total) : 'overlap';
  }

  /** Discards packets that took too long; returns how many. */
  expire(now: number): number {
    let n = 0;
    for (const [key, p] of this.#partials) {
      if (p.deadline > now) break; // oldest first
      this.#partials.delete(key);
      n++;
    }
    return n;
  }
}

function join(header: Uint8Array, pieces: Partial['pieces'], total: number): Uint8Array {
  const whole = new Uint8Array(header.length + total);
  whole.set(header);
  for (const p of pieces) whole.set(p.bytes, header.length + p.at);
  put16(whole, IPV4.total, whole.length);
  put16(whole, IPV4.fragment, 0);
  return whole;
}
