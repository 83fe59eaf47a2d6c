import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ETH, ETH_HEADER, EtherType, readMac, writeMac } from './ethernet.ts';
import { DONT_FRAGMENT, IPV4, IPV4_HEADER, IpProtocol } from './ipv4.ts';
import { seqAdd, seqDiff } from './sequence.ts';
import { DEFAULT_MSS, parseSynOptions, TCP, TCP_HEADER, TcpFlag, writeSynOptions } from './tcp.ts';

/** A SYN of Linux 6.1: 192.168.64.2:41932 → 192.168.64.1:5201, as tcpdump -xx printed it. */
const SYN = Buffer.from(
  '020000006401' +
    '525400770000' +
    '0800' +
    '4500003c1c464000' +
    '40061d22c0a84002c0a84001' +
    'a3cc14513a8f3b1c00000000a002faf0' +
    '81820000' +
    '020405b40402080a9bd2e3f2000000000103030a',
  'hex',
);

describe('sequence numbers', () => {
  test('RFC 1982: order survives the wrap', () => {
    fc.assert(fc.property(fc.integer(), fc.integer({ min: 0, max: 0x7fffffff }), (a, n) => seqDiff(seqAdd(a, n), a) === n));
    expect(seqDiff(5, 0xfffffffe)).toBe(7);
    expect(seqDiff(0xfffffffe, 5)).toBe(-7);
  });
});

describe('a SYN', () => {
  test('fields by offset', () => {
    const ip = ETH_HEADER;
    const tcp = ip + IPV4_HEADER;
    expect(SYN.readUInt16BE(ETH.type)).toBe(EtherType.ipv4);
    expect([readMac(SYN, ETH.destination), readMac(SYN, ETH.source)]).toEqual([0x020000006401, 0x525400770000]);
    expect(SYN.readUInt16BE(ip + IPV4.fragment)).toBe(DONT_FRAGMENT);
    expect([SYN[ip + IPV4.protocol], SYN.readUInt32BE(ip + IPV4.source)]).toEqual([IpProtocol.tcp, 0xc0a84002]);
    expect([SYN.readUInt16BE(tcp + TCP.source), SYN.readUInt16BE(tcp + TCP.destination), SYN[tcp + TCP.flags]]).toEqual([41932, 5201, TcpFlag.syn]);
    expect(parseSynOptions(SYN, tcp + TCP_HEADER, SYN.length)).toEqual({ mss: 1460, windowScale: 10, sack: true });
  });

  test('options: written options are parsed back, and garbage terminates', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 65535 }), fc.integer({ min: -1, max: 14 }), fc.boolean(), (mss, windowScale, sack) => {
        const u8 = new Uint8Array(16).fill(0xa5);
        const length = writeSynOptions(u8, 2, { mss, windowScale, sack });
        expect(parseSynOptions(u8, 2, 2 + length)).toEqual({ mss, windowScale, sack });
        expect(u8[2 + length]).toBe(0xa5);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        const found = parseSynOptions(bytes, 0, bytes.length);
        expect(found.windowScale).toBeLessThanOrEqual(14);
        expect(found.mss || DEFAULT_MSS).toBeGreaterThan(0);
      }),
    );
    for (let cut = 0; cut < 20; cut++) parseSynOptions(SYN, 54, 54 + cut);
    expect(parseSynOptions(Uint8Array.of(2, 0, 3, 0), 0, 4)).toEqual({ mss: 0, windowScale: -1, sack: false });
  });
});

test('a MAC address is a number', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 2 ** 48 - 1 }), (mac) => {
      const u8 = new Uint8Array(8);
      writeMac(u8, 1, mac);
      expect(readMac(u8, 1)).toBe(mac);
    }),
  );
});
