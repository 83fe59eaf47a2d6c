/** Socket options, and datagram sockets with an error queue, on descriptors that Node does not give these calls for. */
import { declareOnce, errno, onLinux } from './koffi.ts';
import { declareMessage, type Message, message } from './message.ts';

const SOL_SOCKET = 1;
const SO_ERROR = 4;
const SO_SNDBUF = 7;
const SO_RCVBUF = 8;
const SO_KEEPALIVE = 9;
const SO_OOBINLINE = 10;
const SO_SNDBUFFORCE = 32;
const SO_BUF_LOCK = 72;
/** SO_BUF_LOCK: the kernel keeps the size of the receive buffer. */
const SOCK_RCVBUF_LOCK = 2;
const MACOS_SOL_SOCKET = 0xffff;
const MACOS_SO_ERROR = 0x1007;
const MACOS_SO_KEEPALIVE = 8;
const MACOS_SO_OOBINLINE = 0x100;
const IPPROTO_IP = 0;
const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const TCP_KEEPCNT = 6;
const TCP_INFO = 11;
const TCP_NOTSENT_LOWAT = 25;
/** The most that Linux allows. */
const MAX_KEEPCNT = 127;
const AF_INET = 2;
const SOCK_DGRAM_CLOEXEC_NONBLOCK = 0x80802;
/** linux/netfilter_ipv4.h */
const SO_ORIGINAL_DST = 80;
const MSG_ERRQUEUE_DONTWAIT = 0x2040;

interface SocketCalls {
  socket(domain: number, type: number, protocol: number): number;
  getsockopt(fd: number, level: number, name: number, value: Uint8Array, length: Uint32Array): number;
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, length: number): number;
  recvmsg(fd: number, message: Message, flags: number): number;
}

const calls = declareOnce(({ func }): SocketCalls => {
  declareMessage();
  return {
    socket: func('int socket(int, int, int)'),
    getsockopt: func('int getsockopt(int, int, int, _Out_ uint8_t *, _Inout_ uint32_t *)'),
    setsockopt: func('int setsockopt(int, int, int, uint8_t *, uint32_t)'),
    recvmsg: func('long recvmsg(int, anka_msghdr *, int)'),
  };
});

/** Reused, as options are set for each connection. */
const optionValue = Buffer.alloc(4);
const optionLength = Uint32Array.of(4);

/** Sets an option whose value is an `int`; false if the kernel refuses. */
export function setIntOption(fd: number, level: number, name: number, value: number): boolean {
  optionValue.writeInt32LE(value);
  return calls().setsockopt(fd, level, name, optionValue, optionValue.length) === 0;
}

/** Value of an option that is an `int`; 0 if unknown. */
function intOption(fd: number, level: number, name: number): number {
  optionLength[0] = optionValue.length;
  return calls().getsockopt(fd, level, name, optionValue, optionLength) === 0 ? optionValue.readInt32LE(0) : 0;
}

/** Switches TCP keepalive on, at the host's intervals (on Linux `net.ipv4.tcp_keepalive_…`). */
export function keepAlive(fd: number): void {
  if (fd < 0) return;
  if (onLinux) setIntOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  else setIntOption(fd, MACOS_SOL_SOCKET, MACOS_SO_KEEPALIVE, 1);
}

/**
 * Leaves urgent data in a TCP socket's stream (RFC 6093 6), where the kernel would take its last byte out. Accepted
 * sockets inherit it from their listener.
 */
export function inlineUrgent(fd: number): void {
  if (fd < 0) return;
  if (onLinux) setIntOption(fd, SOL_SOCKET, SO_OOBINLINE, 1);
  else setIntOption(fd, MACOS_SOL_SOCKET, MACOS_SO_OOBINLINE, 1);
}

/** Takes a socket's pending error out of the kernel: a negative number, as libuv's; 0 if there is none. */
export function takeError(fd: number): number {
  if (fd < 0) return 0;
  return -(onLinux ? intOption(fd, SOL_SOCKET, SO_ERROR) : intOption(fd, MACOS_SOL_SOCKET, MACOS_SO_ERROR));
}

/**
 * Where the client of an accepted IPv4 TCP socket connected to, before connection tracking translated it. Null if the
 * connection is not tracked. Linux only.
 */
export function originalDestination(fd: number): { ip: number; port: number } | null {
  if (!onLinux || fd < 0) return null;
  const name = Buffer.alloc(16); // struct sockaddr_in
  if (calls().getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, name, Uint32Array.of(name.length)) !== 0) return null;
  return { ip: name.readUInt32BE(4), port: name.readUInt16BE(2) };
}

/** Offsets in `struct tcp_info` (linux/tcp.h). */
const INFO = { probes: 3, unacked: 24, lastDataReceived: 52, lastAckReceived: 56, roundTrip: 68, notSent: 144 } as const;
const info = Buffer.alloc(148);
const infoLength = Uint32Array.of(0);

/** What the kernel knows of the other end of a connected TCP socket. */
export interface PeerActivity {
  /** ms since anything was received, in ticks of up to 10 ms. */
  idle: number;
  /** Smoothed round trip, ms. */
  roundTrip: number;
  /** The peer's window is closed, and it has answered all but at most one question whether it still is. */
  windowClosed: boolean;
}

const activity: PeerActivity = { idle: 0, roundTrip: 0, windowClosed: false };

/** Null if the kernel does not say, e.g. for a socket that is not TCP. The object is reused by the next call. */
export function peerActivity(fd: number): PeerActivity | null {
  if (!onLinux || fd < 0) return null;
  infoLength[0] = info.length;
  if (calls().getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, infoLength) !== 0 || infoLength[0] < info.length) return null;
  activity.idle = Math.min(info.readUInt32LE(INFO.lastDataReceived), info.readUInt32LE(INFO.lastAckReceived));
  activity.roundTrip = info.readUInt32LE(INFO.roundTrip) / 1000;
  activity.windowClosed = info.readUInt32LE(INFO.unacked) === 0 && info.readUInt32LE(INFO.notSent) > 0 && info[INFO.probes]! <= 1;
  return activity;
}

/**
 * Has the kernel send a keep-alive as soon as the socket is idle for a second, and then every 75 s. It does not give up
 * before the 127th. Returns the idle time that was set before, in seconds; 0 if unknown. Linux only.
 */
export function probeSoon(fd: number): number {
  if (!onLinux || fd < 0) return 0;
  const before = intOption(fd, IPPROTO_TCP, TCP_KEEPIDLE);
  setIntOption(fd, IPPROTO_TCP, TCP_KEEPCNT, MAX_KEEPCNT);
  setIntOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  setIntOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  return before;
}

/** Sets how long a socket is idle before the kernel's first keep-alive, in seconds. Linux only. */
export function probeAfter(fd: number, seconds: number): void {
  if (onLinux && fd >= 0 && seconds > 0) setIntOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds);
}

/** Limits the bytes of a TCP socket that the kernel holds unsent; bytes in flight do not count. Linux only. */
export function limitUnsent(fd: number, bytes: number): void {
  if (onLinux && fd >= 0) setIntOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, bytes);
}

/** Current size of a socket's receive buffer in bytes, as the kernel counts it; 0 if unknown. Linux only. */
export function receiveBuffer(fd: number): number {
  return onLinux && fd >= 0 ? intOption(fd, SOL_SOCKET, SO_RCVBUF) : 0;
}

/**
 * Sets a TCP socket's receive buffer to `bytes`, as the kernel counts them, or to the limit of an unprivileged user.
 * The kernel no longer tunes it. Linux only.
 */
export function enlargeReceiveBuffer(fd: number, bytes: number): void {
  // the kernel doubles the value
  if (onLinux && fd >= 0) setIntOption(fd, SOL_SOCKET, SO_RCVBUF, bytes / 2);
}

/** Fixes the size of a TCP socket's receive buffer, or lets the kernel tune it again. Linux 5.14 and later. */
export function holdReceiveBuffer(fd: number, on: boolean): void {
  if (onLinux && fd >= 0) setIntOption(fd, SOL_SOCKET, SO_BUF_LOCK, on ? SOCK_RCVBUF_LOCK : 0);
}

/**
 * Sets a stream's send buffer to `bytes`, or to the limit of an unprivileged user. The kernel doubles the value, and
 * charges small writes with more than their size. Linux only.
 */
export function setSendBuffer(fd: number, bytes: number): void {
  if (!onLinux || fd < 0) return;
  if (!setIntOption(fd, SOL_SOCKET, SO_SNDBUFFORCE, bytes)) setIntOption(fd, SOL_SOCKET, SO_SNDBUF, bytes);
}

/** A non-blocking IPv4 datagram socket, or errno. The caller closes it. */
export function openDatagram(protocol: number): { fd: number } | { errno: number } {
  const fd = calls().socket(AF_INET, SOCK_DGRAM_CLOEXEC_NONBLOCK, protocol);
  return fd >= 0 ? { fd } : { errno: errno() };
}

/**
 * Takes the next message of a socket's error queue (ip(7), IP_RECVERR): bytes of the payload, or -1 if the queue is
 * empty. Bytes of the buffers past the message are left as they are.
 */
export function receiveError(fd: number, name: Buffer, payload: Buffer, control: Buffer): number {
  return calls().recvmsg(fd, message(name, payload, control), MSG_ERRQUEUE_DONTWAIT);
}
