/**
 * Datagrams with the local address that each was sent to (IP_PKTINFO in ip(7), IPV6_PKTINFO in ipv6(7)), and the signal
 * that announces them (signal-io.ts). Linux only.
 *
 * Theory of operation: struct msghdr, the iovec, addresses and payload lie in one block of native memory, written once.
 * So a call converts nothing, and costs about as much as the system call. All sockets share the block: results are
 * valid until the next call.
 */
import { closeSync } from 'node:fs';
import { declareOnce, errno } from './koffi.ts';
import { announceBySignal } from './signal-io.ts';

const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_DGRAM_CLOEXEC_NONBLOCK = 0x80802;
const IPPROTO_IP = 0;
const IPPROTO_IPV6 = 41;
const IP_PKTINFO = 8;
const IPV6_V6ONLY = 26;
const IPV6_RECVPKTINFO = 49;
const IPV6_PKTINFO = 50;
const EMSGSIZE = 90;
/** The socket's buffer is full. */
export const EAGAIN = 11;

/** Offsets in the block: struct msghdr, struct iovec, struct sockaddr_in or _in6, control messages, payload. */
const MESSAGE = 0;
const VECTOR = 64;
const NAME = 96;
const CONTROL = 128;
const PAYLOAD = 512;
const NAME_SIZE = 28;
const CONTROL_SIZE = PAYLOAD - CONTROL;
/** No datagram is larger. */
const PAYLOAD_SIZE = 65_536;
/** Fields of struct msghdr, struct iovec and struct cmsghdr. */
const HEADER = { name: 0, nameLength: 8, vectors: 16, vectorCount: 24, control: 32, controlLength: 40 } as const;
const BASE = 0;
const LENGTH = 8;
const CMSG = { length: 0, level: 8, type: 12, size: 16 } as const;
/** Fields of struct in_pktinfo: interface, the local address to answer from, the destination. */
const INFO4 = { interface: 0, local: 4, size: 12 } as const;
/** Fields of struct in6_pktinfo: address at 0, interface. */
const INFO6 = { interface: 16, size: 20 } as const;

interface DatagramCalls {
  socket(domain: number, type: number, protocol: number): number;
  bind(fd: number, address: Uint8Array, length: number): number;
  setsockopt(fd: number, level: number, name: number, value: Uint8Array, length: number): number;
  recvmsg(fd: number, message: unknown, flags: number): number;
  sendmsg(fd: number, message: unknown, flags: number): number;
  message: unknown;
  base: bigint;
  bytes: Buffer;
}

const calls = declareOnce(({ koffi, func }): DatagramCalls => {
  const size = PAYLOAD + PAYLOAD_SIZE;
  const block: unknown = koffi.alloc('uint8_t', size);
  const base = koffi.address(block);
  const bytes = Buffer.from(koffi.view(block, size));
  bytes.fill(0, 0, PAYLOAD);
  bytes.writeBigUInt64LE(base + BigInt(NAME), MESSAGE + HEADER.name);
  bytes.writeBigUInt64LE(base + BigInt(VECTOR), MESSAGE + HEADER.vectors);
  bytes.writeBigUInt64LE(1n, MESSAGE + HEADER.vectorCount);
  bytes.writeBigUInt64LE(base + BigInt(CONTROL), MESSAGE + HEADER.control);
  bytes.writeBigUInt64LE(base + BigInt(PAYLOAD), VECTOR + BASE);
  return {
    socket: func('int socket(int, int, int)'),
    bind: func('int bind(int, uint8_t *, uint32_t)'),
    setsockopt: func('int setsockopt(int, int, int, uint8_t *, uint32_t)'),
    recvmsg: func('long recvmsg(int, void *, int)'),
    sendmsg: func('long sendmsg(int, void *, int)'),
    message: block,
    base,
    bytes,
  };
});

/**
 * A non-blocking UDP socket on `port` of every address of a family, or errno. SIGIO is raised for each datagram:
 * install a handler before. The caller closes it.
 */
export function openOnAllAddresses(isIpv6: boolean, port: number): { fd: number } | { errno: number } {
  const c = calls();
  const fd = c.socket(isIpv6 ? AF_INET6 : AF_INET, SOCK_DGRAM_CLOEXEC_NONBLOCK, 0);
  if (fd < 0) return { errno: errno() };
  const on = Buffer.from([1, 0, 0, 0]);
  const address = Buffer.alloc(isIpv6 ? NAME_SIZE : 16);
  address.writeUInt16LE(isIpv6 ? AF_INET6 : AF_INET, 0);
  address.writeUInt16BE(port, 2);
  const ready =
    (isIpv6
      ? c.setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, on, 4) === 0 && c.setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, on, 4) === 0
      : c.setsockopt(fd, IPPROTO_IP, IP_PKTINFO, on, 4) === 0) &&
    announceBySignal(fd) &&
    c.bind(fd, address, address.length) === 0;
  if (ready) return { fd };
  const error = errno();
  closeSync(fd);
  return { errno: error };
}

/** A received datagram; all of it is valid until the next call. */
export interface ReceivedDatagram {
  /** struct sockaddr_in or sockaddr_in6 of its sender. */
  name: Buffer;
  /** The control message that makes an answer leave from the address that was asked. */
  from: Buffer;
  payload: Buffer;
}

/** Takes the next datagram; null when there is none. */
export function receiveDatagram(fd: number): ReceivedDatagram | null {
  const { bytes, message, recvmsg } = calls();
  bytes.writeUInt32LE(NAME_SIZE, MESSAGE + HEADER.nameLength);
  bytes.writeBigUInt64LE(BigInt(CONTROL_SIZE), MESSAGE + HEADER.controlLength);
  bytes.writeBigUInt64LE(BigInt(PAYLOAD_SIZE), VECTOR + LENGTH);
  const length = recvmsg(fd, message, 0);
  if (length < 0) return null;
  const control = CONTROL + Number(bytes.readBigUInt64LE(MESSAGE + HEADER.controlLength));
  return {
    name: bytes.subarray(NAME, NAME + bytes.readUInt32LE(MESSAGE + HEADER.nameLength)),
    from: answerFrom(bytes, control),
    payload: bytes.subarray(PAYLOAD, PAYLOAD + length),
  };
}

/** Turns the control message about a datagram into one for its answer; empty if the kernel added none. */
function answerFrom(bytes: Buffer, end: number): Buffer {
  for (let at = CONTROL; at + CMSG.size <= end; ) {
    const length = Number(bytes.readBigUInt64LE(at + CMSG.length));
    if (length < CMSG.size || at + length > end) break;
    const level = bytes.readInt32LE(at + CMSG.level);
    const type = bytes.readInt32LE(at + CMSG.type);
    const info = at + CMSG.size;
    const whole = bytes.subarray(at, at + ((length + 7) & ~7));
    if (level === IPPROTO_IP && type === IP_PKTINFO && length === CMSG.size + INFO4.size) {
      // the route decides on the interface; the destination is no field of an answer
      bytes.writeInt32LE(0, info + INFO4.interface);
      bytes.fill(0, info + INFO4.local + 4, info + INFO4.size);
      return whole;
    }
    if (level === IPPROTO_IPV6 && type === IPV6_PKTINFO && length === CMSG.size + INFO6.size) {
      // no answer leaves from a group; only a link-local address needs its interface
      if (bytes[info] === 0xff) bytes.fill(0, info, info + INFO6.interface);
      if (bytes[info] !== 0xfe) bytes.writeInt32LE(0, info + INFO6.interface);
      return whole;
    }
    at += (length + 7) & ~7;
  }
  return bytes.subarray(CONTROL, CONTROL);
}

/**
 * Sends a datagram to `name` with the control message `from` of one that was received. Returns 0, or errno if it was
 * dropped.
 */
export function sendDatagramFrom(fd: number, payload: Uint8Array, name: Uint8Array, from: Uint8Array): number {
  const { bytes, message, sendmsg } = calls();
  if (payload.length > PAYLOAD_SIZE) return EMSGSIZE;
  bytes.set(name, NAME);
  bytes.set(from, CONTROL);
  bytes.set(payload, PAYLOAD);
  bytes.writeUInt32LE(name.length, MESSAGE + HEADER.nameLength);
  bytes.writeBigUInt64LE(BigInt(from.length), MESSAGE + HEADER.controlLength);
  bytes.writeBigUInt64LE(BigInt(payload.length), VECTOR + LENGTH);
  return sendmsg(fd, message, 0) >= 0 ? 0 : errno();
}
