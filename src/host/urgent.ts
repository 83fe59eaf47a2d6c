/** Urgent data of node:net's sockets, whose last byte the kernel would take out of the stream (RFC 6093 6). */
import type { Server, Socket } from 'node:net';
import { descriptorOf } from './descriptor.ts';
import { inlineUrgent } from './ffi/sockets.ts';

/** For a listening server: holds for all of its clients. For a socket: once it is connected. */
export function keepUrgentInline(socket: Server | Socket): void {
  inlineUrgent(descriptorOf(socket));
}
