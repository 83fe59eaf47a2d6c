/** Has the kernel announce by SIGIO that a descriptor can be read (O_ASYNC in fcntl(2)). Linux only. */
import { declareOnce } from './koffi.ts';

const F_GETFL = 3;
const F_SETFL = 4;
const F_SETOWN = 8;
const O_ASYNC = 0x2000;

interface ControlCalls {
  fcntl(fd: number, command: number, value: number): number;
}

const calls = declareOnce(({ func }): ControlCalls => ({ fcntl: func('int fcntl(int, int, long)') }));

/** Install a handler before (readable-descriptors.ts): the signal's default ends the process. False: errno says why. */
export function announceBySignal(fd: number): boolean {
  const { fcntl } = calls();
  return fcntl(fd, F_SETOWN, process.pid) === 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_ASYNC) === 0;
}
