/**
 * Joins a connection to an input and an output, like `nc`: each direction ends on its own. Limits: an error of the
 * input counts as its end; an error of the output closes the connection.
 */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';

/**
 * Resolves when the connection is closed. Rejects when the peer resets it, but not when it closed while data was still
 * being sent to it.
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
