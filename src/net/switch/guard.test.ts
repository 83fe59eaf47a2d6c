import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { Guard, GuardedCard } from './guard.ts';

const SUBNET = { base: 0xc0a84000, prefix: 24 };
const ME = '564545000001';
const OTHER = '564545000002';
const ALL = 'ffffffffffff';
const GATEWAY_MAC = '5a4545004001';
const [me, other, gateway, free] = ['c0a84002', 'c0a84003', 'c0a84001', 'c0a8404d'];
const bytes = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex.replaceAll(' ', ''), 'hex'));

const arp = (op: number, sha: string, spa: string, tpa: string, from = ME): string => `${ALL}${from} 0806 0001080006040 00${op} ${sha}${spa}000000000000${tpa}`;
const ip4 = (src: string, dst: string, protocol: string, payload: string, fragment = '0000', from = ME): string =>
  `${GATEWAY_MAC}${from} 0800 4500${(20 + payload.replaceAll(' ', '').length / 2).toString(16).padStart(4, '0')}0001${fragment}40${protocol}0000${src}${dst}${payload}`;
const ip6 = (src: string, dst: string, next: string, payload: string): string =>
  `333300000001${ME} 86dd 60000000${(payload.replaceAll(' ', '').length / 2).toString(16).padStart(4, '0')}${next}ff${src}${dst}${payload}`;
const LL = (n: string): string => `fe8000000000000000000000000000${n}`;
/** The address that is made of a MAC address (RFC 4291, appendix A). */
const EUI = (mac: string, prefix = 'fe80000000000000'): string =>
  `${prefix}${(Number.parseInt(mac.slice(0, 2), 16) ^ 2).toString(16).padStart(2, '0')}${mac.slice(2, 6)}fffe${mac.slice(6)}`;
const ANY6 = '0'.repeat(32);
const NODES = `ff02${'0'.repeat(27)}1`;
const solicit = (target: string, option: string): string => `8700000000000000${target}${option}`;
const advert = (target: string, option: string): string => `8800000060000000${target}${option}`;
const linkAddress = (kind: number, mac: string): string => `0${kind}01${mac}`;

describe('the guard (B91)', () => {
  let guard: Guard;
  let card: GuardedCard;
  let neighbour: GuardedCard;
  let now = 0;
  const check = (hex: string, who = card): string | null => {
    const f = bytes(hex);
    return guard.check(who, f, 0, f.length, now);
  };

  beforeEach(() => {
    now = 1_000_000;
    guard = new Guard(SUBNET, 0x5a4545004001, () => {});
    card = new GuardedCard('me', 0x564545000001);
    neighbour = new GuardedCard('other', 0x564545000002);
    card.leaseIp = 0xc0a84002;
    neighbour.leaseIp = 0xc0a84003;
    guard.setCards([card, neighbour], [], now);
    // the neighbour's IPv6 address is known
    expect(check(`333300000001${OTHER} 86dd 6000000000203aff${LL('02')}${NODES}${advert(LL('02'), linkAddress(2, OTHER))}`, neighbour)).toBeNull();
  });

  const spoofs: [reason: string, what: string, frame: string][] = [
    ['mac_spoof', 'another’s MAC address', arp(1, OTHER, other, gateway, OTHER)],
    ['mac_spoof', 'the gateway’s MAC address', ip4(me, other, '06', '00'.repeat(20), '0000', GATEWAY_MAC)],
    ['mac_spoof', 'a group address as sender', ip4(me, other, '06', '00'.repeat(20), '0000', '010000000001')],
    ['arp_spoof', 'ARP in the gateway’s name', arp(2, ME, gateway, other)],
    ['arp_spoof', 'a request in the gateway’s name', arp(1, ME, gateway, other)],
    ['arp_spoof', 'ARP in another VM’s name', arp(2, ME, other, gateway)],
    ['arp_spoof', 'ARP with a foreign hardware address inside', arp(2, OTHER, me, gateway)],
    ['arp_spoof', 'ARP for an address outside the subnet', arp(2, ME, '0a090001', gateway)],
    ['arp_spoof', 'ARP for the broadcast address', arp(2, ME, 'c0a840ff', gateway)],
    ['arp_spoof', 'ARP for the network’s address', arp(2, ME, 'c0a84000', gateway)],
    ['arp_spoof', 'ARP of another hardware type', arp(1, ME, me, gateway).replace('0806 0001', '0806 0006')],
    ['arp_spoof', 'ARP that is cut off', arp(1, ME, me, gateway).slice(0, -4)],
    ['ip_spoof', 'another VM’s IP address', ip4(other, gateway, '01', '0800f7ff00000000')],
    ['ip_spoof', 'the gateway’s IP address', ip4(gateway, other, '01', '0800f7ff00000000')],
    ['ip_spoof', 'an outside IP address', ip4('cb007109', gateway, '06', '00'.repeat(20))],
    ['ip_spoof', 'an address that nobody has and that was not claimed', ip4(free, gateway, '11', '1000100000080000')],
    ['ip_spoof', 'the loopback', ip4('7f000001', gateway, '11', '1000100000080000')],
    ['ip_spoof', 'no address, but not asking by DHCP', ip4('00000000', gateway, '11', '0044004500080000')],
    ['ip_spoof', 'a later fragment in another’s name', ip4(other, gateway, '11', '00440043', '0001')],
    ['rogue_dhcp', 'the answer of a DHCP server', ip4(me, 'ffffffff', '11', '0043004400080000')],
    [
      'rogue_dhcp',
      'the answer of a DHCP server, with IP options before it',
      ip4(me, other, '11', '01010101 0043004400080000').replace('0800 4500', '0800 4600'),
    ],
    ['rogue_dhcp', 'the answer of a DHCPv6 server', ip6(LL('01'), NODES, '11', '0223022200080000')],
    ['rogue_dhcp', 'the same behind a destination option', ip6(LL('01'), NODES, '3c', '1100010400000000 0223022200080000')],
    ['rogue_ra', 'a router advertisement', ip6(LL('01'), NODES, '3a', `8600000040000708${'00'.repeat(8)}`)],
    ['rogue_ra', 'a router advertisement behind a hop-by-hop header', ip6(LL('01'), NODES, '00', `3a00010400000000 8600000040000708${'00'.repeat(8)}`)],
    ['rogue_ra', 'a router advertisement in a fragment', ip6(LL('01'), NODES, '2c', `3a00000100000001 8600000040000708${'00'.repeat(8)}`)],
    ['malformed', 'a first fragment that does not show its ICMPv6', ip6(LL('01'), NODES, '2c', '3a00000100000001')],
    ['malformed', 'a first fragment that does not show its ports', ip6(LL('01'), NODES, '2c', '3c000001000000011100010400000000')],
    ['malformed', 'a later fragment of more extension headers', ip6(LL('01'), NODES, '2c', `3c00000800000001 ${'00'.repeat(8)}`)],
    ['nd_spoof', 'neighbour discovery in fragments', ip6(LL('01'), NODES, '2c', `3a00000100000001 ${advert(LL('01'), linkAddress(2, ME))}`)],
    ['rogue_ra', 'a redirect', ip6(LL('01'), NODES, '3a', `8900000000000000${'00'.repeat(32)}`)],
    ['nd_spoof', 'a neighbour advertisement for another’s address', ip6(LL('01'), NODES, '3a', advert(LL('02'), linkAddress(2, ME)))],
    ['nd_spoof', 'a neighbour advertisement with another’s MAC address', ip6(LL('01'), NODES, '3a', advert(LL('01'), linkAddress(2, OTHER)))],
    ['nd_spoof', 'a neighbour solicitation with another’s MAC address', ip6(LL('01'), NODES, '3a', solicit(LL('02'), linkAddress(1, OTHER)))],
    ['nd_spoof', 'a solicitation from another’s address', ip6(LL('02'), NODES, '3a', solicit(LL('03'), linkAddress(1, ME)))],
    ['nd_spoof', 'a router solicitation with another’s MAC address', ip6(LL('01'), NODES, '3a', `8500000000000000${linkAddress(1, OTHER)}`)],
    ['nd_spoof', 'an advertisement of the gateway’s address', ip6(LL('01'), NODES, '3a', advert(EUI(GATEWAY_MAC), linkAddress(2, ME)))],
    ['nd_spoof', 'an advertisement of an address made of another’s MAC', ip6(LL('01'), NODES, '3a', advert(EUI(OTHER), linkAddress(2, ME)))],
    ['nd_spoof', 'an advertisement of a group address', ip6(LL('01'), NODES, '3a', advert(NODES, linkAddress(2, ME)))],
    ['ip_spoof', 'a global address made of another’s MAC', ip6(EUI(OTHER, 'fd00000000000001'), NODES, '06', '00'.repeat(20))],
    ['ip_spoof', 'the gateway’s IPv6 address', ip6(EUI(GATEWAY_MAC), NODES, '06', '00'.repeat(20))],
    ['ip_spoof', 'no IPv6 address', ip6(ANY6, NODES, '11', '1000100000080000')],
    ['ip_spoof', 'the loopback of IPv6', ip6(`${'0'.repeat(31)}1`, NODES, '11', '1000100000080000')],
    ['ip_spoof', 'a group as sender', ip6(NODES, NODES, '11', '1000100000080000')],
    ['ip_spoof', 'IPv4 in IPv6', ip6(`${'0'.repeat(20)}ffffc0a84003`, NODES, '11', '1000100000080000')],
    ['rogue_ra', 'a redirect of IPv4', ip4(me, other, '01', `0501000000000000${'00'.repeat(28)}`)],
    ['rogue_ra', 'a router advertisement of IPv4', ip4(me, 'e0000001', '01', '0900000001020708')],
    ['source_route', 'a loose source route', ip4(me, gateway, '06', `01830704${other}${'00'.repeat(20)}`).replace('0800 4500', '0800 4700')],
    ['source_route', 'a strict source route', ip4(me, gateway, '11', `890704${other}00${'00'.repeat(20)}`).replace('0800 4500', '0800 4700')],
    ['ip_spoof', 'another VM’s IPv6 address', ip6(LL('02'), NODES, '06', '00'.repeat(20))],
    ['malformed', 'an option of neighbour discovery of no length', ip6(LL('01'), NODES, '3a', solicit(LL('02'), `0100${ME}`))],
    [
      'malformed',
      'a second option of neighbour discovery of no length',
      ip6(LL('01'), NODES, '3a', solicit(LL('02'), `${linkAddress(1, ME)}0e00000000000000`)),
    ],
    [
      'malformed',
      'an option of neighbour discovery that ends behind it',
      ip6(LL('01'), NODES, '3a', solicit(LL('02'), `${linkAddress(1, ME)}0e02000000000000`)),
    ],
    ['malformed', 'IPv6 that is cut off', ip6(LL('01'), NODES, '06', '00'.repeat(20)).slice(0, -4)],
    ['malformed', 'IPv4 with a header of 16 bytes', ip4(me, gateway, '06', '00'.repeat(20)).replace('0800 4500', '0800 4400')],
    ['malformed', 'IPv4 that is no IPv4', ip4(me, gateway, '06', '00'.repeat(20)).replace('0800 4500', '0800 6500')],
    ['ethertype', 'LLDP', `0180c200000e${ME} 88cc${'00'.repeat(50)}`],
    ['ethertype', 'IPv4 to a group of the link', `0180c200000e${ip4(me, gateway, '06', '00'.repeat(20)).slice(12)}`],
    ['ethertype', 'a VLAN tag', `${GATEWAY_MAC}${ME} 81000064 0800${'00'.repeat(50)}`],
    ['ethertype', 'an 802.3 length (spanning tree)', `0180c2000000${ME} 0026${'42'.repeat(38)}`],
    ['ethertype', 'reverse ARP', `${ALL}${ME} 8035${'00'.repeat(28)}`],
  ];
  test.each(spoofs)('%s: %s', (reason, _what, frame) => expect(check(frame)).toBe(reason));

  const honest: [what: string, frame: string][] = [
    ['asking by DHCP without an address', ip4('00000000', 'ffffffff', '11', '0044004300080000')],
    ['its own address', ip4(me, gateway, '06', '00'.repeat(20))],
    ['a probe', arp(1, ME, '00000000', other)],
    ['asking whether another’s IPv6 address is free', ip6(ANY6, NODES, '3a', solicit(LL('02'), ''))],
    ['an address of its own in IPv6', ip6(LL('01'), NODES, '3a', solicit(LL('02'), linkAddress(1, ME)))],
    ['an advertisement of an address made of its own MAC', ip6(EUI(ME), NODES, '3a', advert(EUI(ME), linkAddress(2, ME)))],
    ['a report of groups before it has an address', ip6(ANY6, NODES, '00', `3a00050200000000 8f00000000000001${'00'.repeat(20)}`)],
    ['a large echo in IPv6, its first fragment', ip6(LL('01'), LL('02'), '2c', `3a00000100000001 8000000000000000`)],
    ['a large echo in IPv6, a later fragment', ip6(LL('01'), LL('02'), '2c', `3a00000800000001 ${'00'.repeat(8)}`)],
    ['an option of IPv4 that is no source route', ip4(me, gateway, '06', `94040000${'00'.repeat(20)}`).replace('0800 4500', '0800 4600')],
    ['an echo in IPv6', ip6(LL('01'), LL('02'), '3a', '8000000000000000')],
    ['a later fragment of UDP in IPv6', ip6(LL('01'), LL('02'), '2c', `1100000800000001 ${'02230222'.repeat(2)}`)],
  ];
  test.each(honest)('passes: %s', (_what, frame) => expect(check(frame)).toBeNull());

  test('any frame: never throws, returns only named reasons, and never passes a foreign MAC', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 120 }), fc.constantFrom('0800', '0806', '86dd', ''), (tail, type) => {
        const f = Buffer.concat([Buffer.from(`${GATEWAY_MAC}${ME}${type}`, 'hex'), tail]);
        for (let n = 0; n <= f.length; n++) {
          // what is behind the end must not matter
          const padded = Buffer.concat([f.subarray(0, n), Buffer.alloc(80, 0xa5)]);
          const zeros = Buffer.concat([f.subarray(0, n), Buffer.alloc(80)]);
          const g = (b: Buffer) =>
            new Guard(SUBNET, 0x5a4545004001, () => {}).check(Object.assign(new GuardedCard('x', 0x564545000001), { leaseIp: 0xc0a84002 }), b, 0, n, 5);
          expect(g(padded)).toBe(g(zeros));
        }
        f[6] ^= 1;
        expect(check(f.toString('hex'))).toBe(f.length < 14 ? 'malformed' : 'mac_spoof');
      }),
      { numRuns: 300 },
    );
  });

  const macOf = (c: GuardedCard): string => (c === card ? ME : OTHER);
  /** Time passes, and the guests answer ARP for these addresses only. */
  const wait = (ms: number, answers: readonly number[]): string[] => {
    const moved: string[] = [];
    for (const end = now + ms; now < end; now += 100)
      for (const a of guard.table.poll(now)) {
        if (a.kind === 'moved') moved.push(a.card.id);
        else if (answers.includes(a.ip)) check(arp(2, macOf(a.card), a.ip.toString(16), gateway, macOf(a.card)), a.card);
      }
    return moved;
  };

  test('B50: an address without owner may be claimed by ARP, and is the NIC’s own beside its lease', () => {
    expect(check(arp(1, ME, free, gateway))).toBeNull();
    expect(check(ip4(free, gateway, '06', '00'.repeat(20)))).toBeNull();
    expect(check(ip4(me, gateway, '06', '00'.repeat(20))), 'the lease is still its own').toBeNull();
    expect(check(arp(1, OTHER, me, gateway, OTHER), neighbour), 'nobody takes the lease').toBe('arp_spoof');
    expect(check(arp(1, OTHER, free, gateway, OTHER), neighbour), 'it is owned now').toBe('arp_spoof');
    wait(3000, [0xc0a84002, 0xc0a8404d]);
    expect(card.ip, 'the lease is the main address').toBe(0xc0a84002);
    expect(card.list().map((x) => [x.ip, x.source])).toEqual([
      [0xc0a84002, 'lease'],
      [0xc0a8404d, 'virtual'],
    ]);
    expect(guard.table.ownerOf(0xc0a8404d)).toBe(card);
  });

  test('B50: a guest that gives up its lease for an address of its own has that one; by DHCP it returns to the lease', () => {
    check(arp(1, ME, free, gateway));
    wait(3000, [0xc0a8404d]);
    expect(card.ip).toBe(0xc0a8404d);
    expect(check(ip4(me, gateway, '06', '00'.repeat(20))), 'the lease is its own still').toBeNull();
    now += 3_600_000;
    wait(3000, []);
    expect(check(ip4(free, gateway, '06', '00'.repeat(20))), 'its main address does not expire').toBeNull();
    guard.table.onDhcp(card, now);
    expect(card.ip).toBe(0xc0a84002);
    wait(3000, [0xc0a84002]);
    expect(check(ip4(free, gateway, '06', '00'.repeat(20)))).toBe('ip_spoof');
    expect(check(arp(1, OTHER, free, gateway, OTHER), neighbour), 'it is free again').toBeNull();
  });

  test('B50: a lease used again after a static address counts again; an unplugged NIC claims nothing', () => {
    check(arp(1, ME, free, gateway));
    wait(3000, []);
    expect(check(arp(1, ME, me, gateway))).toBeNull();
    expect(card.ip).toBe(0xc0a84002);
    check(arp(1, ME, 'c0a8404e', gateway));
    guard.forget(card);
    expect(card.ip).toBe(0xc0a84002);
    expect(guard.table.ownerOf(0xc0a8404e)).toBeUndefined();
  });

  test('B50: an announcement is no answer: the lease stays the main address of a guest that vanished', () => {
    for (const op of [1, 2]) check(arp(op, ME, free, free));
    wait(3000, []);
    expect(card.ip).toBe(0xc0a84002);
    expect(card.isVirtual(0xc0a8404d)).toBe(true);
  });

  test('B90: use of a free address without a claim triggers an ARP request', () => {
    const asked: number[] = [];
    const g = new Guard(
      SUBNET,
      0x5a4545004001,
      () => {},
      (_card, ip) => asked.push(ip),
    );
    g.setCards([card, neighbour], [], now);
    for (const ip of [free, other, gateway, 'cb007109']) {
      const f = bytes(ip4(ip, gateway, '06', '00'.repeat(20)));
      expect(g.check(card, f, 0, f.length, now)).toBe('ip_spoof');
    }
    expect(asked).toEqual([0xc0a8404d]);
  });

  test('a reservation belongs to its NIC only', () => {
    card.reservedIp = 0xc0a8404d;
    guard.setCards([card, neighbour], [], now);
    expect(check(ip4(free, gateway, '06', '00'.repeat(20)))).toBeNull();
    expect(check(arp(1, OTHER, free, gateway, OTHER), neighbour)).toBe('arp_spoof');
  });

  test('a lost lease is rejected, on the fast path too', () => {
    expect(check(ip4(me, gateway, '06', '00'.repeat(20)))).toBeNull();
    expect(check(ip4(me, gateway, '06', '00'.repeat(20)))).toBeNull();
    card.leaseIp = -1;
    guard.setCards([card, neighbour], [], now);
    expect(check(ip4(me, gateway, '06', '00'.repeat(20)))).toBe('ip_spoof');
  });

  test('claims are bounded', () => {
    for (let i = 0; i < 100; i++) check(arp(1, ME, `c0a840${(100 + i).toString(16).padStart(2, '0')}`, gateway));
    expect(card.claims.size).toBe(16);
    expect(check(arp(1, ME, 'c0a840a0', gateway)), 'new ones are for later').toBe('address_limit');
    now += 1000;
    expect(check(arp(1, ME, 'c0a840a0', gateway))).toBeNull();
    expect(card.claims.size).toBe(16);
    const take = (i: number) => check(ip6(LL('01'), NODES, '3a', advert(LL((100 + i).toString(16)), linkAddress(2, ME))));
    const verdicts = Array.from({ length: 100 }, (_, i) => take(i));
    expect(card.ipv6.size).toBe(32);
    expect(verdicts.filter((v) => v === 'address_limit')).toHaveLength(69);
    expect(check(`333300000001${OTHER} 86dd 6000000000203aff${LL('02')}${NODES}${advert(LL('03'), linkAddress(2, OTHER))}`, neighbour)).toBeNull();
    now += 3_600_001;
    expect(take(99), 'what is silent gives way').toBeNull();
  });

  test('B91: an IPv6 address is its owner’s until an hour after the last use, or until the NIC is unplugged', () => {
    const as = (n: string, mac: string) => `333300000001${mac} 86dd 6000000000203aff${LL(n)}${NODES}${advert(LL(n), linkAddress(2, mac))}`;
    expect(check(as('77', ME))).toBeNull();
    for (let i = 0; i < 5; i++) {
      now += 1_800_000;
      expect(check(as('77', ME)), 'used').toBeNull();
      expect(check(as('77', OTHER), neighbour)).toBe('nd_spoof');
      expect(check(`333300000001${OTHER} 86dd 6000000000183aff${ANY6}${NODES}${solicit(LL('77'), '')}`, neighbour), 'to ask is no offence').toBeNull();
    }
    now += 3_600_001;
    expect(check(as('77', OTHER), neighbour), 'silent').toBeNull();
    expect(check(as('77', ME))).toBe('nd_spoof');
    guard.forget(neighbour);
    expect(check(as('77', ME))).toBeNull();
  });
});
