/**
 * DNS messages (RFC 1035): what a forwarder needs that answers a few names itself.
 *
 * Parsed: header and first question. Written: answers with an A or PTR record, and empty answers. Everything else is
 * forwarded as bytes. Limits: messages without exactly one question are not answered. Compression pointers in the
 * question are rejected (no client sends them).
 */

export const DnsType = { A: 1, PTR: 12, AAAA: 28, ANY: 255 } as const;
export const Rcode = { ok: 0, formErr: 1, servFail: 2, nxDomain: 3, notImp: 4, refused: 5 } as const;
const CLASS_IN = 1;
const HEADER = 12;

export interface DnsQuestion {
  id: number;
  /** Opcode, RD and other bits of the flags word that the answer repeats. */
  flags: number;
  /** Lower case, without the last dot; labels with bytes outside printable ASCII are escaped as \ddd. */
  name: string;
  type: number;
  /** Where the question ends. */
  end: number;
  /** UDP payload size the client accepts (EDNS, RFC 6891); 512 without EDNS. */
  udpSize: number;
}

const u16 = (b: Uint8Array, o: number): number => (b[o] << 8) | b[o + 1];

/** The question of a standard query with exactly one question, else null. Never throws. */
export function parseDnsQuery(b: Uint8Array): DnsQuestion | null {
  if (b.length < HEADER + 5) return null;
  const flags = u16(b, 2);
  if (flags & 0x8000 || (flags >> 11) & 15 || u16(b, 4) !== 1) return null;
  let o = HEADER;
  const labels: string[] = [];
  let total = 0;
  for (;;) {
    if (o >= b.length) return null;
    const n = b[o++];
    if (n === 0) break;
    total += n + 1;
    if (n > 63 || total > 254 || o + n > b.length) return null;
    let label = '';
    for (let i = 0; i < n; i++) {
      const c = b[o + i];
      label += c > 32 && c < 127 && c !== 46 ? String.fromCharCode(c).toLowerCase() : `\\${String(c).padStart(3, '0')}`;
    }
    labels.push(label);
    o += n;
  }
  if (o + 4 > b.length || u16(b, o + 2) !== CLASS_IN) return null;
  const end = o + 4;
  return { id: u16(b, 0), flags: flags & 0x7900, name: labels.join('.'), type: u16(b, o), end, udpSize: ednsSize(b, end) };
}

/** Payload size in an OPT record directly after the question, where clients put it. */
function ednsSize(b: Uint8Array, end: number): number {
  if (u16(b, 10) === 0 || u16(b, 6) !== 0 || u16(b, 8) !== 0 || end + 11 > b.length) return 512;
  return b[end] === 0 && u16(b, end + 1) === 41 ? Math.max(512, u16(b, end + 3)) : 512;
}

/**
 * An authoritative answer with no or one record. `data` is an address as a number for A, a name for PTR.
 */
export function emitDnsAnswer(query: Uint8Array, q: DnsQuestion, rcode: number, record?: { type: number; ttl: number; data: number | string }): Uint8Array {
  const data = record === undefined ? null : typeof record.data === 'number' ? address(record.data) : encodeName(record.data);
  const b = new Uint8Array(q.end + (data ? 12 + data.length : 0));
  b.set(query.subarray(0, q.end));
  const flags = 0x8000 | (q.flags & 0x7900) | 0x0400 | 0x0080 | rcode;
  b[2] = flags >> 8;
  b[3] = flags;
  b[4] = 0;
  b[5] = 1;
  b[6] = 0;
  b[7] = data ? 1 : 0;
  b.fill(0, 8, HEADER);
  if (record && data) {
    const t = record.ttl;
    b.set(
      [
        0xc0,
        HEADER,
        record.type >> 8,
        record.type & 255,
        0,
        CLASS_IN,
        (t >>> 24) & 255,
        (t >>> 16) & 255,
        (t >>> 8) & 255,
        t & 255,
        data.length >> 8,
        data.length & 255,
      ],
      q.end,
    );
    b.set(data, q.end + 12);
  }
  return b;
}

function address(ip: number): Uint8Array {
  return Uint8Array.of(ip >>> 24, (ip >>> 16) & 255, (ip >>> 8) & 255, ip & 255);
}

/** A name in wire format. Labels over 63 bytes are cut. */
export function encodeName(name: string): Uint8Array {
  const parts = name.split('.').filter((l) => l !== '');
  return Uint8Array.from([...parts.flatMap((l) => [Math.min(l.length, 63), ...Buffer.from(l.slice(0, 63), 'latin1')]), 0]);
}

/** The answer without records and marked as truncated, so that the client retries by TCP. */
export function truncateDns(answer: Uint8Array, questionEnd: number): Uint8Array {
  const b = new Uint8Array(answer.subarray(0, Math.min(questionEnd, answer.length)));
  b[2] |= 0x02;
  b.fill(0, 6, HEADER);
  return b;
}

/** `4.3.2.1.in-addr.arpa` as the number of 1.2.3.4; null for anything else. */
export function parseReverseName(name: string): number | null {
  const m = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa$/.exec(name);
  if (!m) return null;
  const parts = m.slice(1).map(Number);
  if (parts.some((p) => p > 255)) return null;
  return parts[3] * 2 ** 24 + parts[2] * 65536 + parts[1] * 256 + parts[0];
}
