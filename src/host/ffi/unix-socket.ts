/** Unix sockets: the peer's user, connected pairs, and passing a descriptor. */
import { closeSync } from 'node:fs';
import type { Socket } from 'node:net';
import { AnkaError } from '../../lib/errors.ts';
import { descriptorOf } from '../descriptor.ts';
import { declareOnce, errno, onLinux } from './koffi.ts';
import { declareMessage, type Message, message } from './message.ts';

const AF_UNIX = 1;
const SOCK_STREAM_CLOEXEC = onLinux ? 0x80001 : 1;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SCM_RIGHTS = 1;
const MSG_NOSIGNAL = 0x4000;
const BACKLOG = 16;

interface UnixSocketCalls {
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  sendmsg(fd: number, message: Message, flags: number): number;
  socketpair(domain: number, type: number, protocol: number, pair: Int32Array): number;
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  listen(fd: number, backlog: number): number;
  /** macOS only. */
  getpeereid(fd: number, user: Uint32Array, group: Uint32Array): number;
}

const calls = declareOnce(({ func }): UnixSocketCalls => {
  declareMessage();
  return {
    getsockopt: func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    socketpair: func('int socketpair(int, int, int, _Out_ int *)'),
    sendmsg: func('long sendmsg(int, anka_msghdr *, int)'),
    socket: func('int socket(int, int, int)'),
    bind: func('int bind(int, const uint8_t *, uint32_t)'),
    listen: func('int listen(int, int)'),
    getpeereid: onLinux ? () => -1 : func('int getpeereid(int, _Out_ uint32_t *, _Out_ uint32_t *)'),
  };
});

/**
 * The process at the other end of a connected unix socket, as it was when it connected or listened. `pid` is 0 on
 * macOS.
 */
export function peerOf(fd: number): { pid: number; uid: number } {
  if (!onLinux) {
    const [user, group] = [Uint32Array.of(0), Uint32Array.of(0)];
    if (calls().getpeereid(fd, user, group) < 0) throw new AnkaError('internal', `getpeereid failed (errno ${errno()})`);
    return { pid: 0, uid: user[0] as number };
  }
  const credentials = Buffer.alloc(12);
  if (calls().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, Uint32Array.of(credentials.length)) < 0)
    throw new AnkaError('internal', `SO_PEERCRED failed (errno ${errno()})`);
  return { pid: credentials.readUInt32LE(0), uid: credentials.readUInt32LE(4) };
}

/** The peer of a connected socket; null if it is closed. */
export function peerOfSocket(socket: Socket): { pid: number; uid: number } | null {
  const fd = descriptorOf(socket);
  return fd < 0 ? null : peerOf(fd);
}

/** The peer of an accepted connection is this process's user, or root. False for a socket that is closed already. */
export function isOwnPeer(socket: Socket): boolean {
  const peer = peerOfSocket(socket);
  return peer !== null && (peer.uid === 0 || peer.uid === process.getuid?.());
}

/** Two stream sockets that are connected to each other, and have no name; null when no descriptor is left. */
export function openSocketPair(): readonly [number, number] | null {
  const pair = Int32Array.of(-1, -1);
  return calls().socketpair(AF_UNIX, SOCK_STREAM_CLOEXEC, 0, pair) === 0 ? [pair[0] as number, pair[1] as number] : null;
}

/**
 * A socket that listens at `path`, for another program to accept on; its mode is 0600. The caller removes what is at
 * the path before, and closes the descriptor. Throws `internal`.
 */
export function openListener(path: string): number {
  const name = Buffer.from(path);
  // struct sockaddr_un; macOS has a length byte before the family
  const address = Buffer.alloc(2 + name.length + 1);
  if (onLinux) address.writeUInt16LE(AF_UNIX);
  else address.set([address.length, AF_UNIX]);
  name.copy(address, 2);
  const fd = calls().socket(AF_UNIX, SOCK_STREAM_CLOEXEC, 0);
  const mask = process.umask(0o177);
  const failed = fd < 0 || calls().bind(fd, address, address.length) < 0 || calls().listen(fd, BACKLOG) < 0;
  const reason = failed ? errno() : 0;
  process.umask(mask);
  if (!failed) return fd;
  if (fd >= 0) closeSync(fd);
  throw new AnkaError('internal', `cannot listen at ${path} (errno ${reason})`);
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
