/**
 * A bound for what waits to be sent by a datagram socket: the kernel takes no more than the host's link does, and Node
 * keeps any number of what it did not take.
 */
import type { Socket } from 'node:dgram';

/** Bytes that may wait in Node for one socket; the kernel's own buffer is some 200 KiB. */
const MAX_WAITING = 16 << 10;

/** Whether it takes another one; if not, that is to be dropped, as a router does. The socket is open. */
export function takesDatagrams(socket: Socket): boolean {
  return socket.getSendQueueSize() < MAX_WAITING;
}
