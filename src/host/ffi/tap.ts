/** Opens tap interfaces. */
import { closeSync, openSync } from 'node:fs';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno } from './koffi.ts';

const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFNAMSIZ = 16;
const IFREQ_SIZE = 40;
const EBUSY = 16;

interface TapCalls {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
}

const calls = declareOnce(({ func }): TapCalls => ({ ioctl: func('int ioctl(int, unsigned long, void *)') }));

/**
 * Opens an existing tap by name. The caller closes the descriptor; with `vnetHdr` each frame has a virtio-net header.
 * Throws `noRights` or `network`.
 */
export function openTap(name: string, vnetHdr: boolean): number {
  let fd: number;
  try {
    fd = openSync('/dev/net/tun', 'r+');
  } catch (cause) {
    throw new AnkaError('noRights', `/dev/net/tun cannot be opened (${(cause as NodeJS.ErrnoException).code}); run as root, or use the user engine`, { cause });
  }
  const request = Buffer.alloc(IFREQ_SIZE);
  request.write(name.slice(0, IFNAMSIZ - 1), 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | (vnetHdr ? IFF_VNET_HDR : 0), IFNAMSIZ);
  if (calls().ioctl(fd, TUNSETIFF, request) < 0) {
    const error = errno();
    closeSync(fd);
    throw new AnkaError('network', `opening the tap ${name} failed (errno ${error})${error === EBUSY ? ': another process has it open' : ''}`);
  }
  return fd;
}
