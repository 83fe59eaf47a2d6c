import { expect, test } from 'vitest';
import { TokenBucket } from './token-bucket.ts';

const taken = (b: TokenBucket, n: number, now: number): number => Array.from({ length: n }, () => b.take(now)).filter(Boolean).length;

test('a burst, refilled evenly', () => {
  const b = new TokenBucket(10, 1000);
  expect(taken(b, 20, 5000)).toBe(10);
  expect(taken(b, 20, 5099)).toBe(0);
  expect(taken(b, 20, 5100)).toBe(1);
  expect(taken(b, 20, 5600)).toBe(5);
  expect(taken(b, 20, 60_000)).toBe(10);
});

test('a clock that was set back refills nothing, and counts on from there', () => {
  const b = new TokenBucket(2, 1000);
  expect(taken(b, 5, 1_000_000)).toBe(2);
  expect(taken(b, 5, 0)).toBe(0);
  expect(taken(b, 5, 500)).toBe(1);
});
