import { expect, test } from 'vitest';
import { RoundTrip } from './round-trip.ts';

/** Measures round trips of these lengths, ms. */
function measured(...samples: number[]): RoundTrip {
  const r = new RoundTrip();
  for (const ms of samples) {
    r.timedAt = 1000;
    r.measure(1000 + ms);
  }
  return r;
}

test('RFC 6298 2: the timeout follows from smoothed round trip and variation', () => {
  expect(new RoundTrip().timeout, 'before the first').toBe(1000);
  expect(measured(400)).toMatchObject({ srtt: 400, rttvar: 200, rto: 1200 });
  expect(measured(400, 800)).toMatchObject({ srtt: 450, rttvar: 250, rto: 1450 });
});

test('RFC 6298 2.4, 2.5: never below 200 ms, never above a minute', () => {
  expect(measured(1).timeout).toBe(200);
  const slow = measured(50_000);
  expect(slow.timeout).toBe(60_000);
});

test('RFC 6298 5.5: each timeout doubles it, up to a minute', () => {
  const r = measured(400);
  const timeouts = Array.from({ length: 8 }, (_, retries) => {
    r.retries = retries;
    return r.timeout;
  });
  expect(timeouts).toEqual([1200, 2400, 4800, 9600, 19_200, 38_400, 60_000, 60_000]);
});
