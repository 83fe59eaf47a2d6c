import { expect, test } from 'vitest';
import { initialSequence } from './isn.ts';

const secret = Buffer.alloc(32, 7);
const of = (ports: number, now: number, key = secret): number => initialSequence(key, 0xc0a84002 | 0, 0xc6336401 | 0, ports, now);

test('RFC 6528: the same connection advances by the 4 µs clock; others are unrelated', () => {
  expect((of(1, 5000) - of(1, 1000)) | 0).toBe(4000 * 250);
  expect((of(1, 2 ** 32 / 250) - of(1, 0)) | 0).toBe(0);
  const steps = Array.from({ length: 100 }, (_, i) => (of(i + 1, 1000) - of(i, 1000)) | 0);
  expect(new Set(steps).size).toBe(100);
  expect(Math.max(...steps) - Math.min(...steps)).toBeGreaterThan(2 ** 30);
  expect(of(1, 1000, Buffer.alloc(32, 8))).not.toBe(of(1, 1000));
});
