/** Unix sockets: the peer's user, and passing a descriptor. */
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno, onLinux } from './koffi.ts';
import { declareMessage, type Message, message } from './message.ts';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;

interface UnixSocketCalls {
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  sendmsg(fd: number, message: Message, flags: number): number;
  /** macOS only. */
  getpeereid(fd: number, user: Uint32Array, group: Uint32Array): number;
}

const calls = declareOnce(({ func }): UnixSocketCalls => {
  declareMessage();
  return {
    getsockopt: func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    sendmsg: func('long sendmsg(int, anka_msghdr *, int)'),
    getpeereid: onLinux ? () => -1 : func('int getpeereid(int, _Out_ uint32_t *, _Out_ uint32_t *)'),
  };
});

/** User id of the process at the other end of a connected unix socket. */
export function peerUser(fd: number): number {
  if (!onLinux) {
    const [user, group] = [Uint32Array.of(0), Uint32Array.of(0)];
    if (calls().getpeereid(fd, user, group) < 0) throw new AnkaError('internal', `getpeereid failed (errno ${errno()})`);
    return user[0] as number;
  }
  const credentials = Buffer.alloc(12);
  if (calls().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, Uint32Array.of(credentials.length)) < 0)
    throw new AnkaError('internal', `SO_PEERCRED failed (errno ${errno()})`);
  return credentials.readUInt32LE(4);
}

/**
 * Sends bytes over a connected unix socket together with an open descriptor (SCM_RIGHTS), of which the receiver gets a
 * copy. Throws if not all bytes were sent.
 */
export function sendDescriptor(socketFd: number, bytes: Uint8Array, fd: number): void {
  const control = Buffer.alloc(24);
  control.writeBigUInt64LE(20n, 0);
  control.writeInt32LE(SOL_SOCKET, 8);
  control.writeInt32LE(SCM_RIGHTS, 12);
  control.writeInt32LE(fd, 16);
  const sent = calls().sendmsg(socketFd, message(null, bytes, control), MSG_NOSIGNAL);
  if (sent !== bytes.length) throw new AnkaError('internal', `passing a descriptor failed (${sent < 0 ? `errno ${errno()}` : `${sent} bytes sent`})`);
}
