import dnsPacket from 'dns-packet';
import { describe, expect, test } from 'vitest';
import { parseIpv4, parseSubnet } from '../wire/address.ts';
import { type DnsAction, DnsForwarder } from './dns-forwarder.ts';

const subnet = parseSubnet('192.168.64.0/24') as { base: number; prefix: number };

function forwarder(forward = true): DnsForwarder {
  let n = 100;
  const f = new DnsForwarder({ subnet, gateway: parseIpv4('192.168.64.1') as number, forward }, () => n++);
  f.setNames(new Map([['vm1', parseIpv4('192.168.64.2') as number]]));
  f.setUpstreams(['10.0.0.1', '10.0.0.2']);
  return f;
}

const query = (name: string, type = 'A', id = 7): Uint8Array => dnsPacket.encode({ type: 'query', id, flags: 0x100, questions: [{ type: type as 'A', name }] });

function say(actions: DnsAction[]): string[] {
  return actions.map((a) => {
    if (a.kind === 'forget') return `forget ${a.client}`;
    if (a.kind === 'ask') return `ask ${a.upstream} #${(a.bytes[0] << 8) | a.bytes[1]}`;
    const m = dnsPacket.decode(Buffer.from(a.bytes)) as unknown as { id: number; rcode: string; answers: { data: string }[] };
    return `${a.client} #${m.id} ${m.rcode} ${m.answers.map((x) => x.data).join()}`.trim();
  });
}

/** The upstream's answer to what was asked. */
function answer(asked: DnsAction, data: string, rcode = 0): Uint8Array {
  const q = dnsPacket.decode(Buffer.from(asked.kind === 'ask' ? asked.bytes : []));
  const b = dnsPacket.encode({
    type: 'response',
    id: q.id as number,
    flags: 0x180 | rcode,
    questions: q.questions as never,
    answers: data ? [{ type: 'A', name: q.questions?.[0]?.name as string, ttl: 60, data }] : [],
  });
  return b;
}

describe('the DNS forwarder', () => {
  test('B25: own names, forward and reverse, never leave the host', () => {
    const f = forwarder();
    expect(say(f.onQuery(query('VM1.anka.internal'), 'c', 'g', 0))).toEqual(['c #7 NOERROR 192.168.64.2']);
    expect(say(f.onQuery(query('host.anka.internal'), 'c', 'g', 0))).toEqual(['c #7 NOERROR 192.168.64.1']);
    expect(say(f.onQuery(query('vm1.anka.internal', 'AAAA'), 'c', 'g', 0))).toEqual(['c #7 NOERROR']);
    expect(say(f.onQuery(query('2.64.168.192.in-addr.arpa', 'PTR'), 'c', 'g', 0))).toEqual(['c #7 NOERROR vm1.anka.internal']);
    expect(say(f.onQuery(query('9.64.168.192.in-addr.arpa', 'PTR'), 'c', 'g', 0))).toEqual(['c #7 NXDOMAIN']);
    expect(say(f.onQuery(query('nobody.anka.internal'), 'c', 'g', 0))).toEqual(['c #7 NXDOMAIN']);
    expect(f.pollAt()).toBeNull();
  });
  test('B25: others are forwarded under a new id, and answered under the old one', () => {
    const f = forwarder();
    const asked = f.onQuery(query('example.com'), 'c', 'g', 0);
    expect(say(asked)).toEqual(['ask 10.0.0.1 #100']);
    expect(say(f.onAnswer(answer(asked[0] as DnsAction, '1.2.3.4'), '10.0.0.1', 5))).toEqual(['c #7 NOERROR 1.2.3.4']);
    expect(f.pollAt()).toBeNull();
  });
  test('B25: after a timeout or failure the next server is asked, and stays preferred if it answers', () => {
    const f = forwarder();
    f.onQuery(query('example.com'), 'c', 'g', 0);
    expect(f.poll(1999)).toEqual([]);
    const again = f.poll(2000);
    expect(say(again)).toEqual(['ask 10.0.0.2 #100']);
    expect(say(f.onAnswer(answer(again[0] as DnsAction, '1.2.3.4'), '10.0.0.2', 2001))).toEqual(['c #7 NOERROR 1.2.3.4']);
    const next = f.onQuery(query('example.org'), 'd', 'g', 3000);
    expect(say(next)).toEqual(['ask 10.0.0.2 #101']);
    expect(say(f.onAnswer(answer(next[0] as DnsAction, '', 2), '10.0.0.2', 3001))).toEqual(['ask 10.0.0.1 #101']);
    expect(say(f.poll(6000))).toEqual(['d #7 SERVFAIL']);
  });
  test('answers with a wrong server, id or question are dropped', () => {
    const f = forwarder();
    const asked = f.onQuery(query('example.com'), 'c', 'g', 0)[0] as DnsAction;
    expect(f.onAnswer(answer(asked, '6.6.6.6'), '10.0.0.2', 1)).toEqual([]);
    const other = dnsPacket.encode({ type: 'response', id: 100, flags: 0x180, questions: [{ type: 'A', name: 'evil.com' }] });
    expect(f.onAnswer(other, '10.0.0.1', 1)).toEqual([]);
    expect(f.onAnswer(new Uint8Array(3), '10.0.0.1', 1)).toEqual([]);
  });
  test('B15: on the host network, outside names are not forwarded', () => {
    expect(say(forwarder(false).onQuery(query('example.com'), 'c', 'g', 0))).toEqual(['c #7 NXDOMAIN']);
  });
  test('no upstream server: SERVFAIL at once; garbage: FORMERR or no answer', () => {
    const f = forwarder();
    f.setUpstreams([]);
    expect(say(f.onQuery(query('example.com'), 'c', 'g', 0))).toEqual(['c #7 SERVFAIL']);
    expect(f.onQuery(new Uint8Array(4), 'c', 'g', 0)).toEqual([{ kind: 'forget', client: 'c' }]);
    const opcode = query('example.com');
    opcode[2] |= 0x28;
    expect(say(f.onQuery(opcode, 'c', 'g', 0))).toEqual(['c #7 NOTIMP']);
  });
  test('at most 256 pending queries per guest', () => {
    const f = forwarder();
    const asks = (guest: string, n: number, now: number): string[] =>
      Array.from({ length: n }, (_, i) => f.onQuery(query(`n${i}.com`), `${guest}${i}`, guest, now)[0]?.kind ?? '');
    const kinds = asks('g', 300, 0);
    expect(kinds.filter((k) => k === 'ask')).toHaveLength(256);
    expect(kinds.slice(256)).toEqual(Array(44).fill('forget'));
    expect(asks('h', 2, 0)).toEqual(['ask', 'ask']);
    // the second server is asked, which gives nobody room
    expect(f.poll(2000)).toHaveLength(258);
    expect(asks('g', 1, 2000)).toEqual(['forget']);
    expect(f.poll(4000).every((a) => a.kind === 'answer')).toBe(true);
    expect(asks('g', 1, 4000)).toEqual(['ask']);
  });
  test('the table of pending queries is bounded', () => {
    const f = forwarder();
    for (let i = 0; i < 200 * 256; i++) f.onQuery(query('n.com'), `c${i}`, `g${i % 200}`, 0);
    expect(f.poll(2000)).toHaveLength(32_768);
  });
});
