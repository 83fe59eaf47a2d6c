/**
 * DNS messages (RFC 1035, 6891): what a forwarder needs that answers a few names itself.
 *
 * Parsed: header, the question, and the OPT record. Written: answers with records and an SOA, errors, and truncated
 * answers, each with an OPT record if the query had one. Everything else is forwarded as bytes. Limits: compression
 * pointers in the question are rejected (no client sends them).
 */
import { wordsOfIpv6 } from './address6.ts';

export const DnsType = { A: 1, NS: 2, SOA: 6, PTR: 12, AAAA: 28, OPT: 41, IXFR: 251, AXFR: 252, ANY: 255 } as const;
export const Rcode = { ok: 0, formErr: 1, servFail: 2, nxDomain: 3, notImp: 4, refused: 5, badVersion: 16 } as const;
export const DNS_CLASS_IN = 1;
/** Bytes of the header. */
export const DNS_HEADER = 12;
/** Payload size that our OPT records advertise: it fits every path (RFC 9715). */
const OUR_UDP_SIZE = 1232;
/** Payload of a client without EDNS (RFC 1035, 2.3.4). */
const PLAIN_UDP_SIZE = 512;
const MAX_LABEL = 63;
const MAX_NAME = 255;
const FLAG = { response: 0x8000, authoritative: 0x0400, truncated: 0x0200, recursionAvailable: 0x0080 } as const;
/** Opcode, RD and CD, which an answer repeats (RFC 1035, 4.1.1; RFC 4035, 3.2.2). */
const REPEATED = 0x7910;
const OPT_DO = 0x8000;

/** The client's OPT record (RFC 6891, 6.1). */
export interface Edns {
  version: number;
  /** DNSSEC OK (RFC 3225). */
  dnssecOk: boolean;
}

export interface DnsQuestion {
  id: number;
  /** Opcode, RD and CD: what the answer repeats. */
  flags: number;
  /** Lower case, without the last dot; labels with bytes outside printable ASCII are escaped as \ddd. */
  name: string;
  type: number;
  class: number;
  /** Where the question ends. */
  end: number;
  /** UDP payload size the client accepts (EDNS, RFC 6891); 512 without EDNS. */
  udpSize: number;
  edns: Edns | null;
}

/** A resource record to be written. */
export interface DnsRecord {
  /** Owner; the question's name when absent. */
  name?: string;
  type: number;
  /** Seconds. */
  ttl: number;
  data: Uint8Array;
}

const u16 = (b: Uint8Array, o: number): number => (b[o] << 8) | b[o + 1];

/**
 * The question of a standard query; a response code for a query that is not understood; null for what gets no answer.
 * Never throws.
 */
export function parseDnsQuery(b: Uint8Array): DnsQuestion | number | null {
  if (b.length < DNS_HEADER || b[2] & 0x80) return null;
  const flags = u16(b, 2);
  if ((flags >> 11) & 15) return Rcode.notImp;
  // one question (RFC 9619)
  if (u16(b, 4) !== 1) return Rcode.formErr;
  const q = readQuestion(b, flags);
  return q && q.type !== DnsType.OPT && readEdns(b, q) ? q : Rcode.formErr;
}

function readQuestion(b: Uint8Array, flags: number): DnsQuestion | null {
  let o = DNS_HEADER;
  const labels: string[] = [];
  for (;;) {
    if (o >= b.length) return null;
    const n = b[o++];
    if (n === 0) break;
    if (n > MAX_LABEL || o + n > b.length || o + n - DNS_HEADER >= MAX_NAME) return null;
    labels.push(labelText(b, o, n));
    o += n;
  }
  if (o + 4 > b.length) return null;
  const end = o + 4;
  return {
    id: u16(b, 0),
    flags: flags & REPEATED,
    name: labels.join('.'),
    type: u16(b, o),
    class: u16(b, o + 2),
    end,
    udpSize: PLAIN_UDP_SIZE,
    edns: null,
  };
}

function labelText(b: Uint8Array, o: number, n: number): string {
  let label = '';
  for (let i = 0; i < n; i++) {
    const c = b[o + i];
    label += c > 32 && c < 127 && c !== 46 && c !== 92 ? String.fromCharCode(c).toLowerCase() : `\\${String(c).padStart(3, '0')}`;
  }
  return label;
}

/** Reads the OPT record, wherever it is in the additional section. False: malformed (RFC 6891, 6.1.1). */
function readEdns(b: Uint8Array, q: DnsQuestion): boolean {
  const additional = recordsEnd(b, q.end, u16(b, 6) + u16(b, 8));
  if (additional < 0) return false;
  return eachRecord(b, additional, u16(b, 10), (at, fixed) => {
    if (u16(b, fixed) !== DnsType.OPT) return true;
    if (q.edns || fixed !== at + 1) return false; // one, and its name is the root
    q.udpSize = Math.max(PLAIN_UDP_SIZE, u16(b, fixed + 2));
    q.edns = { version: b[fixed + 5], dnssecOk: (u16(b, fixed + 6) & OPT_DO) !== 0 };
    return true;
  });
}

/**
 * Calls `take` with each record: where it begins, and where its type is. False if one is malformed or `take` returns
 * false.
 */
function eachRecord(b: Uint8Array, start: number, count: number, take: (at: number, fixed: number, end: number) => boolean): boolean {
  let o = start;
  for (let i = 0; i < count; i++) {
    const fixed = nameEnd(b, o);
    if (fixed < 0 || fixed + 10 > b.length) return false;
    const end = fixed + 10 + u16(b, fixed + 8);
    if (end > b.length || !take(o, fixed, end)) return false;
    o = end;
  }
  return true;
}

/** Where `count` records end; -1 if they are malformed. */
function recordsEnd(b: Uint8Array, start: number, count: number): number {
  let end = start;
  return eachRecord(b, start, count, (_at, _fixed, next) => {
    end = next;
    return true;
  })
    ? end
    : -1;
}

/** Where a name ends, by its first pointer at the latest, which is not followed; -1 if it is malformed. */
function nameEnd(b: Uint8Array, start: number): number {
  for (let o = start; o < b.length; ) {
    const n = b[o];
    if (n === 0) return o + 1;
    if ((n & 0xc0) === 0xc0) return o + 2 <= b.length ? o + 2 : -1;
    if (n > MAX_LABEL) return -1;
    o += 1 + n;
  }
  return -1;
}

/** Whether a message repeats the question in `query`, which ends at `end`; names compare without case (RFC 4343). */
export function sameQuestion(message: Uint8Array, query: Uint8Array, end: number): boolean {
  if (message.length < end || u16(message, 4) !== 1) return false;
  for (let i = DNS_HEADER; i < end - 4; i++) if (lower(message[i]) !== lower(query[i])) return false;
  for (let i = end - 4; i < end; i++) if (message[i] !== query[i]) return false;
  return true;
}

/** For questions that are the same by `sameQuestion`: whether their letters have the same case. */
export function sameCase(message: Uint8Array, query: Uint8Array, end: number): boolean {
  for (let i = DNS_HEADER; i < end - 4; i++) if (message[i] !== query[i]) return false;
  return true;
}

const isLetter = (c: number): boolean => (c | 32) >= 97 && (c | 32) <= 122;
// length bytes are below 64 and no letters
const lower = (c: number): number => (isLetter(c) ? c | 32 : c);

/** The message after its id, its name in lower case: the same for equivalent queries. */
export function queryKey(query: Uint8Array, end: number): string {
  const b = Buffer.from(query.subarray(2));
  for (let i = DNS_HEADER; i < end - 4; i++) b[i - 2] = lower(query[i]);
  return b.toString('latin1');
}

/** Sets the case of the letters of a question's name by random bits (0x20). `random` returns 16 of them. */
export function mixCase(query: Uint8Array, end: number, random: () => number): void {
  let bits = 1;
  for (let i = DNS_HEADER; i < end - 4; i++) {
    if (!isLetter(query[i])) continue;
    if (bits === 1) bits = random() | 0x10000;
    query[i] = (query[i] & ~32) | ((bits & 1) << 5);
    bits >>= 1;
  }
}

/** An answer of ours, authoritative unless it is an error. `records` are those of its answer section. */
export function emitDnsAnswer(
  query: Uint8Array,
  q: DnsQuestion,
  rcode: number,
  records: readonly DnsRecord[] = [],
  authority: readonly DnsRecord[] = [],
): Uint8Array {
  const parts = [query.subarray(0, q.end), ...records.map(emitRecord), ...authority.map(emitRecord), ...(q.edns ? [emitOpt(q.edns, rcode)] : [])];
  const b = new Uint8Array(Buffer.concat(parts));
  const authoritative = rcode === Rcode.ok || rcode === Rcode.nxDomain ? FLAG.authoritative : 0;
  const flags = FLAG.response | q.flags | authoritative | FLAG.recursionAvailable | (rcode & 15);
  const counts = [flags, 1, records.length, authority.length, q.edns ? 1 : 0];
  counts.forEach((v, i) => {
    b[2 + 2 * i] = v >> 8;
    b[3 + 2 * i] = v;
  });
  return b;
}

function emitRecord({ name, type, ttl, data }: DnsRecord): Uint8Array {
  const fixed = Buffer.alloc(10);
  fixed.writeUInt16BE(type, 0);
  fixed.writeUInt16BE(DNS_CLASS_IN, 2);
  fixed.writeUInt32BE(ttl, 4);
  fixed.writeUInt16BE(data.length, 8);
  return Buffer.concat([name === undefined ? Uint8Array.of(0xc0, DNS_HEADER) : encodeName(name), fixed, data]);
}

/** Our OPT record: version 0, the client's DO bit, and the upper bits of the response code. */
function emitOpt(edns: Edns, rcode: number): Uint8Array {
  return Uint8Array.of(0, 0, DnsType.OPT, OUR_UDP_SIZE >> 8, OUR_UDP_SIZE & 255, rcode >> 4, 0, edns.dnssecOk ? OPT_DO >> 8 : 0, 0, 0, 0);
}

/** The answer to a query that is not understood: its header and the response code. */
export function emitDnsError(query: Uint8Array, rcode: number): Uint8Array {
  const b = new Uint8Array(DNS_HEADER);
  b.set(query.subarray(0, 4));
  b[2] = (b[2] & 0x79) | 0x80;
  b[3] = (b[3] & 0x10) | 0x80 | rcode;
  return b;
}

/** Data of an A record. */
export function ipv4Data(ip: number): Uint8Array {
  return Uint8Array.of(ip >>> 24, (ip >>> 16) & 255, (ip >>> 8) & 255, ip & 255);
}

/** Data of an AAAA record, from canonical text. */
export function ipv6Data(address: string): Uint8Array {
  return Uint8Array.from(wordsOfIpv6(address).flatMap((word) => [...ipv4Data(word)]));
}

/** Data of an SOA record; `ttl`: how long a negative answer may be cached, seconds (RFC 2308, 5). */
export function soaData(server: string, ttl: number): Uint8Array {
  const numbers = Buffer.alloc(20);
  for (const [i, v] of [1, 3600, 1200, 604_800, ttl].entries()) numbers.writeUInt32BE(v, 4 * i);
  return Buffer.concat([encodeName(server), encodeName('nobody.invalid'), numbers]);
}

/** A name in wire format. Labels over 63 bytes are cut. */
export function encodeName(name: string): Uint8Array {
  const parts = name.split('.').filter((l) => l !== '');
  return Uint8Array.from([...parts.flatMap((l) => [Math.min(l.length, MAX_LABEL), ...Buffer.from(l.slice(0, MAX_LABEL), 'latin1')]), 0]);
}

/**
 * The answer without records but its OPT record, and marked as truncated, so that the client retries by TCP. Without a
 * readable question only the header is left.
 */
export function truncateDns(answer: Uint8Array): Uint8Array {
  const end = u16(answer, 4) === 1 ? nameEnd(answer, DNS_HEADER) + 4 : DNS_HEADER;
  const withQuestion = end > DNS_HEADER + 4 && end <= answer.length;
  const opt = withQuestion ? optRecord(answer, end) : null;
  const b = new Uint8Array(Buffer.concat([answer.subarray(0, withQuestion ? end : DNS_HEADER), ...(opt ? [opt] : [])]));
  b[2] |= FLAG.truncated >> 8;
  b.fill(0, 4, DNS_HEADER);
  b[5] = withQuestion ? 1 : 0;
  b[11] = opt ? 1 : 0;
  return b;
}

/** The OPT record of a message whose question ends at `end`, without options; null if there is none. */
function optRecord(b: Uint8Array, end: number): Uint8Array | null {
  const additional = recordsEnd(b, end, u16(b, 6) + u16(b, 8));
  let found: Uint8Array | null = null;
  if (additional < 0) return null;
  eachRecord(b, additional, u16(b, 10), (at, fixed) => {
    if (u16(b, fixed) !== DnsType.OPT || fixed !== at + 1) return true;
    found = new Uint8Array(11);
    found.set(b.subarray(at, at + 9));
    return false;
  });
  return found;
}

/** The addresses that a name in in-addr.arpa stands for. */
export interface ReverseName {
  /** Lowest of them. */
  base: number;
  /** Prefix length: 8, 16, 24 or 32. */
  prefix: number;
}

/** `4.3.2.1.in-addr.arpa` as 1.2.3.4/32, `2.1.in-addr.arpa` as 1.2.0.0/16; null for anything else. */
export function parseReverseName(name: string): ReverseName | null {
  const m = /^((?:(?:0|[1-9]\d{0,2})\.){1,4})in-addr\.arpa$/.exec(name);
  if (!m) return null;
  const parts = (m[1] as string).slice(0, -1).split('.').map(Number).reverse();
  if (parts.some((p) => p > 255)) return null;
  return { base: [0, 1, 2, 3].reduce((ip, i) => ip * 256 + (parts[i] ?? 0), 0), prefix: 8 * parts.length };
}

/** The name in in-addr.arpa of an address, or of its first `prefix` bits (8, 16, 24 or 32). */
export function reverseName(ip: number, prefix = 32): string {
  const octets = [...ipv4Data(ip)].slice(0, prefix / 8).reverse();
  return `${octets.join('.')}.in-addr.arpa`;
}

/** The name in ip6.arpa of an IPv6 address in canonical text. */
export function reverseName6(address: string): string {
  return `${[...Buffer.from(ipv6Data(address)).toString('hex')].reverse().join('.')}.ip6.arpa`;
}
