import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { ReconcileLoop } from './reconcile-loop.ts';

const DELAY_MS = 30;
const PERIOD_MS = 1000;

const reconcile = vi.fn(async () => {});
const check = vi.fn();
const warn = vi.fn();
const onChange = vi.fn();
let loop: ReconcileLoop;

beforeEach(() => {
  vi.useFakeTimers();
  loop = new ReconcileLoop({ title: 'engine', log: { warn }, reconcile, cueDelayMs: DELAY_MS, everySecond: [check] });
  loop.watch(onChange);
});
afterEach(() => {
  loop.stop();
  vi.useRealTimers();
  vi.resetAllMocks();
});

/** Work that ends when `finish` is called. */
function pending(): { work: () => Promise<void>; finish: () => void } {
  let finish = (): void => {};
  const done = new Promise<void>((resolve) => {
    finish = resolve;
  });
  return { work: () => done, finish: () => finish() };
}

describe('queue', () => {
  test('runs one piece of work at a time, in order', async () => {
    const first = pending();
    const second = vi.fn(async () => 2);
    const results = [loop.enqueue(first.work), loop.enqueue(second)];
    await vi.advanceTimersByTimeAsync(0);
    expect(second).not.toHaveBeenCalled();
    first.finish();
    expect(await Promise.all(results)).toEqual([undefined, 2]);
  });

  test('goes on after work that fails, and logs the failure', async () => {
    const failed = loop.enqueue(() => Promise.reject(new Error('no such device')));
    await expect(failed).rejects.toThrow('no such device');
    expect(await loop.enqueue(async () => 1)).toBe(1);
    expect(warn.mock.calls).toEqual([[{ error: 'no such device' }, 'engine']]);
  });
});

test('B90: requests on a machine that is slower than they come: one waits, and a command is behind none', async () => {
  const first = pending();
  void loop.enqueue(first.work);
  const poll = vi.fn(async () => {});
  for (let i = 0; i < 100; i++) loop.request(poll);
  const command = loop.enqueue(async () => poll.mock.calls.length);
  first.finish();
  expect(await command).toBe(0);
  await vi.advanceTimersByTimeAsync(0);
  expect(poll).toHaveBeenCalledTimes(1);
  loop.request(poll);
  await vi.advanceTimersByTimeAsync(0);
  expect(poll).toHaveBeenCalledTimes(2);
});

describe('a command', () => {
  test('goes ahead of requested work', async () => {
    const first = pending();
    void loop.enqueue(first.work);
    const order: string[] = [];
    loop.request(async () => void order.push('check'));
    expect(loop.commandWaits).toBe(true); // the first has not begun
    await vi.advanceTimersByTimeAsync(0);
    expect(loop.commandWaits).toBe(false);
    void loop.enqueue(async () => void order.push('command'));
    expect(loop.commandWaits).toBe(true);
    first.finish();
    await vi.advanceTimersByTimeAsync(0);
    expect(order).toEqual(['command', 'check']);
  });

  test('that reconciles drops the reconciliation that waits, and notifies watchers in its place', async () => {
    loop.start();
    const first = pending();
    void loop.enqueue(first.work);
    loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    const command = loop.supersede(async () => 1);
    first.finish();
    expect(await command).toBe(1);
    await vi.advanceTimersByTimeAsync(PERIOD_MS);
    expect(reconcile).not.toHaveBeenCalled();
    expect(onChange).toHaveBeenCalledTimes(1);
  });

  test('that reconciles drops a cue whose time has not come, but not one that comes after it began', async () => {
    loop.start();
    loop.cue();
    const command = pending();
    void loop.supersede(command.work);
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).not.toHaveBeenCalled();
    loop.cue();
    command.finish();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).toHaveBeenCalledTimes(1);
  });

  test('that reconciles notifies nobody where nothing waited', async () => {
    loop.start();
    await loop.supersede(async () => {});
    expect(onChange).not.toHaveBeenCalled();
  });
});

describe('cue', () => {
  test('merges cues into one reconciliation, then notifies watchers', async () => {
    loop.start();
    for (let i = 0; i < 5; i++) loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS - 1);
    expect(reconcile).not.toHaveBeenCalled();
    await vi.advanceTimersByTimeAsync(1);
    expect(reconcile).toHaveBeenCalledTimes(1);
    expect(onChange).toHaveBeenCalledTimes(1);
    expect(vi.getTimerCount()).toBe(1); // the periodic check
  });

  test('during a reconciliation causes another one', async () => {
    loop.start();
    reconcile.mockImplementationOnce(async () => loop.cue());
    loop.cue(0);
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).toHaveBeenCalledTimes(2);
  });

  test('waits for queued work', async () => {
    loop.start();
    const first = pending();
    const result = loop.enqueue(first.work);
    loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).not.toHaveBeenCalled();
    first.finish();
    await result;
    await vi.advanceTimersByTimeAsync(0);
    expect(reconcile).toHaveBeenCalledTimes(1);
  });

  test.each([
    [0, 1000],
    [1000, 0],
  ])('with delays of %i and %i ms, the shorter one counts', async (...delays) => {
    loop.start();
    for (const delay of delays) loop.cue(delay);
    await vi.advanceTimersByTimeAsync(0);
    expect(reconcile).toHaveBeenCalledTimes(1);
    await vi.advanceTimersByTimeAsync(2000);
    expect(reconcile).toHaveBeenCalledTimes(1);
  });

  test('notifies nobody when the reconciliation fails', async () => {
    loop.start();
    reconcile.mockRejectedValueOnce(new Error('busy'));
    loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(onChange).not.toHaveBeenCalled();
    expect(warn).toHaveBeenCalledTimes(1);
  });
});

test('a check or a watcher that throws or rejects is logged, and keeps nothing else from running', async () => {
  check.mockImplementationOnce(() => {
    throw new Error('no descriptor');
  });
  loop.start();
  loop.watch(() => Promise.reject(new Error('not observed')));
  const last = vi.fn();
  loop.watch(last);
  await vi.advanceTimersByTimeAsync(2 * PERIOD_MS);
  loop.notify();
  await vi.advanceTimersByTimeAsync(0);
  expect([check.mock.calls.length, onChange.mock.calls.length, last.mock.calls.length]).toEqual([2, 1, 1]);
  expect(warn.mock.calls.map(([o]) => o.error)).toEqual(['no descriptor', 'not observed']);
});

describe('life cycle', () => {
  test('before start, cues have no effect', async () => {
    loop.cue();
    await vi.advanceTimersByTimeAsync(PERIOD_MS);
    expect([reconcile.mock.calls, check.mock.calls]).toEqual([[], []]);
  });

  test('start is safe to call again: periodic checks run once a period', async () => {
    loop.start();
    loop.start();
    await vi.advanceTimersByTimeAsync(3 * PERIOD_MS);
    expect(check).toHaveBeenCalledTimes(3);
  });

  test('stop cancels a pending cue and the periodic checks; start resumes', async () => {
    loop.start();
    loop.cue();
    loop.stop();
    await vi.advanceTimersByTimeAsync(PERIOD_MS);
    expect([reconcile.mock.calls, check.mock.calls]).toEqual([[], []]);
    expect(vi.getTimerCount()).toBe(0);
    loop.start();
    loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).toHaveBeenCalledTimes(1);
  });

  test('stop after a cue has queued its reconciliation skips it', async () => {
    loop.start();
    const first = pending();
    const result = loop.enqueue(first.work);
    loop.cue();
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    loop.stop();
    first.finish();
    await result;
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).not.toHaveBeenCalled();
  });

  test('close waits for queued work and is final', async () => {
    loop.start();
    const first = pending();
    void loop.enqueue(first.work);
    const closed = vi.fn();
    const closing = loop.close().then(closed);
    await vi.advanceTimersByTimeAsync(0);
    expect(closed).not.toHaveBeenCalled();
    first.finish();
    await closing;
    loop.start();
    loop.cue();
    expect([loop.active, loop.closed, vi.getTimerCount()]).toEqual([false, true, 0]);
  });

  test('cues while work takes long lead to one reconciliation', async () => {
    loop.start();
    const first = pending();
    const result = loop.enqueue(first.work);
    for (let i = 0; i < 5; i++) {
      loop.cue();
      await vi.advanceTimersByTimeAsync(PERIOD_MS);
    }
    first.finish();
    await result;
    await vi.advanceTimersByTimeAsync(DELAY_MS);
    expect(reconcile).toHaveBeenCalledTimes(1);
  });

  test('a watcher that unsubscribed is not notified', () => {
    const other = vi.fn();
    const unsubscribe = loop.watch(other);
    unsubscribe();
    loop.notify();
    expect([other.mock.calls.length, onChange.mock.calls.length]).toEqual([0, 1]);
  });
});
