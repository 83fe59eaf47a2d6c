/** What the other end of a descriptor does (poll(2)). */
import { declareOnce, onLinux } from './koffi.ts';

const POLLERR = 0x8;
const POLLHUP = 0x10;

interface PollCalls {
  poll(fds: Uint8Array, count: number, timeout: number): number;
}

const calls = declareOnce(({ func }): PollCalls => ({ poll: func('int poll(_Inout_ uint8_t *, unsigned long, int)') }));

/** Whether nobody can read what is written to this pipe or socket. False on macOS. */
export function isUnread(fd: number): boolean {
  if (!onLinux) return false;
  // struct pollfd: descriptor, events, returned events
  const entry = Buffer.alloc(8);
  entry.writeInt32LE(fd, 0);
  return calls().poll(entry, 1, 0) > 0 && (entry.readInt16LE(6) & (POLLERR | POLLHUP)) !== 0;
}
