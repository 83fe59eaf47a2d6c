/**
 * Bounds the send queue of a datagram socket: the kernel accepts no more than the host's link takes, and Node queues
 * the rest without a limit.
 */
import type { Socket } from 'node:dgram';

/** Bytes that Node may queue for one socket; the kernel's own buffer is about 200 KiB. */
const MAX_WAITING = 16 << 10;

/** Whether an open socket accepts another datagram; if not, drop it, as a router does. */
export function takesDatagrams(socket: Socket): boolean {
  return socket.getSendQueueSize() < MAX_WAITING;
}
