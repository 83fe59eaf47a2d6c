import { type ChildProcess, spawn } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import { type Activity, HangDetector, readActivity } from './hang-detector.ts';

const EVERY_MS = 250;

/** Looks every 250 ms until the process is found to be hung, or the looks end; the time and the reason. */
function watch(looks: number, activity: (look: number) => Activity | null): { ms: number; why: string } | null {
  const detector = new HangDetector(0, EVERY_MS);
  for (let n = 1; n <= looks; n++) {
    const why = detector.look(n * EVERY_MS, activity(n));
    if (why !== null) return { ms: n * EVERY_MS, why };
  }
  return null;
}

describe('a process that owes an answer', () => {
  test('is hung once it has been stopped for a second', () => {
    expect(watch(100, () => ({ state: 'stopped', cpuMs: 40 }))).toEqual({ ms: 1000, why: 'it is stopped by a signal' });
  });

  test('is not hung when it is stopped for a moment, again and again', () => {
    expect(watch(20, (n) => ({ state: n % 4 === 0 ? 'waiting' : 'stopped', cpuMs: 40 }))).toBeNull();
  });

  test('is hung once it has used the CPU for 1.5 s', () => {
    expect(watch(100, (n) => ({ state: 'waiting', cpuMs: n * EVERY_MS }))).toEqual({ ms: 1750, why: 'it uses the CPU all the time' });
  });

  test('is not hung on a machine so busy that it gets a fiftieth of the CPU', () => {
    expect(watch(110, (n) => ({ state: 'waiting', cpuMs: 5 * n }))).toBeNull();
  });

  test('is hung once it has slept for 1.5 s without using the CPU', () => {
    expect(watch(100, () => ({ state: 'asleep', cpuMs: 40 }))).toEqual({ ms: 1750, why: 'it sleeps' });
  });

  test('is not hung when it sleeps between two pieces of work', () => {
    expect(watch(20, (n) => ({ state: 'asleep', cpuMs: 10 * Math.floor(n / 4) }))).toBeNull();
  });

  test('is hung after half a minute, whatever it does, and where the system does not say', () => {
    expect(watch(200, () => ({ state: 'waiting', cpuMs: 40 }))?.ms).toBe(30_000);
    expect(watch(200, () => null)?.ms).toBe(30_000);
  });

  test('does not count the time during which nobody looked', () => {
    const detector = new HangDetector(0, EVERY_MS);
    expect(detector.look(3_600_000, { state: 'stopped', cpuMs: 0 })).toBeNull();
    expect(detector.look(3_600_001, null)).toBeNull();
  });
});

describe.skipIf(process.platform !== 'linux')('what a process does', () => {
  const children: ChildProcess[] = [];
  const start = (program: string): number => {
    const child = spawn(process.execPath, ['-e', program], { stdio: 'ignore' });
    children.push(child);
    return child.pid as number;
  };
  afterEach(() => {
    for (const c of children.splice(0)) c.kill('SIGKILL');
  });
  const until = async (check: () => boolean): Promise<void> => {
    while (!check()) await new Promise((resolve) => setTimeout(resolve, 10));
  };

  test('is read from the system: it sleeps, is stopped, works', async () => {
    const [idle, busy] = [start('setInterval(() => {}, 1e6)'), start('for (;;);')];
    await until(() => readActivity(idle)?.state === 'asleep');
    process.kill(idle, 'SIGSTOP');
    await until(() => readActivity(idle)?.state === 'stopped');
    process.kill(idle, 'SIGCONT');
    await until(() => readActivity(idle)?.state === 'asleep');
    await until(() => (readActivity(busy)?.cpuMs ?? 0) >= 100);
    expect(readActivity(busy)?.state).toBe('waiting');
  });

  test('is unknown when it does not exist', () => expect(readActivity(2 ** 22 + 1)).toBeNull());
});
