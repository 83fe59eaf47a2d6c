/**
 * The few calls into libc that Node lacks. Sole importer of koffi, which is loaded at the first call, so that start-up stays fast. Never used per packet.
 * Limits: Linux on little-endian 64-bit machines.
 */
import { closeSync, openSync } from 'node:fs';
import { createRequire } from 'node:module';
import { AnkaError } from '../lib/errors.ts';

const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const IFNAMSIZ = 16;
const LOCK_EX = 2;
const LOCK_NB = 4;

interface Libc {
  ioctl(fd: number, request: number, argument: Uint8Array): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  flock(fd: number, operation: number): number;
  errno(): number;
}

let libc: Libc | null = null;

function load(): Libc {
  if (libc) return libc;
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi');
  const c = koffi.load('libc.so.6');
  libc = {
    ioctl: c.func('int ioctl(int, unsigned long, void *)'),
    getsockopt: c.func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    flock: c.func('int flock(int, int)'),
    errno: () => koffi.errno(),
  };
  return libc;
}

/** Opens an existing tap by name. The descriptor is the caller's to close; it carries frames with a virtio-net header when `vnetHdr`. Throws `noRights` or `network`. */
export function openTap(name: string, vnetHdr: boolean): number {
  let fd: number;
  try {
    fd = openSync('/dev/net/tun', 'r+');
  } catch (cause) {
    throw new AnkaError('noRights', `/dev/net/tun cannot be opened (${(cause as NodeJS.ErrnoException).code}); run as root, or use the user engine`, { cause });
  }
  const request = Buffer.alloc(40);
  request.write(name.slice(0, IFNAMSIZ - 1), 'latin1');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | (vnetHdr ? IFF_VNET_HDR : 0), IFNAMSIZ);
  if (load().ioctl(fd, TUNSETIFF, request) < 0) {
    const errno = load().errno();
    closeSync(fd);
    throw new AnkaError('network', `opening the tap ${name} failed (errno ${errno})${errno === 16 ? ': another process has it open' : ''}`);
  }
  return fd;
}

/** User, group and process on the other side of a connected unix socket. */
export function peerCredentials(fd: number): { pid: number; uid: number; gid: number } {
  const value = Buffer.alloc(12);
  const length = Uint32Array.of(value.length);
  if (load().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, value, length) < 0) throw new AnkaError('internal', `SO_PEERCRED failed (errno ${load().errno()})`);
  return { pid: value.readInt32LE(0), uid: value.readUInt32LE(4), gid: value.readUInt32LE(8) };
}

/** Takes the exclusive lock of an open file (flock(2)), which the kernel lets go of when the descriptor is closed or its process ends. False when another has it. */
export function tryLock(fd: number): boolean {
  return load().flock(fd, LOCK_EX | LOCK_NB) === 0;
}
