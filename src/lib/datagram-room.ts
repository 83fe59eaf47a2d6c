/**
 * Sends by datagram sockets, whatever the peer and the kernel do. The send queue is bounded: the kernel accepts no more
 * than the host's link takes, and Node queues the rest without a limit.
 */
import type { Socket } from 'node:dgram';

/** Bytes that Node may queue for one socket; the kernel's own buffer is about 200 KiB. */
const MAX_WAITING = 16 << 10;

/** Whether an open socket accepts another datagram; if not, drop it, as a router does. */
export function takesDatagrams(socket: Socket): boolean {
  return socket.getSendQueueSize() < MAX_WAITING;
}

/**
 * Sends a datagram; returns false when it was dropped. Never throws, as Node does for port 0 and for a closed socket.
 * Port 0 is reserved (RFC 6335, 6): a peer that uses it as its source expects no answer (RFC 768).
 */
export function sendDatagram(socket: Socket, bytes: Uint8Array, port: number, address: string, onError: (error: Error) => void = () => {}): boolean {
  if (port === 0) return false;
  try {
    socket.send(bytes, port, address, (error) => {
      if (error) onError(error);
    });
    return true;
  } catch (cause) {
    onError(cause as Error);
    return false;
  }
}
