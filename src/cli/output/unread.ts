/** Whether anybody still reads standard output, for commands that may have nothing to write for hours. */
import { fstatSync } from 'node:fs';
import { isUnread } from '../../host/ffi/poll.ts';

const LOOK_MS = 500;

/** Whether standard output has a reader that may go away. */
export function writesToPipe(): boolean {
  try {
    const s = fstatSync(1);
    return s.isFIFO() || s.isSocket();
  } catch {
    return false; // closed
  }
}

/** Calls `then` once nobody can read standard output any more. */
export function whenUnread(then: () => void): { stop(): void } {
  if (!writesToPipe()) return { stop() {} };
  const timer = setInterval(() => {
    if (!isUnread(1)) return;
    clearInterval(timer);
    then();
  }, LOOK_MS);
  timer.unref();
  return { stop: () => clearInterval(timer) };
}
