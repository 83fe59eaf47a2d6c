import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { drawMac } from './mac-pool.ts';

const PREFIX = 0x564545;
/** One's-complement sum of the three words. */
const sum = (mac: number): number => [2 ** 32, 2 ** 16, 1].reduce((s, word) => s + (Math.floor(mac / word) % 65_536), 0) % 65_535;

describe('the MAC pool', () => {
  test('B40: addresses have the prefix and are unique', () => {
    let n = 0;
    const used = new Set<number>();
    for (let i = 0; i < 1000; i++) used.add(drawMac(PREFIX, used, () => n++ % 1500));
    expect(used.size).toBe(1000);
    for (const m of used) expect(Math.floor(m / 2 ** 24)).toBe(PREFIX);
  });
  test('B41: with an inside MAC the outside one is checksum-neutral to it', () => {
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((x) => x % 2 ** 48),
        fc.nat(0xffffff),
        (inside, bits) => {
          const mac = drawMac(PREFIX, new Set(), () => bits, inside);
          return sum(mac) === sum(inside) && Math.floor(mac / 2 ** 24) === PREFIX;
        },
      ),
    );
  });
  test('an exhausted pool is reported', () => expect(() => drawMac(PREFIX, new Set([PREFIX * 2 ** 24]), () => 0)).toThrow(/no free MAC address/));
});
