import fc from 'fast-check';
import { expect, test } from 'vitest';
import { put16, put32 } from '../../wire/bytes.ts';
import { Reassembly } from './ip-reassembly.ts';

/** One fragment of a packet: 20 bytes of header and the payload [at, at + data.length). */
function fragment(data: Uint8Array, at: number, more: boolean, id = 7): Uint8Array {
  const f = new Uint8Array(20 + data.length);
  f[0] = 0x45;
  put16(f, 2, f.length);
  put16(f, 4, id);
  put16(f, 6, (more ? 0x2000 : 0) | (at >> 3));
  f[9] = 17;
  put32(f, 12, 0xc0a84002);
  put32(f, 16, 0xc6336401);
  f.set(data, 20);
  return f;
}
const add = (r: Reassembly, f: Uint8Array, now = 0) => r.add(f, 0, f.length, now);

test('fragments in any order make the packet', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 9, maxLength: 4000 }), fc.integer({ min: 1, max: 60 }), fc.infiniteStream(fc.nat()), (data, eights, order) => {
      const size = Math.max(eights, Math.ceil(data.length / 8 / 60)) * 8;
      const pieces = [];
      for (let at = 0; at < data.length; at += size) pieces.push(fragment(data.subarray(at, at + size), at, at + size < data.length));
      const keys = [...order.take(pieces.length)];
      const shuffled = pieces.map((p, i) => [keys[i] as number, p] as const).sort((a, b) => a[0] - b[0]);
      const r = new Reassembly();
      shuffled.forEach(([, p], i) => {
        const whole = add(r, p);
        if (i < shuffled.length - 1) expect(whole).toBeNull();
        else {
          expect((whole as Uint8Array).subarray(20)).toEqual(data);
          expect([...(whole as Uint8Array).subarray(0, 8)]).toEqual([0x45, 0, (20 + data.length) >> 8, (20 + data.length) & 255, 0, 7, 0, 0]);
        }
      });
      expect(r.size).toBe(0);
    }),
  );
});

test('overlaps discard the packet (teardrop, rewritten headers)', () => {
  const data = new Uint8Array(32);
  for (const second of [fragment(data, 8, true), fragment(data, 24, false), fragment(data, 0, true)]) {
    const r = new Reassembly();
    expect(add(r, fragment(data, 0, true))).toBeNull();
    expect(add(r, second)).toBe('overlap');
    expect(r.size).toBe(0);
  }
});

test('rejected: beyond 64 KiB (ping of death), odd or empty middle fragments, data behind the end', () => {
  expect(add(new Reassembly(), fragment(new Uint8Array(64), 65_528, false))).toBe('overlap');
  expect(add(new Reassembly(), fragment(new Uint8Array(12), 8, true))).toBe('overlap');
  expect(add(new Reassembly(), fragment(new Uint8Array(0), 8, true))).toBe('overlap');
  const r = new Reassembly();
  add(r, fragment(new Uint8Array(8), 8, false));
  expect(add(r, fragment(new Uint8Array(8), 16, true))).toBe('overlap');
});

test('bounded: 32 packets, the oldest is evicted; 64 fragments; 30 seconds', () => {
  const r = new Reassembly();
  for (let id = 0; id < 100; id++) add(r, fragment(new Uint8Array(8), 0, true, id), id);
  expect(r.size).toBe(32);
  expect(r.expire(30_000 + 69)).toBe(2);
  expect(r.size).toBe(30);
  const many = new Reassembly();
  for (let i = 0; i < 64; i++) expect(add(many, fragment(new Uint8Array(8), i * 16, true))).toBeNull();
  expect(add(many, fragment(new Uint8Array(8), 64 * 16, true))).toBe('too-many');
});
