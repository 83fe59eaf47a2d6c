/** Creates tap interfaces, opens their queues, and connects those of another process again. */
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';

const TUNSETIFF = 0x400454ca;
const TUNSETPERSIST = 0x400454cb;
const TUNSETOWNER = 0x400454cc;
const TUNSETSNDBUF = 0x400454d4;
const TUNSETVNETHDRSZ = 0x400454d8;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFNAMSIZ = 16;
const IFREQ_SIZE = 40;
/** The same numbers on every machine. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_GETFD = 438;
/** As QEMU sets it. */
const UNLIMITED = 0x7fffffff;
const EBUSY = 16;
const EINVAL = 22;
const REASONS: Record<number, string> = {
  [EBUSY]: ': another process has it open',
  [EINVAL]: ': it was created for another number of queues, and another process has it open',
};

interface TapCalls {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  ioctlNumber(fd: number, request: number, argument: number): number;
  pidfdOpen(number: number, pid: number, flags: number): number;
  pidfdGetfd(number: number, pidfd: number, fd: number, flags: number): number;
}

const calls = declareOnce(
  ({ func }): TapCalls => ({
    ioctl: func('int ioctl(int, unsigned long, void *)'),
    ioctlNumber: func('int ioctl(int, unsigned long, unsigned long)'),
    pidfdOpen: func('long syscall(long, int, uint32_t)'),
    pidfdGetfd: func('long syscall(long, int, int, uint32_t)'),
  }),
);

/**
 * Creates a tap, which stays when nobody has it open; each frame has a virtio-net header. `owner`: user id that may
 * open it, beside root. `several`: for more than one queue. Throws `noRights` or `network`.
 */
export function createTap(name: string, owner: number, several: boolean): void {
  const fd = openQueue(name, several);
  try {
    setNumber(fd, TUNSETOWNER, owner);
    setNumber(fd, TUNSETPERSIST, 1);
  } finally {
    closeSync(fd);
  }
}

/**
 * Opens queues of an existing tap by name, one descriptor each; each frame has a virtio-net header. A tap for more than
 * one queue must have been created for several (`multi_queue`), and one for one queue must not. The caller closes the
 * descriptors. Throws `noRights` or `network`; then none is open.
 */
export function openTap(name: string, queues: number): number[] {
  const fds: number[] = [];
  try {
    for (let i = 0; i < queues; i++) fds.push(openQueue(name, queues > 1));
  } catch (cause) {
    for (const fd of fds) closeSync(fd);
    throw cause;
  }
  return fds;
}

function openQueue(name: string, several: boolean): number {
  let fd: number;
  try {
    fd = openSync('/dev/net/tun', 'r+');
  } catch (cause) {
    throw new AnkaError('noRights', `/dev/net/tun cannot be opened (${(cause as NodeJS.ErrnoException).code}); run as root, or use the user engine`, { cause });
  }
  try {
    attachQueue(fd, name, several);
  } catch (cause) {
    closeSync(fd);
    throw cause;
  }
  return fd;
}

/** Makes a descriptor of /dev/net/tun, which has no interface, a queue of a tap. */
function attachQueue(fd: number, name: string, several: boolean): void {
  const request = Buffer.alloc(IFREQ_SIZE);
  request.write(name.slice(0, IFNAMSIZ - 1), 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0), IFNAMSIZ);
  if (calls().ioctl(fd, TUNSETIFF, request) >= 0) return;
  const error = errno();
  throw new AnkaError('network', `opening the tap ${name} failed (errno ${error})${REASONS[error] ?? ''}`);
}

/**
 * Makes descriptors of another process, whose tap was removed, queues of an existing tap (see `openTap`). The process
 * does not notice. `headerBytes`: size of its virtio-net header. Throws `network` if it has no such descriptors, or if
 * root may not take them: that needs Linux 5.6, and CAP_SYS_PTRACE.
 */
export function reconnectTap(pid: number, name: string, queues: number, headerBytes: number): void {
  const process = calls().pidfdOpen(SYS_PIDFD_OPEN, pid, 0);
  if (process < 0) throw new AnkaError('network', `process ${pid} cannot be opened (errno ${errno()})`);
  try {
    const numbers = removedQueues(pid).slice(0, queues);
    if (numbers.length === 0) throw new AnkaError('network', `process ${pid} has no queue of a removed tap`);
    for (const number of numbers) {
      const fd = calls().pidfdGetfd(SYS_PIDFD_GETFD, process, number, 0);
      if (fd < 0) throw new AnkaError('network', `descriptor ${number} of process ${pid} cannot be used (errno ${errno()})`);
      try {
        attachQueue(fd, name, queues > 1);
        setInt(fd, TUNSETVNETHDRSZ, headerBytes);
        setInt(fd, TUNSETSNDBUF, UNLIMITED);
      } finally {
        closeSync(fd);
      }
    }
  } finally {
    closeSync(process);
  }
}

/** For calls that take the address of a number. */
function setInt(fd: number, request: number, value: number): void {
  const argument = Buffer.alloc(4);
  argument.writeInt32LE(value);
  demand(calls().ioctl(fd, request, argument));
}

/** For calls that take a number itself. */
const setNumber = (fd: number, request: number, value: number): void => demand(calls().ioctlNumber(fd, request, value));

function demand(result: number): void {
  if (result < 0) throw new AnkaError('network', `a tap could not be set up (errno ${errno()})`);
}

/** Descriptors of a process that were queues of an interface which no longer exists; none if it has exited. */
function removedQueues(pid: number): number[] {
  const directory = `/proc/${pid}/fdinfo`;
  const hasNoInterface = (fd: string): boolean => {
    try {
      return /^iff:\t$/m.test(readFileSync(`${directory}/${fd}`, 'latin1'));
    } catch {
      return false; // closed meanwhile
    }
  };
  try {
    return readdirSync(directory).filter(hasNoInterface).map(Number);
  } catch {
    return [];
  }
}
