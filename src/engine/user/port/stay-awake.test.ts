import { describe, expect, test } from 'vitest';
import { AWAKE_MS, BusyPolling } from './stay-awake.ts';

/** For each of the packets at these times (ms): whether polling follows. */
const awakeAfter = (times: number[]): boolean[] => {
  const e = new BusyPolling();
  return times.map((t) => e.onPacket(100, t));
};

describe('busy polling', () => {
  test('starts when packets follow each other closely, and stops after a short silence', () => {
    expect(awakeAfter([0, 0.05, 0.1, 0.15, 0.2])).toEqual([false, false, false, true, true]);
    const e = new BusyPolling();
    for (let i = 0; i < 10; i++) e.onPacket(100, i * 0.05);
    expect([e.isOver(0.45 + AWAKE_MS / 2), e.isOver(0.46 + AWAKE_MS)]).toEqual([false, true]);
  });

  test('occasional packets, or pairs of them, do not start it', () => {
    expect(awakeAfter(Array.from({ length: 100 }, (_, i) => i * 5)).some((x) => x)).toBe(false);
    expect(awakeAfter(Array.from({ length: 200 }, (_, i) => Math.floor(i / 2) * 5 + (i % 2) * 0.05)).some((x) => x)).toBe(false);
  });

  test('a bulk transfer does not start it, nor do the small packets in it', () => {
    const e = new BusyPolling();
    const awake = Array.from({ length: 100 }, (_, i) => e.onPacket(i % 3 === 0 ? 65_536 : 60, i * 0.02));
    expect(awake.some((x) => x)).toBe(false);
  });

  test('a few long gaps after a burst stop it', () => {
    const times = [...Array.from({ length: 100 }, (_, i) => i * 0.01), 10, 20, 30, 40, 50];
    expect(awakeAfter(times).slice(-5)).toEqual([true, true, true, false, false]);
  });
});
