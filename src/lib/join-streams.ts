/**
 * A connection joined to somebody's input and output, as `nc` does it: each direction ends by itself.
 * Limits: an input that breaks is an input that ends; who does not read any more ends the connection.
 */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';

/**
 * Resolves when the connection is over. Rejects when the other side broke it; not when either side was only gone while
 * something was on its way to it.
 */
export function joinStreams(socket: Socket, input: Readable, output: Writable): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.on('error', (e: NodeJS.ErrnoException) => {
      if (e.code !== 'EPIPE') reject(e); // 'close' follows
    });
    input.on('error', () => socket.end());
    output.on('error', () => socket.destroy());
    input.pipe(socket);
    socket.pipe(output);
    socket.once('close', () => {
      input.pause();
      resolve();
    });
  });
}
