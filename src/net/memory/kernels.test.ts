import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { DESCRIPTOR_WORDS, Descriptor, loadKernels, SEGMENT_HEADERS } from './kernels.ts';
import { PacketMemory } from './packet-memory.ts';

const memory = new PacketMemory(8 << 20);
const kernels = loadKernels(memory);
const AREA = 1 << 20;
const source = memory.alloc(AREA);
const target = memory.alloc(AREA);
const descriptors = memory.alloc(64 * 1024) + 64;
const template = memory.alloc(64);

/** RFC 1071 literally, on big-endian words. */
function slowSum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i] << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}
const swap = (v: number): number => ((v & 255) << 8) | (v >> 8);
const same = (a: number, b: number): boolean => a % 0xffff === b % 0xffff;

/** 10.0.0.2:1000 → 192.0.2.1:80, ack 7, window 500. */
function writeTemplate(flags: number): void {
  const header = Buffer.from(
    '00000000' + '5256000000015256000000020800' + '4500000000004000400600000a000002c0000201' + '03e8005000000000000000075010' + '01f400000000',
    'hex',
  );
  header[51] = flags;
  memory.u8.set(header, template);
}

const word = (i: number, field: number): number => memory.i32[(descriptors >> 2) + i * DESCRIPTOR_WORDS + field];

describe('kernels', () => {
  test('the committed WebAssembly matches its source', () => {
    execFileSync(process.execPath, [fileURLToPath(new URL('../../../scripts/kernels.mjs', import.meta.url)), '--check'], { stdio: 'pipe' });
  });

  test('sums match RFC 1071, at every length and alignment', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), fc.nat(15), (bytes, shift) => {
        memory.u8.set(bytes, source + shift);
        expect(same(swap(kernels.checksum(source + shift, bytes.length)), slowSum(bytes))).toBe(true);
        expect(same(swap(kernels.copyChecksum(target, source + shift, bytes.length)), slowSum(bytes))).toBe(true);
        expect(memory.u8.slice(target, target + bytes.length)).toEqual(memory.u8.slice(source + shift, source + shift + bytes.length));
      }),
    );
    memory.u8.fill(0xff, source, source + 65536);
    expect(kernels.checksum(source, 65536)).toBe(0xffff);
  });

  test('segments of every size merge to the original bytes', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 60_000 }), fc.integer({ min: 536, max: 65480 }), fc.integer(), (length, mss, seq) => {
        for (let i = 0; i < length; i++) memory.u8[source + i] = (i * 7 + (i >> 8)) & 255;
        writeTemplate(0x10);
        const written = kernels.segment(target, source, length, mss, template, seq, 65530);
        expect(written).toBe(length + Math.ceil(length / mss) * SEGMENT_HEADERS);
        expect(kernels.coalesce(target, target + written, descriptors, 100)).toBe(1);
        expect(word(-1, DESCRIPTOR_WORDS - 1)).toBe(target + written);
        expect([word(0, Descriptor.problem), word(0, Descriptor.length), word(0, Descriptor.seq), word(0, Descriptor.ack)]).toEqual([0, length, seq | 0, 7]);
        expect(word(0, Descriptor.windowFlags)).toBe(500 | (0x18 << 16));
        expect([word(0, Descriptor.source), word(0, Descriptor.destination) >>> 0, word(0, Descriptor.ports)]).toEqual([
          0x0a000002,
          0xc0000201,
          (1000 << 16) | 80,
        ]);
        expect(word(0, Descriptor.segments)).toBe(Math.ceil(length / mss));
        const at = word(0, Descriptor.payload);
        expect(Buffer.compare(memory.u8.subarray(at, at + length), memory.u8.subarray(source, source + length))).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('a flipped bit anywhere in IP or TCP is detected', () => {
    writeTemplate(0x10);
    for (let bit = 0; bit < (1040 - 14) * 8; bit += 41) {
      const written = kernels.segment(target, source, 1000, 1460, template, 1, 1);
      const at = target + 18 + (bit >> 3);
      memory.u8[at] = memory.u8[at] ^ (1 << (bit & 7));
      expect(kernels.coalesce(target, target + written, descriptors, 10)).toBe(1);
      expect(word(0, Descriptor.problem), `bit ${bit}`).not.toBe(0);
    }
  });

  test('any bytes: no access beyond the bounds', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 120 }), { maxLength: 20 }), (frames) => {
        let at = source;
        for (const f of frames) {
          memory.view.setUint32(at, f.length);
          memory.u8.set(f, at + 4);
          at += 4 + f.length;
        }
        memory.u8.fill(0xa5, at, at + 64);
        const count = kernels.coalesce(source, at, descriptors, 1000);
        expect(count).toBe(frames.length);
        expect(word(-1, DESCRIPTOR_WORDS - 1)).toBe(at);
        expect(memory.u8.slice(at, at + 64)).toEqual(new Uint8Array(64).fill(0xa5));
      }),
    );
  });
});
