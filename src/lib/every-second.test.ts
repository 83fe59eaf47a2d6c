import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { everySecond } from './every-second.ts';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

test('all work is done by one timer, which ends with the last', () => {
  const calls: string[] = [];
  const ends = ['a', 'b'].map((name) => everySecond(() => calls.push(name)));
  expect(vi.getTimerCount()).toBe(1);
  vi.advanceTimersByTime(2000);
  expect(calls).toEqual(['a', 'b', 'a', 'b']);
  ends[0]?.();
  vi.advanceTimersByTime(1000);
  expect(calls.slice(4)).toEqual(['b']);
  ends[1]?.();
  expect(vi.getTimerCount()).toBe(0);
});

test('the same function may be due twice, and work may end itself', () => {
  let count = 0;
  const work = (): void => void count++;
  const first = everySecond(work);
  const second = everySecond(() => {
    work();
    second();
  });
  vi.advanceTimersByTime(2000);
  expect(count).toBe(3);
  first();
  expect(vi.getTimerCount()).toBe(0);
});
