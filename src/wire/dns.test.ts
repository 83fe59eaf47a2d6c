import dnsPacket from 'dns-packet';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DnsType, emitDnsAnswer, parseDnsQuery, parseReverseName, Rcode, truncateDns } from './dns.ts';

const query = (name: string, type: 'A' | 'AAAA' | 'PTR' = 'A', extra: object = {}): Uint8Array =>
  dnsPacket.encode({ type: 'query', id: 0x1234, flags: 0x0100, questions: [{ type, name }], ...extra });

describe('DNS messages', () => {
  test('a query as dns-packet writes it', () => {
    const b = query('VM1.Anka.Internal');
    expect(parseDnsQuery(b)).toMatchObject({ id: 0x1234, name: 'vm1.anka.internal', type: DnsType.A, end: b.length, udpSize: 512 });
  });
  test('EDNS: the size that the client accepts', () => {
    expect(parseDnsQuery(query('a.b', 'A', { additionals: [{ type: 'OPT', name: '.', udpPayloadSize: 4096, flags: 0, options: [] }] }))?.udpSize).toBe(4096);
  });
  test('dns-packet parses the answers', () => {
    const b = query('vm1.anka.internal');
    const q = parseDnsQuery(b) as NonNullable<ReturnType<typeof parseDnsQuery>>;
    const a = dnsPacket.decode(Buffer.from(emitDnsAnswer(b, q, Rcode.ok, { type: DnsType.A, ttl: 5, data: 0xc0a84002 })));
    expect(a).toMatchObject({ id: 0x1234, type: 'response', answers: [{ name: 'vm1.anka.internal', type: 'A', ttl: 5, data: '192.168.64.2' }] });
    const p = query('2.64.168.192.in-addr.arpa', 'PTR');
    const pa = dnsPacket.decode(Buffer.from(emitDnsAnswer(p, parseDnsQuery(p) as never, Rcode.ok, { type: DnsType.PTR, ttl: 5, data: 'vm1.anka.internal' })));
    expect(pa.answers).toMatchObject([{ type: 'PTR', data: 'vm1.anka.internal' }]);
    const none = dnsPacket.decode(Buffer.from(emitDnsAnswer(b, q, Rcode.nxDomain)));
    expect(none).toMatchObject({ rcode: 'NXDOMAIN', answers: [] });
    expect(dnsPacket.decode(Buffer.from(truncateDns(emitDnsAnswer(b, q, Rcode.ok, { type: 1, ttl: 1, data: 1 }), q.end))).flag_tc).toBe(true);
  });
  test('every truncation is rejected, and never throws', () => {
    const b = query('vm1.anka.internal');
    for (let n = 0; n < b.length; n++) expect(parseDnsQuery(b.subarray(0, n))).toBeNull();
  });
  test('any bytes never throw', () =>
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (b) => parseDnsQuery(b) !== undefined),
      { numRuns: 2000 },
    ));
  test('reverse names', () => {
    expect(parseReverseName('2.64.168.192.in-addr.arpa')).toBe(0xc0a84002);
    for (const bad of ['2.64.168.in-addr.arpa', '256.1.1.1.in-addr.arpa', 'x.arpa']) expect(parseReverseName(bad)).toBeNull();
  });
});
