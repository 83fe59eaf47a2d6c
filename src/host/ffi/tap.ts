/** Opens the queues of tap interfaces. */
import { closeSync, openSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';

const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFNAMSIZ = 16;
const IFREQ_SIZE = 40;
const EBUSY = 16;
const EINVAL = 22;
const REASONS: Record<number, string> = {
  [EBUSY]: ': another process has it open',
  [EINVAL]: ': it was created for another number of queues, and another process has it open',
};

interface TapCalls {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
}

const calls = declareOnce(({ func }): TapCalls => ({ ioctl: func('int ioctl(int, unsigned long, void *)') }));

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
  const request = Buffer.alloc(IFREQ_SIZE);
  request.write(name.slice(0, IFNAMSIZ - 1), 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (several ? IFF_MULTI_QUEUE : 0), IFNAMSIZ);
  if (calls().ioctl(fd, TUNSETIFF, request) < 0) {
    const error = errno();
    closeSync(fd);
    throw new AnkaError('network', `opening the tap ${name} failed (errno ${error})${REASONS[error] ?? ''}`);
  }
  return fd;
}
