import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DhcpType, emitDhcpReply, parseDhcpRequest } from './dhcpv4.ts';

/** A DISCOVER as udhcpc sends it. */
function discover(): Uint8Array {
  const b = new Uint8Array(300).fill(0);
  b.set([1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78, 0, 1, 0x80, 0]); // op htype hlen hops, xid, secs, flags: broadcast
  b.set([0x56, 0x45, 0x45, 0, 0, 1], 28); // chaddr
  b.set([0x63, 0x82, 0x53, 0x63], 236); // cookie
  b.set([53, 1, 1, 61, 7, 1, 0x56, 0x45, 0x45, 0, 0, 1, 50, 4, 192, 168, 64, 9, 12, 3, 118, 109, 49, 255], 240);
  return b;
}

describe('DHCP messages', () => {
  test('a literal DISCOVER', () => {
    expect(parseDhcpRequest(discover())).toEqual({
      type: 1,
      xid: 0x12345678,
      flags: 0x8000,
      ciaddr: 0,
      giaddr: 0,
      mac: 0x564545000001,
      requestedIp: 0xc0a84009,
      serverId: 0,
      parameters: null,
      clientId: Uint8Array.of(1, 0x56, 0x45, 0x45, 0, 0, 1),
    });
  });
  test('options may continue in the file and sname fields (overload)', () => {
    const b = discover();
    b.set([52, 1, 3, 255], 240);
    b.set([53, 1, 3, 255], 108);
    b.set([54, 4, 192, 168, 64, 1, 255], 44);
    expect(parseDhcpRequest(b)).toMatchObject({ type: 3, serverId: 0xc0a84001 });
  });
  test.each([
    ['short', discover().subarray(0, 239)],
    ['not-a-request', Uint8Array.from(discover(), (x, i) => (i === 0 ? 2 : x))],
    ['not-ethernet', Uint8Array.from(discover(), (x, i) => (i === 2 ? 16 : x))],
    ['no-cookie', Uint8Array.from(discover(), (x, i) => (i === 236 ? 0 : x))],
    ['no-type', Uint8Array.from(discover(), (x, i) => (i === 240 ? 0 : i < 243 && i > 240 ? 0 : x))],
  ] as const)('%s', (why, bytes) => expect(parseDhcpRequest(bytes)).toBe(why));
  test('every truncation returns a reason or a message, and never throws', () => {
    const b = discover();
    for (let n = 0; n <= b.length; n++) expect(parseDhcpRequest(b.subarray(0, n))).toBeDefined();
  });
  test('any bytes behind the cookie never throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (tail) => {
        const b = new Uint8Array(240 + tail.length);
        b.set(discover().subarray(0, 240));
        b.set(tail, 240);
        const r = parseDhcpRequest(b);
        return typeof r === 'string' || r.type > 0;
      }),
    );
  });
  test('a reply has at least 300 bytes, the cookie, and each option once', () => {
    const b = emitDhcpReply({
      type: DhcpType.ack,
      xid: 7,
      flags: 0,
      ciaddr: 0,
      yiaddr: 0xc0a84002,
      giaddr: 0,
      mac: 0x564545000001,
      serverId: 0xc0a84001,
      leaseSeconds: 3600,
      mask: 0xffffff00,
      router: 0xc0a84001,
      dns: 0xc0a84001,
      mtu: 9000,
      hostname: 'vm1',
      clientId: null,
      parameters: null,
    });
    expect(b.length).toBeGreaterThanOrEqual(300);
    expect([...b.subarray(0, 4)]).toEqual([2, 1, 6, 0]);
    expect([...b.subarray(16, 20)]).toEqual([192, 168, 64, 2]);
    const options = new Map<number, number[]>();
    for (let o = 240; b[o] !== 255; o += 2 + b[o + 1]) {
      expect(options.has(b[o])).toBe(false);
      options.set(b[o], [...b.subarray(o + 2, o + 2 + b[o + 1])]);
    }
    expect(options.get(53)).toEqual([5]);
    expect(options.get(51)).toEqual([0, 0, 14, 16]);
    expect(options.get(1)).toEqual([255, 255, 255, 0]);
    expect(options.get(26)).toEqual([0x23, 0x28]);
    expect(options.get(3)).toEqual([192, 168, 64, 1]);
  });
});
