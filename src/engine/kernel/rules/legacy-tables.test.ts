import { expect, test } from 'vitest';
import { withoutCounters } from './legacy-tables.ts';

/** struct ipt_entry with a target. `source`: the first address that it matches. */
function entry(source: number, packets: number, length = 152): Buffer {
  const b = Buffer.alloc(length, 0x5a);
  b.writeUInt32BE(source, 0);
  b.writeUInt16LE(112, 88);
  b.writeUInt16LE(length, 90);
  b.writeBigUInt64LE(BigInt(packets), 96);
  b.writeBigUInt64LE(BigInt(packets * 100), 104);
  return b;
}
const table = (packets: number, source = 1): Buffer => Buffer.concat([entry(source, packets), entry(2, 2 * packets), entry(3, 3 * packets, 176)]);

test('what packets count does not change a table, its rules do', () => {
  expect(withoutCounters(table(1))).toEqual(withoutCounters(table(7)));
  expect(withoutCounters(table(1))).not.toEqual(withoutCounters(table(1, 9)));
});

test('a table that ends early, or whose lengths are impossible, never throws', () => {
  const whole = table(5);
  for (let n = 0; n < whole.length; n++) expect(withoutCounters(whole.subarray(0, n))).toHaveLength(n);
  for (const length of [0, 1, 111, 65_535]) {
    const damaged = table(5);
    damaged.writeUInt16LE(length, 90);
    expect(withoutCounters(damaged)).toHaveLength(whole.length);
  }
});
