import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader } from './pcapng.ts';

const hex = (b: Uint8Array): string => Buffer.from(b).toString('hex');

/** An independent reader: the blocks of a capture, each with its options. */
function blocks(bytes: Buffer): { type: number; body: Buffer }[] {
  const found: { type: number; body: Buffer }[] = [];
  for (let at = 0; at < bytes.length; ) {
    const size = bytes.readUInt32LE(at + 4);
    expect(size % 4).toBe(0);
    expect(bytes.readUInt32LE(at + size - 4), 'the length stands behind, too').toBe(size);
    found.push({ type: bytes.readUInt32LE(at), body: bytes.subarray(at + 8, at + size - 4) });
    at += size;
  }
  return found;
}

describe('pcapng', () => {
  test('B93: a section header, byte by byte', () => {
    expect(hex(sectionHeader('anka'))).toBe(
      [
        '0a0d0d0a', // type
        '28000000', // 40 bytes
        '4d3c2b1a', // byte order
        '01000000', // version 1.0
        'ffffffffffffffff', // length of the section: not known
        '04000400616e6b61', // the application
        '00000000', // end of options
        '28000000',
      ].join(''),
    );
  });

  test('B93: an interface with a filter: Ethernet, nanoseconds', () => {
    const b = blocks(Buffer.from(interfaceDescription({ name: 'vm1', description: 'inside', snapLength: 65535, filter: 'icmp' })))[0];
    expect(b?.type).toBe(1);
    expect(b?.body.readUInt16LE(0)).toBe(1);
    expect(b?.body.readUInt32LE(4)).toBe(65535);
    expect(b?.body.subarray(8).toString('hex')).toBe(
      ['02000300766d3100', '03000600696e736964650000', '0900010009000000', '0b0005000069636d70000000', '00000000'].join(''),
    );
  });

  test('B93: a packet: time in two halves, both lengths, padding, direction', () => {
    const data = Uint8Array.of(1, 2, 3, 4, 5);
    const b = blocks(Buffer.from(enhancedPacket({ time: 0x123456789abcdef0n, outbound: true, data, length: 9 })))[0];
    expect(b?.type).toBe(6);
    expect(b?.body.toString('hex')).toBe(
      ['00000000', '78563412', 'f0debc9a', '05000000', '09000000', '0102030405000000', '0200040002000000', '00000000'].join(''),
    );
    const inbound = blocks(Buffer.from(enhancedPacket({ time: 0n, outbound: false, data, length: 5 })))[0];
    expect(inbound?.body.subarray(28, 36).toString('hex')).toBe('0200040001000000');
  });

  test('B93: statistics: received and dropped, 64 bits each', () => {
    const b = blocks(Buffer.from(interfaceStatistics({ start: 1n, end: 2n ** 40n, received: 2 ** 33 + 7, dropped: 3 })))[0];
    expect(b?.type).toBe(5);
    expect(b?.body.readBigUInt64LE(12 + 24 + 4)).toBe(BigInt(2 ** 33 + 7));
    expect(b?.body.readBigUInt64LE(12 + 36 + 4)).toBe(3n);
    expect([b?.body.readUInt32LE(4), b?.body.readUInt32LE(8)]).toEqual([256, 0]);
  });

  test('any frame is one complete block', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 2000 }), fc.bigInt({ min: 0n, max: 2n ** 63n }), fc.boolean(), (data, time, outbound) => {
        const all = blocks(Buffer.concat([sectionHeader('x'), enhancedPacket({ time, outbound, data, length: data.length })]));
        expect(all.map((b) => b.type)).toEqual([0x0a0d0d0a, 6]);
        const body = all[1]?.body as Buffer;
        expect(hex(body.subarray(20, 20 + data.length))).toBe(hex(data));
        expect((BigInt(body.readUInt32LE(4)) << 32n) | BigInt(body.readUInt32LE(8))).toBe(time);
      }),
    );
  });
});
