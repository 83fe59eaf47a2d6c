/**
 * A reset that Node reports as a FIN. Where data and the RST behind it have both arrived when libuv looks at a socket,
 * it reads the data and then reports the end (`uv__stream_io`), so that what was cut off looks complete. The kernel
 * still has the error.
 */
import type { Socket } from 'node:net';
import { takeError } from './ffi/sockets.ts';

/** To be called at 'end', in the first listener: the error's name, e.g. ECONNRESET; null if the peer has sent FIN. */
export function takeHiddenReset(socket: Socket): string | null {
  // node:net has no public way to the descriptor
  return takeError((socket as Socket & { _handle: { fd?: number } | null })._handle?.fd ?? -1);
}
