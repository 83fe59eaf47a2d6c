import { execFileSync } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { isUnread } from './poll.ts';
import { openSocketPair } from './unix-socket.ts';

test('B80: a pipe or socket whose reader has gone is noticed without a write', () => {
  const dir = mkdtempSync(join(tmpdir(), 'anka-poll-'));
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  const reader = openSync(join(dir, 'fifo'), constants.O_RDONLY | constants.O_NONBLOCK);
  const pipe = openSync(join(dir, 'fifo'), constants.O_WRONLY);
  const [near, far] = openSocketPair() as [number, number];
  expect([isUnread(pipe), isUnread(near)]).toEqual([false, false]);
  closeSync(reader);
  closeSync(far);
  expect([isUnread(pipe), isUnread(near)]).toEqual([true, true]);
  closeSync(pipe);
  closeSync(near);
  rmSync(dir, { recursive: true });
});
