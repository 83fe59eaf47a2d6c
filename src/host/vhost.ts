/** /dev/vhost-net: the kernel moves frames between a guest's virtio-net card and its tap, without QEMU. */
import { closeSync, openSync } from 'node:fs';

const DEVICE = '/dev/vhost-net';

/** Why it cannot be opened, in one phrase; null if it can. */
export function vhostRefusal(): string | null {
  try {
    closeSync(openSync(DEVICE, 'r+'));
    return null;
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? String(cause);
    return code === 'ENOENT' ? `this host has no ${DEVICE}` : `${DEVICE} cannot be opened (${code})`;
  }
}

/**
 * Opens it `count` times: each descriptor serves one pair of queues. The caller closes them. Throws; then none is open.
 */
export function openVhost(count: number): number[] {
  const fds: number[] = [];
  try {
    for (let i = 0; i < count; i++) fds.push(openSync(DEVICE, 'r+'));
  } catch (cause) {
    for (const fd of fds) closeSync(fd);
    throw cause;
  }
  return fds;
}
