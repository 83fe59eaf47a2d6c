import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { AddressTable } from './address-table.ts';
import { CardAddresses, MAX_CLAIMS } from './card-addresses.ts';

const SUBNET = { base: 0xc0a84000, prefix: 24 };
const ip = (n: number): number => SUBNET.base + n;
const VIP = ip(200);

describe('the addresses of cards', () => {
  let table: AddressTable<CardAddresses>;
  let now: number;
  let one: CardAddresses;
  let two: CardAddresses;
  /** Addresses that guests answer ARP for, as `id/address`. */
  let alive: Set<string>;
  let asked: string[];

  beforeEach(() => {
    now = 5000;
    alive = new Set();
    asked = [];
    table = new AddressTable<CardAddresses>(SUBNET, () => {});
    [one, two] = [new CardAddresses('one'), new CardAddresses('two')];
    one.leaseIp = ip(2);
    two.leaseIp = ip(3);
    table.setCards([one, two], [], now);
    for (const c of [one, two]) uses(c, c.leaseIp);
  });

  /** The guest takes an address, and announces it. */
  function uses(card: CardAddresses, address: number): string | null {
    alive.add(`${card.id}/${address}`);
    return table.claim(card, address, now);
  }

  /** Lets time pass. Returns the addresses that moved, as `id/address`. */
  function wait(ms: number): string[] {
    const moved: string[] = [];
    for (const end = now + ms; now < end; now += 50) {
      if ((table.pollAt() ?? Number.POSITIVE_INFINITY) > now && ms < 60_000) continue;
      for (const { kind, card, ip: address } of table.poll(now)) {
        const key = `${card.id}/${address}`;
        if (kind === 'moved') moved.push(key);
        else {
          asked.push(key);
          if (alive.has(key)) table.claim(card, address, now, true);
        }
      }
    }
    return moved;
  }

  const sources = (c: CardAddresses): string =>
    c
      .list()
      .map((a) => `${a.ip - SUBNET.base} ${a.source}`)
      .join(', ');

  test('B50: a virtual address moves within 3 s when its holder vanishes, and never before', () => {
    expect(uses(one, VIP)).toBeNull();
    wait(2000);
    expect(sources(one)).toBe('2 lease, 200 virtual');
    expect(uses(two, VIP), 'the holder lives').toBe('arp_spoof');
    expect(wait(10_000)).toEqual([]);
    alive.delete(`one/${VIP}`);
    alive.delete('one/2');
    expect(uses(two, VIP)).toBe('arp_spoof');
    expect(table.ownerOf(VIP), 'the claim is pending').toBe(one);
    expect(wait(2500)).toEqual([`two/${VIP}`]);
    expect([sources(one), sources(two)]).toEqual(['2 lease', '3 lease, 200 virtual']);
    expect(uses(one, VIP), 'the old holder is back').toBe('arp_spoof');
    expect(wait(5000)).toEqual([]);
  });

  test('B91: several requests are sent before an address moves, and one answer is enough', () => {
    uses(one, VIP);
    wait(2000);
    alive.delete(`one/${VIP}`);
    asked = [];
    uses(two, VIP);
    wait(1000);
    expect(asked.length).toBeGreaterThanOrEqual(4);
    expect(new Set(asked)).toEqual(new Set([`one/${VIP}`]));
    alive.add(`one/${VIP}`);
    expect(wait(5000), 'it answers the last one').toEqual([]);
    expect(table.ownerOf(VIP)).toBe(one);
  });

  test('B91: a lease, a reservation and a self-set main address never move, even of a silent guest', () => {
    const three = new CardAddresses('three');
    one.reservedIp = ip(50);
    table.setCards([one, two, three], [ip(60)], now);
    uses(three, ip(77));
    wait(2000);
    expect(sources(three)).toBe('77 static');
    alive.clear();
    for (const address of [ip(2), ip(50), ip(77), ip(60), ip(1), ip(0), ip(255), 0x0a000001])
      expect(table.claim(two, address, now), String(address)).toBe('arp_spoof');
    expect(wait(10_000)).toEqual([]);
    expect([sources(one), sources(three)]).toEqual(['2 lease, 50 reservation', '77 static']);
  });

  test('the holder’s card is detached: a pending claim is settled at once', () => {
    uses(one, VIP);
    wait(2000);
    uses(two, VIP);
    table.setCards([two], [ip(2)], now);
    expect(wait(200)).toEqual([`two/${VIP}`]);
    expect(table.claim(two, ip(2), now), 'its lease stays its own').toBe('arp_spoof');
  });

  test('the lease comes before what the guest sets, while the guest answers for it', () => {
    uses(one, ip(77));
    wait(2000);
    expect(sources(one)).toBe('2 lease, 77 virtual');
    alive.delete(`one/${ip(2)}`);
    uses(one, ip(78));
    wait(2000);
    expect(sources(one), 'the lease is silent').toBe('77 static, 2 lease, 78 virtual');
    uses(one, ip(2));
    expect(one.ip).toBe(ip(2));
  });

  test('B50: a guest that announces a virtual address and vanishes keeps its lease, and the next holder gets it within 3 s', () => {
    wait(2000);
    alive.clear();
    expect(table.claim(one, VIP, now)).toBeNull();
    table.claim(one, VIP, now + 1);
    wait(5000);
    expect(sources(one)).toBe('2 lease, 200 virtual');
    expect(uses(two, VIP)).toBe('arp_spoof');
    expect(wait(2500)).toEqual([`two/${VIP}`]);
    expect(sources(one)).toBe('2 lease');
  });

  test('B50: so does one that answered for the address before it vanished', () => {
    alive.delete('one/2'); // what was asked first is lost
    uses(one, VIP);
    for (const { card, ip: address } of table.poll(now)) if (address === VIP) table.claim(card, address, now, true);
    alive.clear();
    wait(3000);
    expect(sources(one)).toBe('2 lease, 200 virtual');
    expect(uses(two, VIP)).toBe('arp_spoof');
    expect(wait(2500)).toEqual([`two/${VIP}`]);
  });

  test('a guest that is too busy to answer for a second has its new main address once it is heard again', () => {
    wait(2000);
    alive.clear();
    table.claim(one, ip(77), now);
    wait(2000);
    expect(sources(one)).toBe('2 lease, 77 virtual');
    uses(one, ip(77));
    wait(60_000);
    expect(sources(one)).toBe('77 static, 2 lease');
    asked = [];
    wait(60_000);
    expect(asked, 'nothing is left to be asked').toEqual([]);
  });

  test('a lease that ended makes no virtual address of a dead guest its main one', () => {
    uses(one, VIP);
    wait(2000);
    alive.clear();
    one.leaseIp = -1;
    table.setCards([one, two], [], now);
    wait(2000);
    expect(sources(one)).toBe('');
    expect(uses(two, VIP)).toBeNull();
  });

  test('a virtual address that is silent for ten minutes is dropped', () => {
    uses(one, VIP);
    wait(2000);
    wait(700_000);
    expect(table.ownerOf(VIP), 'it answers').toBe(one);
    alive.delete(`one/${VIP}`);
    wait(700_000);
    expect(table.ownerOf(VIP)).toBeUndefined();
  });

  test('bounds: 16 addresses that a guest sets, 16 new claims per second, and one settled claim at a time', () => {
    const verdicts = Array.from({ length: 100 }, (_, i) => table.claim(one, ip(100 + i), now));
    expect(verdicts.filter((v) => v === null)).toHaveLength(16);
    expect(verdicts.filter((v) => v === 'address_limit')).toHaveLength(84);
    now += 1000;
    for (let i = 0; i < 20; i++) table.claim(one, ip(220 + i), now);
    expect(one.claims.size).toBe(MAX_CLAIMS);
    asked = [];
    for (let i = 0; i < 1000; i++) table.claim(two, [...one.claims.keys()][i % 16] as number, now);
    wait(250);
    expect(asked.length, 'requests').toBeLessThanOrEqual(3 * (MAX_CLAIMS + 1));
  });

  test('any sequence of events: no two cards own an address, and an assigned one is its card’s', () => {
    const event = fc.record({ what: fc.constantFrom('claim', 'wait', 'dhcp', 'release', 'silence', 'lease'), card: fc.nat(1), n: fc.nat(6) });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 60 }), (events) => {
        const t = new AddressTable<CardAddresses>({ base: SUBNET.base, prefix: 29 }, () => {});
        const cards = [new CardAddresses('a'), new CardAddresses('b')];
        const dead = new Set<string>();
        let clock = 0;
        t.setCards(cards, [], clock);
        for (const { what, card: index, n } of events) {
          const c = cards[index] as CardAddresses;
          const other = cards[1 - index] as CardAddresses;
          const address = SUBNET.base + n;
          if (what === 'claim') t.claim(c, address, clock);
          else if (what === 'dhcp') t.onDhcp(c, clock);
          else if (what === 'release') t.release(c);
          else if (what === 'silence') dead.add(`${c.id}/${address}`);
          else if (what === 'lease') {
            // a pool leases no address that another card owns
            if (!other.owns(address) && n > 1 && n < 7) c.leaseIp = address;
            t.setCards(cards, [], clock);
          } else {
            clock += n * 200;
            for (const a of t.poll(clock)) if (a.kind === 'probe' && !dead.has(`${a.card.id}/${a.ip}`)) t.claim(a.card, a.ip, clock, true);
          }
          const lists = cards.map((x) => x.list().map((a) => a.ip));
          expect(new Set(lists.flat()).size).toBe(lists.flat().length);
          for (const x of cards) {
            if (x.leaseIp >= 0) expect(t.ownerOf(x.leaseIp)).toBe(x);
            expect(x.ip === -1 || x.owns(x.ip)).toBe(true);
          }
        }
      }),
    );
  });
});
