/** The descriptor of a socket or a listening server of node:net, which has no public way to it. */
import type { Server, Socket } from 'node:net';

/** -1 where there is none, e.g. once it is closed. */
export function descriptorOf(socket: Server | Socket): number {
  return (socket as (Server | Socket) & { _handle: { fd?: number } | null })._handle?.fd ?? -1;
}
