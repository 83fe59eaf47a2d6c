import { expect, test } from 'vitest';
import { parseAddress } from './address-messages.ts';
import { parseBridgeEntry } from './bridge-entries.ts';
import { parseCounters, parseLink } from './link-messages.ts';
import { parseNeighbourState } from './neighbours.ts';
import { attribute, parseDatagram, u32 } from './netlink.ts';
import { parseDefaultRoute, parseRoute } from './route-messages.ts';
import { parseSocket } from './sockets.ts';
import { filterMessage, parseFilter, parseQdisc } from './tc-messages.ts';

const NESTED = 0x8000;
const bytes = (...parts: (Buffer | number)[]): Buffer => Buffer.concat(parts.map((p) => (typeof p === 'number' ? Buffer.of(p) : p)));
const text = (type: number, value: string): Buffer => attribute(type, Buffer.from(`${value}\0`));
const nested = (type: number, ...parts: Buffer[]): Buffer => attribute(type | NESTED, Buffer.concat(parts));
const u16 = (value: number): Buffer => Buffer.of(value & 255, value >> 8);
const u64 = (...values: number[]): Buffer => Buffer.concat(values.map((v) => bytes(u32(v % 2 ** 32), u32(Math.floor(v / 2 ** 32)))));
const ip = (...octets: number[]): Buffer => Buffer.of(...octets);
const MAC = Buffer.from('5a4545000001', 'hex');

const ifinfo = (index: number, flags: number): Buffer => bytes(0, 0, u16(1), u32(index), u32(flags), u32(0));
const linkInfo = (kind: string, ...data: Buffer[]): Buffer => nested(18, text(1, kind), nested(2, ...data));
const portInfo = nested(5, attribute(1, Buffer.of(2)), attribute(21, u64(150)));
const BRIDGE = bytes(
  ifinfo(7, 0x1103),
  text(3, 'br0'),
  attribute(4, u32(1500)),
  attribute(27, u32(24_942)),
  text(20, 'anka:v1:network=shared'),
  attribute(1, MAC),
  linkInfo('bridge', attribute(1, u32(400)), attribute(5, u32(1)), attribute(36, Buffer.of(1))),
);
const TUN_DATA = nested(2, attribute(7, Buffer.of(1)));
const PORT = bytes(
  ifinfo(8, 0x1002),
  text(3, 'tap0'),
  attribute(10, u32(7)),
  attribute(33, Buffer.of(1)),
  nested(18, text(1, 'tun'), TUN_DATA, text(4, 'bridge'), portInfo),
);
const TAP = bytes(ifinfo(8, 0x1002), text(3, 'tap0'), attribute(33, Buffer.of(0)), linkInfo('tun', attribute(7, Buffer.of(0))));
const CARD = bytes(ifinfo(2, 0x1043), text(3, 'en0'), attribute(5, u32(9)), attribute(37, u32(0)), linkInfo('veth'));
const MACVLAN = bytes(ifinfo(9, 0), text(3, 'mac0'), attribute(5, u32(2)), linkInfo('macvlan', attribute(1, u32(4))));
const STATS = u64(1, 2, 3 * 2 ** 32, 4, 5, 6);
const COUNTED = bytes(ifinfo(8, 0), text(3, 'tap0'), attribute(23, STATS));
const ADDRESS = bytes(2, 24, 0x80, 0, u32(7), attribute(1, ip(10, 0, 0, 9)), attribute(2, ip(192, 168, 64, 1)), text(3, 'br0'));
const rtmsg = (prefix: number, table: number, type: number, flags: number): Buffer => bytes(2, prefix, 0, 0, table, 4, 0, type, u32(flags));
const ROUTE = bytes(rtmsg(8, 252, 1, 0), attribute(15, u32(1000)), attribute(1, ip(10, 0, 0, 0)), attribute(4, u32(2)));
const hop = (index: number): Buffer => bytes(u16(16), 0, 0, u32(index), attribute(5, ip(10, 9, 0, 1)));
const MULTIPATH = bytes(rtmsg(0, 254, 1, 0), attribute(9, bytes(hop(2), hop(7))));
const tcmsg = (parent: number, info: number): Buffer => bytes(u32(0), u32(8), u32(1), u32(parent), u32(info));
const QDISC = bytes(tcmsg(0xfffffff1, 1), text(1, 'clsact'));
const programOf = nested(2, text(7, 'x.o:[tc/in]'), attribute(8, u32(1)), attribute(10, Buffer.from('00112233445566ff', 'hex')), attribute(11, u32(42)));
const FILTER = bytes(tcmsg(0xfffffff2, 0x00610003), text(1, 'bpf'), attribute(11, u32(97)), programOf);
const ndmsg = (family: number, state: number, flags: number): Buffer => bytes(family, 0, 0, 0, u32(8), u16(state), flags, 0);
const ENTRY = bytes(ndmsg(7, 0x80, 0), attribute(2, MAC), attribute(9, u32(7)));
const NEIGHBOUR = bytes(ndmsg(2, 0x10, 0), attribute(1, ip(10, 9, 0, 1)), attribute(2, MAC));

const DEFAULT_ROUTE = bytes(rtmsg(0, 254, 1, 0x10), attribute(5, ip(10, 9, 0, 1)), attribute(4, u32(2)), attribute(6, u32(100)));
const inetId = (...address: Buffer[]): Buffer => bytes(0, 22, 4, 0, Buffer.alloc(16), ...address, Buffer.alloc(12 + 20));
const SOCKET = bytes(2, 1, 0, 0, inetId(ip(10, 9, 0, 1), Buffer.alloc(12)));
const mapped = (first: number): Buffer => bytes(10, 1, 0, 0, inetId(bytes(first, Buffer.alloc(9), 255, 255), ip(10, 9, 0, 1)));

const LINK = {
  address: '',
  mtu: 0,
  group: 0,
  alias: '',
  master: 0,
  below: 0,
  belowElsewhere: false,
  kind: '',
  macvlanMode: 0,
  bridge: null,
  tun: null,
  port: null,
};
const gateway = 0x0a090001;
const messages: [string, (body: Buffer) => unknown, Buffer, unknown][] = [
  [
    'a bridge',
    parseLink,
    BRIDGE,
    {
      ...LINK,
      ...{ index: 7, flags: 0x1103, name: 'br0', address: '5a:45:45:00:00:01', mtu: 1500, group: 24_942, alias: 'anka:v1:network=shared' },
      ...{ kind: 'bridge', bridge: { stpState: 1, forwardDelayMs: 4000, callsIptables: true } },
    },
  ],
  [
    'a port, with an open queue',
    parseLink,
    PORT,
    {
      ...{ ...LINK, index: 8, flags: 0x1002, name: 'tap0', kind: 'tun', master: 7 },
      ...{ tun: { multiQueue: true, isOpen: true }, port: { state: 2, timerMs: 1500 } },
    },
  ],
  ['a tap', parseLink, TAP, { ...LINK, index: 8, flags: 0x1002, name: 'tap0', kind: 'tun', tun: { multiQueue: false, isOpen: false } }],
  ["a container's card", parseLink, CARD, { ...LINK, index: 2, flags: 0x1043, name: 'en0', below: 9, belowElsewhere: true, kind: 'veth' }],
  ['a macvlan', parseLink, MACVLAN, { ...LINK, index: 9, flags: 0, name: 'mac0', below: 2, kind: 'macvlan', macvlanMode: 4 }],
  ['counters', parseCounters, COUNTED, { name: 'tap0', rxPackets: 1, txPackets: 2, rxBytes: 3 * 2 ** 32, txBytes: 4 }],
  ['an address', parseAddress, ADDRESS, { index: 7, address: 0xc0a84001, prefix: 24 }],
  ['a route', parseRoute, ROUTE, { base: 0x0a000000, prefix: 8, table: 1000, type: 1, interfaces: [2] }],
  ['a multipath route', parseRoute, MULTIPATH, { base: 0, prefix: 0, table: 254, type: 1, interfaces: [2, 7] }],
  ['a cached route', parseRoute, bytes(rtmsg(32, 254, 1, 0x200), attribute(4, u32(2))), null],
  [
    'a default route, without its state',
    parseDefaultRoute,
    DEFAULT_ROUTE,
    { message: bytes(rtmsg(0, 254, 1, 0), DEFAULT_ROUTE.subarray(12)), gateway, interfaces: [2], metric: 100 },
  ],
  ['no default route', parseDefaultRoute, ROUTE, null],
  ['a socket', (body) => parseSocket(body, 'tcp'), SOCKET, { protocol: 'tcp', localPort: 22, remotePort: 1024, remote: gateway }],
  ['an IPv4 peer of IPv6', (body) => parseSocket(body, 'udp'), mapped(0), { protocol: 'udp', localPort: 22, remotePort: 1024, remote: gateway }],
  ['an IPv6 peer', (body) => parseSocket(body, 'udp'), mapped(0x20), null],
  ['a queueing discipline', parseQdisc, QDISC, { index: 8, kind: 'clsact' }],
  [
    'a filter',
    parseFilter,
    FILTER,
    { kind: 'bpf', preference: 97, chain: 97, bpf: { name: 'x.o:[tc/in]', directAction: true, tag: '00112233445566ff', id: 42 } },
  ],
  ['a preference of filters', parseFilter, bytes(tcmsg(0xfffffff2, 0x00010003), text(1, 'bpf')), { kind: 'bpf', preference: 1, chain: 0, bpf: null }],
  ['a forwarding entry', parseBridgeEntry, ENTRY, { index: 8, mac: 0x5a4545000001, permanent: true, flags: 0, ofMaster: true }],
  ['a neighbour', (body) => parseNeighbourState(body, gateway, 8), NEIGHBOUR, 0x10],
  ['another neighbour', (body) => parseNeighbourState(body, gateway + 1, 8), NEIGHBOUR, null],
];

test.each(messages)('%s', (_, parse, body, expected) => {
  expect(parse(body)).toEqual(expected);
});

test('a filter is asked for as the kernel describes it', () => {
  const asked = filterMessage({ index: 8, hook: 'egress', chain: 97, preference: 2, name: 'x.o:[tc/in]', program: 5 });
  expect(asked.subarray(0, 20)).toEqual(bytes(u32(0), u32(8), u32(1), u32(0xfffffff3), u32(0x00020300)));
  expect(parseFilter(asked)).toEqual({ kind: 'bpf', preference: 2, chain: 97, bpf: { name: 'x.o:[tc/in]', directAction: true, tag: '', id: 0 } });
});

/** A datagram that contains a message. */
function datagram(type: number, flags: number, body: Buffer): Buffer {
  return bytes(u32(16 + body.length), u16(type), u16(flags), u32(0), u32(0), body, Buffer.alloc(-body.length & 3));
}

test('no message that is cut short or damaged throws', () => {
  let seed = 1;
  const random = (below: number): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 8) % below;
  };
  for (const [, parse, body] of messages) {
    const whole = datagram(16, 2, body);
    for (let length = 0; length < whole.length; length++) {
      parseDatagram(Buffer.from(whole.subarray(0, length)));
      if (length <= body.length) parse(Buffer.from(body.subarray(0, length)));
    }
    for (let i = 0; i < 500; i++) {
      const damaged = Buffer.from(whole);
      for (let n = 1 + random(3); n > 0; n--) damaged[random(damaged.length)] = random(256);
      for (const b of parseDatagram(damaged).bodies) parse(b);
      parse(damaged.subarray(16));
    }
  }
});

test('a datagram gives its messages, whether more follow, and the error', () => {
  const two = bytes(datagram(16, 2, Buffer.of(1, 2, 3)), datagram(16, 2, Buffer.of(4)));
  expect(parseDatagram(two)).toEqual({ bodies: [Buffer.of(1, 2, 3), Buffer.of(4)], end: -1, interrupted: false });
  expect(parseDatagram(datagram(16, 0x12, Buffer.of(5)))).toEqual({ bodies: [Buffer.of(5)], end: -1, interrupted: true });
  const end = (type: number, errno: number) => parseDatagram(datagram(type, 2, u32(-errno >>> 0))).end;
  expect([end(3, 0), end(3, 4), end(2, 17), end(2, 0)]).toEqual([0, 4, 17, 0]);
});
