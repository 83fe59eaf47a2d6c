import { spawn } from 'node:child_process';
import { afterEach, describe, expect, test } from 'vitest';
import { Pulse } from './pulse.ts';

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function start(program: string): number {
  const child = spawn(process.execPath, ['-e', program], { stdio: 'ignore' });
  ends.push(() => void child.kill('SIGKILL'));
  return child.pid as number;
}

/** Feels the pulse of a process until it is found to be hung; the reason. */
function untilHung(pid: number, ask: () => Promise<unknown>): Promise<string> {
  return new Promise((resolve) => {
    const pulse = new Pulse({ pid, ask, onHung: resolve });
    ends.push(() => pulse.stop());
  });
}

const never = (): Promise<unknown> => new Promise(() => {});

describe.skipIf(process.platform !== 'linux')('the pulse of a process', () => {
  test('is missed when it is stopped, when it loops, and when it sleeps: each with its reason', async () => {
    const stopped = start('setInterval(() => {}, 1e6)');
    process.kill(stopped, 'SIGSTOP');
    const found = [untilHung(stopped, never), untilHung(start('for (;;);'), never), untilHung(start('setInterval(() => {}, 1e6)'), never)];
    expect(await Promise.all(found)).toEqual(['it is stopped by a signal', 'it uses the CPU all the time', 'it sleeps']);
  });

  test('is not missed when it answers late, and the next question follows', async () => {
    let asked = 0;
    const late = (): Promise<unknown> => {
      asked++;
      return new Promise((resolve) => setTimeout(resolve, 600));
    };
    let hung = false;
    void untilHung(start('for (;;);'), late).then(() => {
      hung = true;
    });
    while (asked < 2) await new Promise((resolve) => setTimeout(resolve, 20));
    expect(hung).toBe(false);
  });

  test('is no longer felt once the connection is closed', async () => {
    const pid = start('setInterval(() => {}, 1e6)');
    process.kill(pid, 'SIGSTOP');
    let hung = false;
    void untilHung(pid, () => Promise.reject(new Error('closed'))).then(() => {
      hung = true;
    });
    await untilHung(pid, never);
    expect(hung).toBe(false);
  });
});
