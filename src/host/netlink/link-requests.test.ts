import { describe, expect, test } from 'vitest';
import { parseAddress } from './address-messages.ts';
import { parseLink } from './link-messages.ts';
import { type LinkMessageChange, type LinkSettings, requestOf } from './link-requests.ts';
import { parseRoute } from './route-messages.ts';

const indexes: Record<string, number> = { en0: 2, br0: 7, tap0: 8 };
const of = (change: LinkMessageChange) => requestOf(change, (name) => indexes[name] as number);
const CREATE = 0x600;
const APPEND = 0xc00;
const IP = 0xc0a84001;
const SUBNET = { base: 0xc0a84000, prefix: 24 };

describe('creation', () => {
  test.each<[LinkMessageChange, object]>([
    [
      { change: 'add bridge', name: 'br1', group: 9, mac: '5a:45:45:00:40:01' },
      { kind: 'bridge', group: 9, address: '5a:45:45:00:40:01', bridge: { stpState: 0, forwardDelayMs: 0, callsIptables: false } },
    ],
    [
      { change: 'add macvlan', name: 'mv0', group: 9, mac: '5a:45:45:00:40:02', below: 'en0', mode: 'bridge' },
      { kind: 'macvlan', below: 2, macvlanMode: 4, address: '5a:45:45:00:40:02' },
    ],
    [
      { change: 'add veth', name: 've0', group: 9, peer: 've1' },
      { kind: 'veth', group: 9 },
    ],
  ])('%o', (change, expected) => {
    const { type, flags, body } = of(change);
    expect([type, flags]).toEqual([16, CREATE]);
    expect(parseLink(body)).toMatchObject({ index: 0, name: change.name, ...expected });
  });

  test('the other end of a veth has its name', () => {
    expect(of({ change: 'add veth', name: 've0', group: 9, peer: 've1' }).body.includes('ve1\0')).toBe(true);
  });
});

describe('settings', () => {
  const header = (set: LinkSettings) => {
    const { type, flags, body } = of({ change: 'set', name: 'tap0', set });
    expect([type, flags, body.readInt32LE(4)]).toEqual([16, 0, 8]);
    return { flags: body.readUInt32LE(8), mask: body.readUInt32LE(12), attributes: body.subarray(16).toString('hex') };
  };

  test.each<[LinkSettings, number, number]>([
    [{ up: true }, 0x1, 0x1],
    [{ up: false }, 0, 0x1],
    [{ arp: false, promiscuous: true, allMulticast: true }, 0x380, 0x380],
    [{ promiscuous: false, allMulticast: false }, 0, 0x300],
  ])('%o are flags of which no other is changed', (set, flags, mask) => {
    expect(header(set)).toEqual({ flags, mask, attributes: '' });
  });

  test.each<[LinkSettings, string]>([
    [{ mtu: 1400 }, '0800040078050000'],
    [{ master: 'br0' }, '08000a0007000000'],
    [{ master: null }, '08000a0000000000'],
    [{ group: 9, alias: 'a1' }, '08001b0009000000060014006131'.padEnd(32, '0')],
    [{ name: 'tap1' }, '0900030074617031'.padEnd(24, '0')],
    [{ mac: '5a:45:45:00:00:01' }, '0a0001005a45450000010000'],
    [{ withoutIpv6Address: true }, '10001a800c000a800500080001000000'],
    [{ forwarding: true }, '1c0012800b00040062726964676500000c0005800500010003000000'],
    [{ mode: 'private' }, '1c0012800c0001006d6163766c616e000c0002800800010001000000'],
  ])('%o', (set, attributes) => {
    expect(header(set)).toEqual({ flags: 0, mask: 0, attributes });
  });
});

test('addresses and routes', () => {
  const address = { name: 'br0', address: IP, prefix: 24 };
  const added = of({ change: 'add address', ...address });
  expect([added.type, added.flags, parseAddress(added.body)]).toEqual([20, CREATE, { index: 7, address: IP, prefix: 24 }]);
  expect(added.body.subarray(-4)).toEqual(Buffer.of(192, 168, 64, 255)); // broadcast
  expect(of({ change: 'delete address', ...address })).toMatchObject({ type: 21, flags: 0 });
  const route = of({ change: 'append route', name: 'br0', subnet: SUBNET });
  expect([route.type, route.flags]).toEqual([24, APPEND]);
  expect(parseRoute(route.body)).toEqual({ ...SUBNET, table: 254, type: 1, interfaces: [7] });
  expect(route.body.subarray(-4)).toEqual(Buffer.of(192, 168, 64, 1)); // the gateway
});

test('an interface is deleted by its index', () => {
  const { type, flags, body } = of({ change: 'delete', name: 'tap0' });
  expect([type, flags, body.readInt32LE(4), body.length]).toEqual([17, 0, 8, 16]);
});
