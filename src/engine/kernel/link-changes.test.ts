import { beforeEach, describe, expect, test } from 'vitest';
import type { LinkMessage } from '../../host/netlink/link-messages.ts';
import { attribute, parseMessages, request, u32 } from '../../host/netlink/netlink.ts';
import { LinkChanges } from './link-changes.ts';

const UP = 0x1;
const RUNNING = 0x40;
const AF_BRIDGE = 7;
const NEW_LINK = 16;
const DEL_LINK = 17;
const text = (type: number, value: string): Buffer => attribute(type, Buffer.from(`${value}\0`));

function linkBody(index: number, name: string, { flags = UP, mtu = 1500, family = 0, more = [] as Buffer[] } = {}): Buffer {
  const head = Buffer.alloc(16);
  head[0] = family;
  head.writeInt32LE(index, 4);
  head.writeUInt32LE(flags, 8);
  return Buffer.concat([head, text(3, name), attribute(4, u32(mtu)), ...more]);
}

function addressBody(index: number): Buffer {
  const head = Buffer.alloc(8);
  head[0] = 2;
  head[1] = 24;
  head.writeUInt32LE(index, 4);
  return Buffer.concat([head, attribute(2, Buffer.of(10, 0, 0, 1))]);
}

function routeBody(index: number, prefix: number, type = 1): Buffer {
  const head = Buffer.alloc(12);
  head[0] = 2;
  head[1] = prefix;
  head[4] = 254;
  head[7] = type;
  return Buffer.concat([head, attribute(1, Buffer.of(10, 0, 0, 0)), attribute(4, u32(index))]);
}

function filterBody(index: number): Buffer {
  const head = Buffer.alloc(20);
  head.writeInt32LE(index, 4);
  return head;
}

const plain = { flags: UP, address: '', mtu: 1500, group: 0, alias: '', master: 0, below: 0, belowElsewhere: false, kind: '', macvlanMode: 0 };
const known = (index: number, name: string): LinkMessage => ({ ...plain, index, name, bridge: null, port: null, tun: null });
const TAP = 5;
const UPLINK = 2;
const FOREIGN = 9;
const LAN = 3;
let changes: LinkChanges;
const concerns = (type: number, body: Buffer): boolean => changes.concerns({ type, body });

beforeEach(() => {
  changes = new LinkChanges();
  changes.watch(['en0']);
  const routes = [{ base: 0, prefix: 0, table: 254, type: 1, interfaces: [LAN] }];
  changes.reset([known(TAP, 'anka00000001'), known(UPLINK, 'en0'), known(FOREIGN, 'veth1'), known(LAN, 'lan0')], routes);
});

describe('interfaces', () => {
  test.each([
    [TAP, 'anka00000001'],
    [UPLINK, 'en0'],
  ])('one of ours, or in use (%i, %s): a change of what is compared counts once', (index, name) => {
    expect(concerns(NEW_LINK, linkBody(index, name))).toBe(false);
    expect(concerns(NEW_LINK, linkBody(index, name, { flags: UP | RUNNING }))).toBe(false);
    expect(concerns(NEW_LINK, linkBody(index, name, { mtu: 1400 }))).toBe(true);
    expect(concerns(NEW_LINK, linkBody(index, name, { mtu: 1400 }))).toBe(false);
    expect(concerns(NEW_LINK, linkBody(index, 'renamed'))).toBe(true);
  });

  test('one of ours, or in use, is deleted, and comes again', () => {
    for (const [index, name] of [
      [TAP, 'anka00000001'],
      [UPLINK, 'en0'],
    ] as const) {
      expect(concerns(DEL_LINK, linkBody(index, name))).toBe(true);
      expect(concerns(NEW_LINK, linkBody(index + 100, name))).toBe(true);
    }
  });

  test('of another program: nothing counts, not its addresses or filters either', () => {
    for (let index = 100; index < 200; index++) {
      expect(concerns(NEW_LINK, linkBody(index, `veth${index}`, { flags: 0 }))).toBe(false);
      expect(concerns(NEW_LINK, linkBody(index, `veth${index}`))).toBe(false);
      expect(concerns(20, addressBody(index))).toBe(false);
      expect(concerns(36, filterBody(index))).toBe(false);
      expect(concerns(24, routeBody(index, 32))).toBe(false);
      expect(concerns(24, routeBody(index, 24, 2))).toBe(false); // to itself: RTN_LOCAL
      expect(concerns(DEL_LINK, linkBody(index, `veth${index}`))).toBe(false);
    }
  });

  test('a foreign one is renamed to the name of one in use', () => {
    expect(concerns(NEW_LINK, linkBody(FOREIGN, 'en0'))).toBe(true);
  });

  test('the state of a bridge’s port counts when it changes; its removal from the bridge is reported by others', () => {
    const port = (state: number): Buffer =>
      linkBody(TAP, 'anka00000001', { family: AF_BRIDGE, more: [attribute(0x8000 | 12, attribute(1, Buffer.of(state)))] });
    expect([concerns(NEW_LINK, port(1)), concerns(NEW_LINK, port(1)), concerns(NEW_LINK, port(3))]).toEqual([true, false, true]);
    expect(concerns(DEL_LINK, linkBody(TAP, 'anka00000001', { family: AF_BRIDGE }))).toBe(true);
    expect(concerns(20, addressBody(TAP))).toBe(true); // it is still known
  });
});

test('addresses, routes and filters of interfaces of ours, or in use, count', () => {
  for (const index of [TAP, UPLINK]) {
    for (const type of [20, 21]) expect(concerns(type, addressBody(index))).toBe(true);
    for (const type of [24, 25]) expect(concerns(type, routeBody(index, 24))).toBe(true);
    for (const type of [36, 37, 44, 45]) expect(concerns(type, filterBody(index))).toBe(true);
  }
});

test('of other interfaces, the first route counts, and every default route', () => {
  expect(concerns(24, routeBody(LAN, 24))).toBe(false);
  expect(concerns(24, routeBody(FOREIGN, 24))).toBe(true);
  expect(concerns(24, routeBody(FOREIGN, 24))).toBe(false);
  expect(concerns(24, routeBody(FOREIGN, 0))).toBe(true);
  expect(concerns(25, routeBody(FOREIGN, 24))).toBe(false);
});

test('no message that is cut short or damaged throws', () => {
  const bodies: [number, Buffer][] = [
    [NEW_LINK, linkBody(TAP, 'anka00000001', { family: AF_BRIDGE, more: [attribute(12, attribute(1, Buffer.of(3)))] })],
    [DEL_LINK, linkBody(TAP, 'anka00000001')],
    [20, addressBody(TAP)],
    [24, routeBody(TAP, 24)],
    [44, filterBody(TAP)],
  ];
  let seed = 1;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 8) % below;
  };
  for (const [type, body] of bodies) {
    const whole = request(type, 0, body);
    for (let length = 0; length < whole.length; length++) for (const m of parseMessages(Buffer.from(whole.subarray(0, length)))) changes.concerns(m);
    for (let length = 0; length < body.length; length++) concerns(type, Buffer.from(body.subarray(0, length)));
    for (let n = 0; n < 500; n++) {
      const damaged = Buffer.from(whole);
      for (let i = 1 + random(3); i > 0; i--) damaged[random(damaged.length)] = random(256);
      for (const m of parseMessages(damaged)) changes.concerns(m);
    }
  }
});
