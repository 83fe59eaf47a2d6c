/**
 * Joins a connection to an input and an output, like `nc`: each direction ends on its own.
 *
 * Theory of operation. The end of the input becomes the FIN of the connection, and the peer's FIN the end of the
 * output. A peer that has closed the connection as a whole looks the same as one that only sends no more. So after its
 * FIN the input is passed on only while it has data: a second without any ends the connection, as socat(1) does.
 *
 * Limits: an error of the input counts as its end; an error of the output closes the connection.
 */
import type { Socket } from 'node:net';
import type { Readable, Writable } from 'node:stream';
import { onEnd } from '../host/hidden-reset.ts';

/** Silence of the input after the peer's FIN, ms. */
const IDLE_MS = 1000;

/**
 * Resolves when the connection is closed. Rejects when the peer resets it, but not when it closed while data was still
 * being sent to it. `closeOutput`: called when the peer's last byte has been written.
 */
export function joinStreams(socket: Socket, input: Readable, output: Writable, closeOutput: () => void = () => void output.end()): Promise<void> {
  return new Promise((resolve, reject) => {
    let peerEnded = false;
    let idle: NodeJS.Timeout | undefined;
    socket.on('error', (e: NodeJS.ErrnoException) => {
      if (e.code !== 'EPIPE' && !peerEnded) reject(e); // 'close' follows
    });
    input.on('error', () => socket.end());
    output.on('error', () => socket.destroy());
    input.pipe(socket);
    socket.pipe(output, { end: false });
    onEnd(socket, () => {
      peerEnded = true;
      output.write('', closeOutput);
      idle = setTimeout(() => socket.destroy(), IDLE_MS);
      input.on('data', () => idle?.refresh());
    });
    socket.once('close', () => {
      clearTimeout(idle);
      input.pause();
      resolve();
    });
  });
}
