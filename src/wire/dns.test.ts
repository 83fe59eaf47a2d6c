import dnsPacket from 'dns-packet';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type DnsQuestion,
  DnsType,
  emitDnsAnswer,
  emitDnsError,
  encodeName,
  ipv4Data,
  mixCase,
  parseDnsQuery,
  parseReverseName,
  queryKey,
  Rcode,
  reverseName,
  reverseName6,
  sameCase,
  sameQuestion,
  soaData,
  truncateDns,
} from './dns.ts';

const query = (name: string, type: 'A' | 'AAAA' | 'PTR' = 'A', extra: object = {}): Uint8Array =>
  dnsPacket.encode({ type: 'query', id: 0x1234, flags: 0x0100, questions: [{ type, name }], ...extra });
const opt = (o: object = {}): object => ({ type: 'OPT', name: '.', udpPayloadSize: 4096, flags: 0, options: [], ...o });
const withOpt = (name: string, ...opts: object[]): Uint8Array => query(name, 'A', { additionals: opts });
const question = (b: Uint8Array): DnsQuestion => parseDnsQuery(b) as DnsQuestion;
const decode = (b: Uint8Array) => dnsPacket.decode(Buffer.from(b));
const A = (ip: number) => ({ type: DnsType.A, ttl: 5, data: ipv4Data(ip) });

describe('DNS messages', () => {
  test('a query as dns-packet writes it', () => {
    const b = query('VM1.Anka.Internal');
    expect(parseDnsQuery(b)).toMatchObject({ id: 0x1234, name: 'vm1.anka.internal', type: DnsType.A, class: 1, end: b.length, udpSize: 512, edns: null });
  });
  test('RFC 6891, 6.1: the size that the client accepts, at least 512, its version and DO, wherever the OPT record is', () => {
    expect(parseDnsQuery(withOpt('a.b', opt()))).toMatchObject({ udpSize: 4096, edns: { version: 0, dnssecOk: false } });
    expect(parseDnsQuery(withOpt('a.b', opt({ udpPayloadSize: 100, flags: 0x8000 })))).toMatchObject({ udpSize: 512, edns: { dnssecOk: true } });
    const behind = withOpt('a.b', { type: 'A', name: 'x.y', ttl: 1, data: '1.2.3.4' }, opt({ ednsVersion: 3 }));
    expect(parseDnsQuery(behind)).toMatchObject({ udpSize: 4096, edns: { version: 3 } });
  });
  test('RFC 6891, 6.1.1: two OPT records, and one that has a name, are malformed', () => {
    expect(parseDnsQuery(withOpt('a.b', opt(), opt()))).toBe(Rcode.formErr);
    const named = Buffer.concat([query('a.b'), Buffer.from([1, 120, 0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0])]);
    named[11] = 1;
    expect(parseDnsQuery(named)).toBe(Rcode.formErr);
  });
  test('RFC 1035, 4.1.1: other opcodes are not implemented; no question and two are malformed; answers get no answer', () => {
    const opcode = query('a.b');
    opcode[2] |= 0x28;
    expect(parseDnsQuery(opcode)).toBe(Rcode.notImp);
    for (const count of [0, 2]) {
      const b = query('a.b');
      b[5] = count;
      expect(parseDnsQuery(b)).toBe(Rcode.formErr);
    }
    const answer = query('a.b');
    answer[2] |= 0x80;
    expect(parseDnsQuery(answer)).toBeNull();
  });
  test('RFC 1035, 2.3.4: labels over 63 bytes, names over 255, and pointers in the question are malformed', () => {
    const raw = (...labels: number[]): Uint8Array =>
      Uint8Array.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, ...labels.flatMap((n) => [n, ...Array<number>(Math.min(n, 64)).fill(97)]), 0, 0, 1, 0, 1]);
    expect(parseDnsQuery(raw(63, 63, 63, 61))).toMatchObject({ type: 1 });
    expect(parseDnsQuery(raw(63, 63, 63, 62))).toBe(Rcode.formErr);
    expect(parseDnsQuery(raw(64))).toBe(Rcode.formErr);
    const loop = Uint8Array.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]);
    expect(parseDnsQuery(loop)).toBe(Rcode.formErr);
  });
  test('labels with dots, blanks and bytes above ASCII are escaped, and are no names of ours', () => {
    const b = Uint8Array.from([0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5, 86, 46, 32, 92, 200, 0, 0, 1, 0, 1]);
    expect(question(b).name).toBe('v\\046\\032\\092\\200');
  });
  test('dns-packet parses the answers', () => {
    const b = query('vm1.anka.internal');
    const q = question(b);
    const a = decode(emitDnsAnswer(b, q, Rcode.ok, [A(0xc0a84002), A(0xc0a84003)]));
    expect(a).toMatchObject({ id: 0x1234, type: 'response', flag_aa: true, flag_ra: true, flag_rd: true });
    expect(a.answers).toMatchObject(['192.168.64.2', '192.168.64.3'].map((data) => ({ name: 'vm1.anka.internal', type: 'A', ttl: 5, data })));
    const p = query('2.64.168.192.in-addr.arpa', 'PTR');
    const pa = decode(emitDnsAnswer(p, question(p), Rcode.ok, [{ type: DnsType.PTR, ttl: 5, data: encodeName('vm1.anka.internal') }]));
    expect(pa.answers).toMatchObject([{ type: 'PTR', data: 'vm1.anka.internal' }]);
    const soa = { name: 'anka.internal', type: DnsType.SOA, ttl: 5, data: soaData('host.anka.internal', 5) };
    const none = decode(emitDnsAnswer(b, q, Rcode.nxDomain, [], [soa]));
    expect(none).toMatchObject({ rcode: 'NXDOMAIN', answers: [], authorities: [{ name: 'anka.internal', type: 'SOA', ttl: 5 }] });
    expect(((none.authorities as unknown as { data: object }[])[0] as { data: object }).data).toMatchObject({ mname: 'host.anka.internal', minimum: 5 });
  });
  test('RFC 6891, 6.1.1, 7: an answer has an OPT record if the query has one, and none else; DO is copied', () => {
    const b = withOpt('vm1.anka.internal', opt({ flags: 0x8000 }));
    const a = decode(emitDnsAnswer(b, question(b), Rcode.badVersion, []));
    expect(a.additionals).toMatchObject([{ type: 'OPT', udpPayloadSize: 1232, extendedRcode: 1, ednsVersion: 0, flag_do: true }]);
    const plain = query('vm1.anka.internal');
    expect(decode(emitDnsAnswer(plain, question(plain), Rcode.ok, [])).additionals).toEqual([]);
  });
  test('RFC 4035, 3.2.2: CD is copied, AD and Z are not', () => {
    const b = query('a.b');
    b[3] |= 0x70;
    expect(emitDnsAnswer(b, question(b), Rcode.ok)[3] & 0x70).toBe(0x10);
    expect(emitDnsError(b, Rcode.formErr)[3]).toBe(0x91);
  });
  test('RFC 6891, 6.1.1: a truncated answer keeps its question and its OPT record', () => {
    const b = withOpt('vm1.anka.internal', opt());
    const cut = decode(truncateDns(emitDnsAnswer(b, question(b), Rcode.ok, [A(1), A(2)])));
    expect(cut).toMatchObject({ flag_tc: true, answers: [], questions: [{ name: 'vm1.anka.internal' }], additionals: [{ type: 'OPT', udpPayloadSize: 1232 }] });
    const plain = query('vm1.anka.internal');
    const cutPlain = decode(truncateDns(emitDnsAnswer(plain, question(plain), Rcode.ok, [A(1)])));
    expect(cutPlain).toMatchObject({ flag_tc: true, answers: [], additionals: [] });
    expect(truncateDns(Uint8Array.from([0, 1, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 63])), 'an unreadable question').toHaveLength(12);
  });
  test('RFC 4343: questions compare without case, and only letters have one', () => {
    const q = query('Ex[ample].com');
    const end = question(q).end;
    const answer = query('eX[AMPLE].COM');
    expect(sameQuestion(answer, q, end)).toBe(true);
    expect(sameCase(answer, q, end)).toBe(false);
    expect(sameQuestion(query('ex{ample}.com'), q, end), '[ and { differ by the bit of a case').toBe(false);
    expect(sameQuestion(query('ex[ample].com', 'AAAA'), q, end)).toBe(false);
    expect(sameQuestion(query('ex[ample].co'), q, end)).toBe(false);
    expect(queryKey(q, end)).toBe(queryKey(answer, end));
  });
  test('0x20 changes the case of letters only', () => {
    const b = query('aaaaaaaaaaaaaaaaaaaa-1.com');
    const mixed = new Uint8Array(b);
    mixCase(mixed, question(b).end, () => 0x5a5a);
    expect(sameQuestion(mixed, b, b.length)).toBe(true);
    expect(decode(mixed).questions?.[0]?.name).toBe('AaAaaAaAAaAaaAaAAaAa-1.cOm');
  });
  test('every truncation is an error or no query, and never throws', () => {
    const b = withOpt('vm1.anka.internal', opt());
    for (let n = 0; n < b.length; n++) expect(parseDnsQuery(b.subarray(0, n))).toBe(n < 12 ? null : Rcode.formErr);
  });
  test('any bytes never throw', () =>
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (b) => {
        const q = parseDnsQuery(b);
        if (b.length >= 12) expect(truncateDns(b).length).toBeLessThanOrEqual(b.length + 11);
        if (q !== null && typeof q !== 'number') expect(emitDnsAnswer(b, q, Rcode.ok).length).toBeGreaterThan(0);
      }),
      { numRuns: 2000 },
    ));
  test('reverse names', () => {
    expect(parseReverseName('2.64.168.192.in-addr.arpa')).toEqual({ base: 0xc0a84002, prefix: 32 });
    expect(parseReverseName('168.192.in-addr.arpa')).toEqual({ base: 0xc0a80000, prefix: 16 });
    for (const bad of ['1.2.64.168.192.in-addr.arpa', '256.1.1.1.in-addr.arpa', '01.1.1.1.in-addr.arpa', 'in-addr.arpa', 'x.arpa'])
      expect(parseReverseName(bad)).toBeNull();
    expect(reverseName(0xc0a84002)).toBe('2.64.168.192.in-addr.arpa');
    expect(reverseName6('2001:db8::1')).toBe(`1.${'0.'.repeat(23)}8.b.d.0.1.0.0.2.ip6.arpa`);
  });
});
