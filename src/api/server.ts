/** Serves the API on its unix socket: mode 0600, and every peer checked by its credentials (B92). */
import { chmodSync, lstatSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { getRequestListener } from '@hono/node-server';
import { isOwnPeer } from '../host/ffi/unix-socket.ts';
import type { createApp } from './routes.ts';

/**
 * Whether the client still waits. While this process was stopped, the client may have reported that its command failed:
 * then nothing may be changed any more. The end of a connection is read a turn after its data.
 */
async function isAwaited(request: IncomingMessage): Promise<boolean> {
  await nextTurn();
  await nextTurn();
  return !request.destroyed && !request.socket.destroyed && !request.socket.readableEnded;
}

export class ApiServer {
  readonly #answer: ReturnType<typeof getRequestListener>;
  readonly #path: string;
  #server: Server | null = null;
  /** Device and inode of the socket's file. */
  #file = '';
  readonly #onError: (error: Error) => void;

  /** `onError`: a client could not be accepted. */
  constructor(app: ReturnType<typeof createApp>, path: string, onError: (error: Error) => void) {
    this.#answer = getRequestListener(app.fetch, { overrideGlobalObjects: false });
    this.#path = path;
    this.#onError = onError;
  }

  /**
   * Listens, also again: connections of before continue. Replaces the socket of a daemon that exited; the caller holds
   * the lock.
   */
  async listen(): Promise<void> {
    this.#server?.close(); // removes what is at the path, so before the new socket is there
    mkdirSync(dirname(this.#path), { recursive: true, mode: 0o711 });
    rmSync(this.#path, { force: true });
    this.#server = await listenAt(this.#create(), this.#path, this.#onError);
    this.#file = fileAt(this.#path);
  }

  /** False when the socket's file was removed or replaced: no client finds it. */
  get isInPlace(): boolean {
    return this.#file !== '' && fileAt(this.#path) === this.#file;
  }

  #create(): Server {
    const server = createServer(async (request, response) => {
      if (await isAwaited(request)) await this.#answer(request, response);
    });
    server.requestTimeout = 0;
    server.timeout = 0;
    server.keepAliveTimeout = 1000;
    server.on('connection', (socket: Socket) => {
      if (!isOwnPeer(socket)) socket.destroy();
    });
    return server;
  }
}

function fileAt(path: string): string {
  const there = lstatSync(path, { throwIfNoEntry: false });
  return there ? `${there.dev} ${there.ino}` : '';
}

function listenAt(server: Server, path: string, onError: (error: Error) => void): Promise<Server> {
  const mask = process.umask(0o177);
  return new Promise((resolve, reject) => {
    server.on('error', (e) => {
      reject(e); // without effect once it listens
      onError(e);
    });
    server.listen(path, () => {
      chmodSync(path, 0o600);
      resolve(server);
    });
    process.umask(mask); // the socket's file is created in the call
  });
}
