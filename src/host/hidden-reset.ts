/**
 * A reset that Node reports as a FIN. Where data and the RST behind it have both arrived when libuv looks at a socket,
 * it reads the data and then reports the end (`uv__stream_io`), so that what was cut off looks complete. The kernel
 * still has the error.
 */
import type { Socket } from 'node:net';
import { getSystemErrorName } from 'node:util';
import { descriptorOf } from './descriptor.ts';
import { takeError } from './ffi/sockets.ts';

/** Calls `ended` at the peer's FIN. A reset destroys the socket instead, with its error, as any other reset does. */
export function onEnd(socket: Socket, ended: () => void): void {
  socket.once('end', () => {
    const error = takeError(descriptorOf(socket));
    if (error === 0) return ended();
    const code = getSystemErrorName(error);
    socket.destroy(Object.assign(new Error(`read ${code}`), { code }));
  });
}
