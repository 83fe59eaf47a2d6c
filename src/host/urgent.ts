/** Urgent data of node:net's sockets, whose last byte the kernel would take out of the stream (RFC 6093 6). */
import type { Server, Socket } from 'node:net';
import { inlineUrgent } from './ffi/sockets.ts';

/** For a listening server: holds for all of its clients. For a socket: once it is connected. */
export function keepUrgentInline(socket: Server | Socket): void {
  // node:net has no public way to the descriptor
  inlineUrgent((socket as (Server | Socket) & { _handle: { fd?: number } | null })._handle?.fd ?? -1);
}
