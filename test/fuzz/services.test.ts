/**
 * Fuzzes DHCP and DNS with almost valid messages, from clients to the gateway and from upstream servers. Nothing
 * throws, each answer is well-formed and goes to its client, and tables stay bounded. ANKA_FUZZ_TALKS sets the number
 * of conversations (default 500); a failure reports its seed.
 */
import dnsPacket from 'dns-packet';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { passes } from '../../src/net/capture-filter.ts';
import { DhcpServer } from '../../src/net/dhcp/server.ts';
import { DnsForwarder } from '../../src/net/dns-forwarder.ts';

const numRuns = Number(process.env['ANKA_FUZZ_TALKS'] ?? 500);
const SUBNET = { base: 0xc0a84000, prefix: 29 };
const GATEWAY = 0xc0a84001;
const CARDS = [1, 2, 3].map((n) => ({ id: `vm${n}`, mac: 0x564545000000 + n, hostname: `vm${n}`, mtu: n === 3 ? 9000 : 1500 }));

/** Damage to the bytes of a valid message: some change, its end is truncated, bytes are appended. */
const damage = fc.record({
  changes: fc.array(fc.tuple(fc.nat(700), fc.nat(255)), { maxLength: 4 }),
  cut: fc.option(fc.nat(700), { freq: 6 }),
  more: fc.option(fc.uint8Array({ maxLength: 400 }), { freq: 8 }),
});
type Damage = typeof damage extends fc.Arbitrary<infer T> ? T : never;
const undamaged = fc.constant<Damage>({ changes: [], cut: null, more: null });

function damaged(message: Uint8Array, d: Damage): Uint8Array {
  const b = Buffer.concat([message.subarray(0, d.cut ?? message.length), d.more ?? new Uint8Array()]);
  for (const [at, value] of d.changes) if (b.length > 0) b[at % b.length] = value;
  return b;
}

// ---- DHCP

const dhcpTalk = fc.array(
  fc.record({
    card: fc.nat(2),
    type: fc.constantFrom(1, 1, 3, 3, 3, 4, 7, 8),
    ip: fc.nat(9),
    asks: fc.constantFrom('requested', 'current', 'none'),
    server: fc.constantFrom(0, GATEWAY, GATEWAY, 0x0a000001),
    /** The MAC address that an ARP probe finds: none, a card's, a foreign one. */
    user: fc.constantFrom(null, null, 0x564545000001, 0x564545000002, 0x020000000001),
    wait: fc.constantFrom(0, 10, 5000, 4_000_000),
    damage: fc.oneof({ weight: 2, arbitrary: undamaged }, { weight: 3, arbitrary: damage }),
  }),
  { maxLength: 60 },
);

function dhcpMessage(mac: number, type: number, xid: number, ciaddr: number, options: [number, number][]): Uint8Array {
  const b = Buffer.alloc(244 + 6 * options.length);
  b.set([1, 1, 6, 0]);
  b.writeUInt32BE(xid, 4);
  b.writeUInt32BE(ciaddr, 12);
  b.writeUIntBE(mac, 28, 6);
  b.writeUInt32BE(0x63825363, 236);
  b.set([53, 1, type], 240);
  options.forEach(([code, value], i) => {
    b.set([code, 4], 243 + 6 * i);
    b.writeUInt32BE(value, 245 + 6 * i);
  });
  b[b.length - 1] = 255;
  return b;
}

/** The options of an answer; each must be complete and occur once. */
function optionsOf(b: Uint8Array): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  let at = 240;
  while (b[at] !== 255) {
    const [code, length] = [b[at] as number, b[at + 1] as number];
    expect(at + 2 + length, 'an option is complete').toBeLessThan(b.length);
    expect(found.has(code), `option ${code} comes once`).toBe(false);
    found.set(code, b.subarray(at + 2, at + 2 + length));
    at += 2 + length;
  }
  return found;
}

test('DHCP: no address belongs to two cards, each is from the pool, and each answer is complete and goes to its client', () => {
  fc.assert(
    fc.property(dhcpTalk, (talk) => {
      const s = new DhcpServer({ subnet: SUBNET, leaseSeconds: 3600, domain: 'anka.internal' });
      s.setNics(CARDS);
      let now = 1_000_000;
      talk.forEach((t, i) => {
        now += t.wait;
        const ip = 0xc0a84000 + t.ip;
        const options: [number, number][] = [
          ...(t.asks === 'requested' ? [[50, ip] as [number, number]] : []),
          ...(t.server ? [[54, t.server] as [number, number]] : []),
        ];
        const card = CARDS[t.card] as (typeof CARDS)[0];
        const bytes = damaged(dhcpMessage(card.mac, t.type, i, t.asks === 'current' ? ip : 0, options), t.damage);
        const c = s.candidate(bytes, now);
        if (c) s.probed(c.ip, t.user === c.mac ? null : t.user, now);
        const before = new Map(s.pool.leases(now).map((l) => [l.ip, l.id]));
        const answer = s.onMessage(bytes, now);
        if (typeof answer === 'string') return;
        const b = Buffer.from(answer.bytes);
        expect(b.length).toBeGreaterThanOrEqual(300);
        expect(b.length).toBeLessThanOrEqual(576);
        expect([b[0], b.subarray(4, 8), b.subarray(28, 34)]).toEqual([2, Buffer.from(bytes.subarray(4, 8)), Buffer.from(bytes.subarray(28, 34))]);
        const given = b.readUInt32BE(16);
        const kind = optionsOf(b).get(53)?.[0];
        expect([2, 5, 6]).toContain(kind);
        if (given === 0) return;
        expect(given).toBeGreaterThan(GATEWAY);
        expect(given).toBeLessThan(0xc0a84007);
        expect(s.pool.lease(answer.nic, now)?.ip).toBe(given);
        expect(before.get(given) ?? answer.nic, 'no other card had it').toBe(answer.nic);
      });
      const leases = s.pool.leases(now);
      expect(new Set(leases.map((l) => l.ip)).size).toBe(leases.length);
      expect(new Set(leases.map((l) => l.id)).size).toBe(leases.length);
    }),
    { numRuns },
  );
});

// ---- DNS

const NAMES = [
  'vm1.anka.internal',
  'host.anka.internal',
  'example.com',
  'EXAMPLE.org',
  '2.64.168.192.in-addr.arpa',
  '9.64.168.192.in-addr.arpa',
  'anka.internal',
  'a'.repeat(63),
];
const SERVERS = ['10.0.0.1', '10.0.0.2'];
const dnsTalk = fc.array(
  fc.record({
    what: fc.constantFrom('query', 'query', 'query', 'answer', 'answer', 'time'),
    guest: fc.constantFrom('g1', 'g2'),
    transport: fc.constantFrom('udp', 'udp', 'tcp'),
    name: fc.constantFrom(...NAMES),
    type: fc.constantFrom('A', 'AAAA', 'PTR', 'MX', 'ANY'),
    id: fc.nat(65_535),
    /** The forwarded query that is answered, the server that answers, and the response code. */
    which: fc.nat(100),
    server: fc.constantFrom(...SERVERS, '10.0.0.9'),
    rcode: fc.constantFrom(0, 0, 0, 2, 3, 5),
    damage: fc.oneof({ weight: 2, arbitrary: undamaged }, { weight: 3, arbitrary: damage }),
  }),
  { maxLength: 60 },
);

/** The labels of a question's name, in lower case. */
function labelsOf(query: Uint8Array): string[] {
  const labels: string[] = [];
  for (let at = 12; query[at]; at += 1 + (query[at] as number))
    labels.push(
      Buffer.from(query.subarray(at + 1, at + 1 + (query[at] as number)))
        .toString('latin1')
        .toLowerCase(),
    );
  return labels;
}

test('DNS: an answer goes to its client, matches the question, and comes from the server asked; internal names never leave the host', () => {
  fc.assert(
    fc.property(dnsTalk, (talk) => {
      let random = 0;
      const f = new DnsForwarder(
        { subnet: { base: 0xc0a84000, prefix: 24 }, gateway: GATEWAY, forward: true },
        () => (random = (random * 7919 + 12_345) & 0xffff),
      );
      f.zones.setNames(new Map([['vm1', 0xc0a84002]]));
      f.setUpstreams({ servers: SERVERS }, 0);
      let now = 0;
      const asked: { upstream: string; transport: 'udp' | 'tcp'; bytes: Uint8Array }[] = [];
      const queries = new Map<number, Buffer>();
      const act = (actions: ReturnType<DnsForwarder['onQuery']>): void => {
        for (const a of actions) {
          if (a.kind === 'forget') continue;
          if (a.kind === 'ask') {
            expect(SERVERS).toContain(a.upstream);
            expect(labelsOf(a.bytes).slice(-2)).not.toEqual(['anka', 'internal']);
            asked.push(a);
            continue;
          }
          const query = queries.get(a.client) as Buffer;
          const answer = Buffer.from(a.bytes);
          expect(answer.readUInt16BE(0), 'its id').toBe(query.readUInt16BE(0));
          expect(answer[2] & 0x80, 'an answer').toBe(0x80);
        }
      };
      talk.forEach((t, i) => {
        if (t.what === 'time') {
          now += 2500;
          act(f.poll(now));
        } else if (t.what === 'query') {
          const bytes = Buffer.from(
            damaged(dnsPacket.encode({ type: 'query', id: t.id, flags: 0x100, questions: [{ type: t.type as 'A', name: t.name }] }), t.damage),
          );
          queries.set(i, bytes);
          act(f.onQuery(bytes, { client: i, guest: t.guest, transport: t.transport as 'udp' }, now));
        } else if (asked.length > 0) {
          const to = asked[t.which % asked.length] as (typeof asked)[0];
          const right = Buffer.from(to.bytes);
          right[2] = right[2] | 0x80;
          right[3] = (right[3] & 0xf0) | t.rcode;
          const bytes = damaged(right, t.damage);
          const actions = f.onAnswer(bytes, { upstream: t.server, transport: to.transport }, now);
          if (actions.length > 0) {
            expect(
              asked.some((a) => a.upstream === t.server && a.bytes[0] === bytes[0] && a.bytes[1] === bytes[1]),
              'the server was asked',
            ).toBe(true);
            for (const a of actions)
              if (a.kind === 'answer' && a.bytes.length > 12) expect(Buffer.from(a.bytes.subarray(12, 16))).toEqual(queries.get(a.client)?.subarray(12, 16));
          }
          act(actions);
        }
      });
    }),
    { numRuns },
  );
});

// ---- filters of captures

test('filters: any program ends, on any frame', () => {
  const code = fc.oneof(fc.nat(255), fc.constantFrom(0x28, 0x30, 0x48, 0x50, 0xb1, 0x15, 0x45, 0x05, 0x06, 0x54, 0x34, 0x60, 0x07, 0x87));
  const instruction = fc.record({ code, jumpTrue: fc.nat(255), jumpFalse: fc.nat(255), k: fc.oneof(fc.nat(64), fc.nat(0xffffffff)) });
  fc.assert(
    fc.property(fc.array(instruction, { maxLength: 200 }), fc.uint8Array({ maxLength: 200 }), (program, frame) => typeof passes(program, frame) === 'boolean'),
    { numRuns },
  );
});
