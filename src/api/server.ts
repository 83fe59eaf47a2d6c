/** Serves the API on its unix socket: mode 0600, and every peer checked by its credentials (B92). */
import { chmodSync, mkdirSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { getRequestListener } from '@hono/node-server';
import { peerUser } from '../host/ffi/unix-socket.ts';
import type { createApp } from './routes.ts';

/** Listens on `path`. Replaces the socket of a daemon that exited; the caller holds the lock. */
export function serveApi(app: ReturnType<typeof createApp>, path: string): Promise<Server> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o711 });
  rmSync(path, { force: true });
  const server = createServer(getRequestListener(app.fetch, { overrideGlobalObjects: false }));
  server.requestTimeout = 0;
  server.timeout = 0;
  server.keepAliveTimeout = 1000;
  const own = process.getuid?.() ?? 0;
  server.on('connection', (socket: Socket) => {
    const fd = (socket as unknown as { _handle?: { fd: number } })._handle?.fd ?? -1;
    const uid = peerUser(fd);
    if (uid !== own && uid !== 0) socket.destroy();
  });
  const mask = process.umask(0o177);
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      process.umask(mask);
      chmodSync(path, 0o600);
      resolve(server);
    });
  });
}
