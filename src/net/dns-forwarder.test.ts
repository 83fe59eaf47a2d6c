import dnsPacket from 'dns-packet';
import { describe, expect, test } from 'vitest';
import { parseIpv4, parseSubnet } from '../wire/address.ts';
import { type DnsAction, DnsForwarder, type DnsTransport } from './dns-forwarder.ts';

const subnet = parseSubnet('192.168.64.0/24') as { base: number; prefix: number };
const [FIRST, SECOND] = ['10.0.0.1', '10.0.0.2'] as const;

function forwarder(forward = true, servers: readonly string[] = [FIRST, SECOND]): DnsForwarder {
  let n = 100;
  const f = new DnsForwarder({ subnet, gateway: parseIpv4('192.168.64.1') as number, forward }, () => n++);
  f.zones.setNames(new Map([['vm1', parseIpv4('192.168.64.2') as number]]));
  f.setUpstreams({ servers }, 0);
  return f;
}

const query = (name: string, type = 'A', id = 7, extra: object = {}): Uint8Array =>
  dnsPacket.encode({ type: 'query', id, flags: 0x100, questions: [{ type: type as 'A', name }], ...extra });
const OPT = { additionals: [{ type: 'OPT', name: '.', udpPayloadSize: 1232, flags: 0, options: [] }] };
const decode = (b: Uint8Array) => dnsPacket.decode(Buffer.from(b)) as unknown as Decoded;
interface Decoded {
  id: number;
  rcode: string;
  answers: { data: string }[];
  authorities: { type: string; name: string }[];
  additionals: { type: string }[];
  questions: { name: string }[];
}

/** One query, with a client's number and a guest. */
function ask(f: DnsForwarder, bytes: Uint8Array, now = 0, from: { client?: number; guest?: string; transport?: DnsTransport } = {}): DnsAction[] {
  return f.onQuery(bytes, { client: 1, guest: 'g', transport: 'udp', ...from }, now);
}

const idOf = (b: Uint8Array): number => ((b[0] as number) << 8) | (b[1] as number);

function say(actions: DnsAction[]): string[] {
  return actions.map((a) => {
    if (a.kind === 'forget') return `forget ${a.client}`;
    if (a.kind === 'ask') return `ask ${a.upstream}${a.transport === 'tcp' ? ' by tcp' : ''}`;
    const m = decode(a.bytes);
    return `${a.client} #${m.id} ${m.rcode} ${m.answers.map((x) => x.data).join()}`.trim();
  });
}

/** An upstream's answer to what was asked; `name`: the question it returns. */
function answer(asked: DnsAction | undefined, data: string, rcode = 0, name?: string): Uint8Array {
  const q = decode(asked?.kind === 'ask' ? asked.bytes : new Uint8Array());
  return dnsPacket.encode({
    type: 'response',
    id: q.id,
    flags: 0x180 | rcode,
    questions: [{ type: 'A', name: name ?? (q.questions[0]?.name as string) }],
    answers: data ? [{ type: 'A', name: q.questions[0]?.name as string, ttl: 60, data }] : [],
  });
}

const udp = (upstream: string): { upstream: string; transport: DnsTransport } => ({ upstream, transport: 'udp' });
const tcp = (upstream: string): { upstream: string; transport: DnsTransport } => ({ upstream, transport: 'tcp' });
const nameOf = (asked: DnsAction | undefined): string => (asked?.kind === 'ask' ? (decode(asked.bytes).questions[0]?.name as string) : '');

describe('the DNS forwarder: names of its own', () => {
  test('B25: own names, forward and reverse, never leave the host', () => {
    const f = forwarder();
    expect(say(ask(f, query('VM1.anka.internal')))).toEqual(['1 #7 NOERROR 192.168.64.2']);
    expect(say(ask(f, query('host.anka.internal')))).toEqual(['1 #7 NOERROR 192.168.64.1']);
    expect(say(ask(f, query('vm1.anka.internal', 'AAAA')))).toEqual(['1 #7 NOERROR']);
    expect(say(ask(f, query('2.64.168.192.in-addr.arpa', 'PTR')))).toEqual(['1 #7 NOERROR vm1.anka.internal']);
    expect(say(ask(f, query('9.64.168.192.in-addr.arpa', 'PTR')))).toEqual(['1 #7 NXDOMAIN']);
    expect(say(ask(f, query('nobody.anka.internal')))).toEqual(['1 #7 NXDOMAIN']);
    expect(f.pollAt()).toBeNull();
  });
  test('RFC 2308, 2: negative answers have the SOA of their zone, and those of a query with OPT have OPT', () => {
    const f = forwarder();
    const seen = (name: string, type = 'A'): unknown[] => {
      const a = ask(f, query(name, type, 7, OPT))[0];
      const m = decode(a?.kind === 'answer' ? a.bytes : new Uint8Array());
      return [m.rcode, m.authorities.map((r) => `${r.type} ${r.name}`).join(), m.additionals.map((r) => r.type).join()];
    };
    expect(seen('vm1.anka.internal', 'TXT')).toEqual(['NOERROR', 'SOA anka.internal', 'OPT']);
    expect(seen('no.anka.internal')).toEqual(['NXDOMAIN', 'SOA anka.internal', 'OPT']);
    expect(seen('anka.internal')).toEqual(['NOERROR', 'SOA anka.internal', 'OPT']);
    expect(seen('9.64.168.192.in-addr.arpa', 'PTR')).toEqual(['NXDOMAIN', 'SOA 64.168.192.in-addr.arpa', 'OPT']);
    expect(seen('_dns.resolver.arpa', 'TXT')).toEqual(['NOERROR', 'SOA resolver.arpa', 'OPT']);
    expect(say(ask(f, query('anka.internal', 'SOA')))[0]).toMatch(/NOERROR/);
    expect(say(ask(f, query('anka.internal', 'NS')))).toEqual(['1 #7 NOERROR host.anka.internal']);
  });
  test('RFC 6303, 6761: special names are answered here; private reverse names go to a private server only', () => {
    const f = forwarder();
    expect(say(ask(f, query('x.localhost')))).toEqual(['1 #7 NOERROR 127.0.0.1']);
    expect(say(ask(f, query('localhost', 'AAAA')))).toEqual(['1 #7 NOERROR ::1']);
    for (const name of ['1.0.0.127.in-addr.arpa', '7.1.254.169.in-addr.arpa', 'a.invalid', 'b.onion', '1.8.e.f.ip6.arpa'])
      expect(say(ask(f, query(name, 'PTR'))), name).toEqual(['1 #7 NXDOMAIN']);
    expect(say(ask(f, query('5.0.0.10.in-addr.arpa', 'PTR')))).toEqual([`ask ${FIRST}`]);
    const open = forwarder(true, ['9.9.9.9', '2620:fe::fe']);
    for (const name of ['6.0.0.10.in-addr.arpa', '1.31.172.in-addr.arpa', '1.d.f.ip6.arpa'])
      expect(say(ask(open, query(name, 'PTR'))), name).toEqual(['1 #7 NXDOMAIN']);
    expect(say(ask(open, query('1.32.172.in-addr.arpa', 'PTR')))).toEqual(['ask 9.9.9.9']);
    open.zones.ourSubnets = [parseSubnet('203.0.112.0/24') as typeof subnet];
    expect(say(ask(open, query('5.112.0.203.in-addr.arpa', 'PTR'))), 'of another network of ours').toEqual(['1 #7 NXDOMAIN']);
  });
  test('the hosts file: all addresses of a name, reverse names, the host itself as the gateway; other types are forwarded', () => {
    const f = forwarder();
    const names = [{ name: 'nas.lan', ipv4: [0x0a010203, 0x0a010204], ipv6: ['2001:db8::5'] }];
    f.zones.setHosts({ names, own: ['box'], canonical: new Map<number | string, string>([[0x0a010203, 'nas.lan']]) });
    expect(say(ask(f, query('NAS.lan')))).toEqual(['1 #7 NOERROR 10.1.2.3,10.1.2.4']);
    expect(say(ask(f, query('nas.lan', 'AAAA')))).toEqual(['1 #7 NOERROR 2001:db8::5']);
    expect(say(ask(f, query('box')))).toEqual(['1 #7 NOERROR 192.168.64.1']);
    expect(say(ask(f, query('box', 'AAAA')))).toEqual(['1 #7 NOERROR']);
    expect(say(ask(f, query('3.2.1.10.in-addr.arpa', 'PTR')))).toEqual(['1 #7 NOERROR nas.lan']);
    expect(say(ask(f, query('nas.lan', 'MX')))).toEqual([`ask ${FIRST}`]);
    f.zones.setHosts(null);
    expect(say(ask(f, query('nas.lan')))).toEqual([`ask ${FIRST}`]);
  });
  test('B15: on the host network, outside names are not forwarded', () => {
    expect(say(ask(forwarder(false), query('example.com')))).toEqual(['1 #7 NXDOMAIN']);
  });
  test('errors: no server, garbage, opcodes, EDNS versions, classes, zone transfers, oversized queries', () => {
    const f = forwarder(true, []);
    expect(say(ask(f, query('example.com')))).toEqual(['1 #7 SERVFAIL']);
    expect(ask(f, new Uint8Array(4))).toEqual([{ kind: 'forget', client: 1 }]);
    const opcode = query('example.com');
    opcode[2] = (opcode[2] as number) | 0x28;
    expect(say(ask(f, opcode))).toEqual(['1 #7 NOTIMP']);
    const version = { additionals: [{ ...OPT.additionals[0], ednsVersion: 1 }] };
    const bad = ask(f, query('vm1.anka.internal', 'A', 7, version))[0];
    expect(decode(bad?.kind === 'answer' ? bad.bytes : new Uint8Array()).additionals, 'RFC 6891, 6.1.3: BADVERS').toMatchObject([
      { extendedRcode: 1, ednsVersion: 0 },
    ]);
    const chaos = query('version.bind', 'TXT');
    chaos[chaos.length - 1] = 3;
    expect(say(ask(f, chaos))).toEqual(['1 #7 REFUSED']);
    expect(say(ask(f, query('anka.internal', 'AXFR')))).toEqual(['1 #7 REFUSED']);
    expect(say(ask(f, Buffer.concat([query('example.com'), Buffer.alloc(5000)])))).toEqual(['1 #7 FORMERR']);
  });
});

describe('the DNS forwarder: upstream servers', () => {
  test('B25, RFC 5452, 9.2: others are forwarded under a new id, and answered under the old one', () => {
    const f = forwarder();
    const asked = ask(f, query('example.com'));
    expect(say(asked)).toEqual([`ask ${FIRST}`]);
    expect(asked[0]?.kind === 'ask' && idOf(asked[0].bytes)).not.toBe(7);
    expect(say(f.onAnswer(answer(asked[0], '1.2.3.4'), udp(FIRST), 5))).toEqual(['1 #7 NOERROR 1.2.3.4']);
    expect(f.pollAt()).toBeNull();
  });
  test('B25: after a timeout or failure the next server is asked; a silent one is asked last for 30 s', () => {
    const f = forwarder();
    ask(f, query('example.com'));
    expect(f.poll(1999)).toEqual([]);
    const again = f.poll(2000);
    expect(say(again)).toEqual([`ask ${SECOND}`]);
    expect(say(f.onAnswer(answer(again[0], '1.2.3.4'), udp(SECOND), 2001))).toEqual(['1 #7 NOERROR 1.2.3.4']);
    const next = ask(f, query('example.org'), 3000);
    expect(say(next)).toEqual([`ask ${SECOND}`]);
    const third = f.onAnswer(answer(next[0], '', 2), udp(SECOND), 3001);
    expect(say(third)).toEqual([`ask ${FIRST}`]);
    expect(say(ask(f, query('example.net'), 32_001)), 'the order of resolv.conf again').toEqual([`ask ${FIRST}`]);
  });
  test('a single server is asked again after a lost datagram, and a late answer to the first query counts', () => {
    const f = forwarder(true, [FIRST]);
    const asked = ask(f, query('example.com'));
    expect(say(f.poll(2000))).toEqual([`ask ${FIRST}`]);
    expect(say(f.onAnswer(answer(asked[0], '1.2.3.4'), udp(FIRST), 2500))).toEqual(['1 #7 NOERROR 1.2.3.4']);
    ask(f, query('example.com'), 10_000);
    f.poll(12_000);
    expect(say(f.poll(16_999))).toEqual([]);
    expect(say(f.poll(17_000))).toEqual(['1 #7 SERVFAIL']);
  });
  test('a failure counts if no other server answers; a refused datagram has the next one asked at once', () => {
    const f = forwarder();
    const first = ask(f, query('example.com'));
    const repeated = f.onAnswer(answer(first[0], '', 5), udp(FIRST), 1);
    expect(say(repeated), 'without 0x20').toEqual([`ask ${FIRST}`]);
    const second = f.onAnswer(answer(repeated[0], '', 5), udp(FIRST), 1);
    expect(say(second)).toEqual([`ask ${SECOND}`]);
    const again = f.onLost(idOf(second[0]?.kind === 'ask' ? second[0].bytes : new Uint8Array(2)), udp(SECOND), 2);
    expect(say(again), 'the second once more').toEqual([`ask ${SECOND}`]);
    expect(say(f.onLost(idOf(again[0]?.kind === 'ask' ? again[0].bytes : new Uint8Array(2)), udp(SECOND), 3))).toEqual(['1 #7 REFUSED']);
    expect(f.pollAt()).toBeNull();
  });
  test('options of resolv.conf: timeout, attempts, rotate', () => {
    const f = forwarder();
    f.setUpstreams({ servers: [FIRST, SECOND], timeoutSeconds: 1, attempts: 1, rotate: true }, 0);
    expect(say(ask(f, query('a.test')))).toEqual([`ask ${FIRST}`]);
    expect(say(ask(f, query('b.test')))).toEqual([`ask ${SECOND}`]);
    expect(say(f.poll(1000)).sort()).toEqual([`ask ${FIRST}`, `ask ${SECOND}`]);
    expect(say(f.poll(6000)), 'each was asked once').toEqual(['1 #7 SERVFAIL', '1 #7 SERVFAIL']);
  });
  test('a changed list of servers: waiting queries go to the new ones at once', () => {
    const f = forwarder();
    ask(f, query('example.com'));
    f.setUpstreams({ servers: ['10.0.0.3'] }, 100);
    expect(say(f.poll(100))).toEqual(['ask 10.0.0.3']);
    f.setUpstreams({ servers: [] }, 200);
    expect(say(f.poll(200))).toEqual(['1 #7 SERVFAIL']);
  });
  test('RFC 5452, 9.1: answers with a wrong server, transport, id or question are dropped', () => {
    const f = forwarder();
    const asked = ask(f, query('example.com'))[0];
    const right = answer(asked, '6.6.6.6');
    expect(f.onAnswer(right, udp(SECOND), 1)).toEqual([]);
    expect(f.onAnswer(right, tcp(FIRST), 1)).toEqual([]);
    const otherId = new Uint8Array(right);
    otherId[1] = (otherId[1] as number) ^ 1;
    expect(f.onAnswer(otherId, udp(FIRST), 1)).toEqual([]);
    expect(f.onAnswer(answer(asked, '6.6.6.6', 0, 'evil.com'), udp(FIRST), 1)).toEqual([]);
    expect(f.onAnswer(new Uint8Array(3), udp(FIRST), 1)).toEqual([]);
    expect(f.onAnswer(right.subarray(0, 12), udp(FIRST), 1), 'success without a question').toEqual([]);
    expect(say(f.onAnswer(right, udp(FIRST), 1))).toEqual(['1 #7 NOERROR 6.6.6.6']);
  });
  test('RFC 4343: a server that returns the question in another case is asked without 0x20, for an hour', () => {
    const f = forwarder(true, [FIRST]);
    const asked = ask(f, query('Some-Long-Name.example.com'))[0];
    expect(nameOf(asked).toLowerCase()).toBe('some-long-name.example.com');
    expect(nameOf(asked), 'in random case').not.toBe('Some-Long-Name.example.com');
    const again = f.onAnswer(answer(asked, '6.6.6.6', 0, nameOf(asked).toLowerCase()), udp(FIRST), 1);
    expect(say(again)).toEqual([`ask ${FIRST}`]);
    expect(nameOf(again[0])).toBe('Some-Long-Name.example.com');
    const got = f.onAnswer(answer(again[0], '1.2.3.4', 0, 'some-long-name.example.com'), udp(FIRST), 2);
    expect(say(got)).toEqual(['1 #7 NOERROR 1.2.3.4']);
    expect(decode(got[0]?.kind === 'answer' ? got[0].bytes : new Uint8Array()).questions[0]?.name, 'the client’s case').toBe('Some-Long-Name.example.com');
    const other = query('Other-Long-Name.example.com');
    expect(nameOf(ask(f, other, 3)[0]), 'remembered').toBe('Other-Long-Name.example.com');
    expect(nameOf(ask(f, query('Third-Long-Name.example.com'), 3_700_000)[0])).not.toBe('Third-Long-Name.example.com');
  });
  test.each([1, 4, 5])('a server that refuses questions in random case by error %d is asked without 0x20, for an hour', (rcode) => {
    const f = forwarder(true, [FIRST]);
    const asked = ask(f, query('some-long-name.example.com'))[0];
    const again = f.onAnswer(answer(asked, '', rcode), udp(FIRST), 1);
    expect(say(again)).toEqual([`ask ${FIRST}`]);
    expect(nameOf(again[0])).toBe('some-long-name.example.com');
    expect(say(f.onAnswer(answer(again[0], '1.2.3.4'), udp(FIRST), 2))).toEqual(['1 #7 NOERROR 1.2.3.4']);
    expect(nameOf(ask(f, query('other-long-name.example.com'), 3)[0])).toBe('other-long-name.example.com');
    expect(nameOf(ask(f, query('third-long-name.example.com'), 3_700_000)[0])).not.toBe('third-long-name.example.com');
  });
  test('a server that refuses a question in any case is asked with 0x20 the next time', () => {
    const f = forwarder(true, [FIRST]);
    const again = f.onAnswer(answer(ask(f, query('some-long-name.example.com'))[0], '', 5), udp(FIRST), 1);
    f.onAnswer(answer(again[0], '', 5), udp(FIRST), 2);
    expect(nameOf(ask(f, query('other-long-name.example.com'), 3)[0])).not.toBe('other-long-name.example.com');
  });
  test('a server that ignores questions in random case is asked without 0x20, for ten minutes', () => {
    const f = forwarder(true, [FIRST]);
    ask(f, query('some-long-name.example.com'));
    const again = f.poll(2000);
    expect(nameOf(again[0])).toBe('some-long-name.example.com');
    f.onAnswer(answer(again[0], '1.2.3.4'), udp(FIRST), 2001);
    expect(nameOf(ask(f, query('other-long-name.example.com'), 2002)[0])).toBe('other-long-name.example.com');
    expect(nameOf(ask(f, query('third-long-name.example.com'), 700_000)[0])).not.toBe('third-long-name.example.com');
  });
  test('RFC 5452, 5: equivalent queries share one, and each client gets its own id and case', () => {
    const f = forwarder();
    const asked = ask(f, query('example.com', 'A', 1));
    expect(ask(f, query('EXAMPLE.com', 'A', 2), 1, { client: 2, guest: 'h' })).toEqual([]);
    expect(say(ask(f, query('example.com', 'AAAA', 3), 1, { client: 3 }))).toEqual([`ask ${FIRST}`]);
    const got = f.onAnswer(answer(asked[0], '1.2.3.4'), udp(FIRST), 2);
    expect(say(got)).toEqual(['1 #1 NOERROR 1.2.3.4', '2 #2 NOERROR 1.2.3.4']);
    expect(got.map((a) => (a.kind === 'answer' ? decode(a.bytes).questions[0]?.name : ''))).toEqual(['example.com', 'EXAMPLE.com']);
  });
  test('RFC 7766, 5: what comes by TCP is asked by TCP, and by UDP from a server that refuses TCP', () => {
    const f = forwarder(true, [FIRST]);
    const asked = ask(f, query('example.com'), 0, { transport: 'tcp' });
    expect(say(asked)).toEqual([`ask ${FIRST} by tcp`]);
    const byUdp = f.onLost(idOf(asked[0]?.kind === 'ask' ? asked[0].bytes : new Uint8Array(2)), tcp(FIRST), 1);
    expect(say(byUdp)).toEqual([`ask ${FIRST}`]);
    expect(say(f.onAnswer(answer(byUdp[0], '1.2.3.4'), udp(FIRST), 2))).toEqual(['1 #7 NOERROR 1.2.3.4']);
  });
});

describe('the DNS forwarder: bounds', () => {
  test('at most 256 pending queries per guest; by TCP more are answered by SERVFAIL', () => {
    const f = forwarder();
    const asks = (guest: string, n: number, now: number, transport: DnsTransport = 'udp'): string[] =>
      Array.from({ length: n }, (_, i) => ask(f, query(`n${i}.com`), now, { guest, transport })[0]?.kind ?? '');
    const kinds = asks('g', 300, 0);
    expect(kinds.filter((k) => k === 'ask')).toHaveLength(256);
    expect(kinds.slice(256)).toEqual(Array(44).fill('forget'));
    expect(asks('g', 1, 0, 'tcp')).toEqual(['answer']);
    expect(ask(f, query('n0.com'), 0, { guest: 'h' }), 'shared').toEqual([]);
    // the second server is asked, which gives nobody room
    expect(f.poll(2000)).toHaveLength(256);
    expect(asks('g', 1, 2000)).toEqual(['forget']);
    f.poll(4000);
    f.poll(6000);
    expect(f.poll(11_000).every((a) => a.kind === 'answer')).toBe(true);
    expect(asks('g', 1, 11_000)).toEqual(['ask']);
  });
  test('the tables of pending queries and of ids are bounded', () => {
    const f = forwarder();
    for (let i = 0; i < 200 * 256; i++) ask(f, query(`n${i}.com`), 0, { guest: `g${i % 200}` });
    expect(f.poll(2000)).toHaveLength(32_768);
    expect(f.poll(4000)).toHaveLength(32_768);
    expect(f.poll(6000)).toHaveLength(32_768);
    expect(f.poll(11_000).every((a) => a.kind === 'answer')).toBe(true);
    expect(f.pollAt()).toBeNull();
  });
});
