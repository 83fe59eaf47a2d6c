/**
 * Listens for clients, with bounds: connections, headers, and the time that a request may take to arrive.
 *
 * Limits: a client that is slower than that gets status 408, and one that sends no HTTP gets 400.
 */
import { createServer, type Server, type ServerOptions } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { AnkaError } from '../../lib/errors.ts';
import type { ListenAddress } from '../options.ts';
import { failure } from './router.ts';
import type { createApp } from './routes.ts';

const MAX_CONNECTIONS = 256;
const MAX_HEADERS = 64;
const MAX_HEADER_BYTES = 16 << 10;
/** Time for the headers, and for a whole request, ms. */
const HEADERS_MS = 10_000;
const REQUEST_MS = 30_000;
/** How long an idle connection is kept, ms: longer than clients poll. */
const IDLE_MS = 65_000;
/** How often these times are looked at, ms. */
const LOOK_MS = 1000;

export interface Tls {
  cert: string;
  key: string;
  /** Of client certificates. */
  ca?: string;
}

/** Resolves once it listens, with the port. Throws `portTaken` or `badValue`. */
export async function listen(app: ReturnType<typeof createApp>, at: ListenAddress, tls: Tls | null): Promise<{ server: Server; port: number }> {
  const answer = getRequestListener(app.fetch, { overrideGlobalObjects: false });
  const options: ServerOptions = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: HEADERS_MS,
    requestTimeout: REQUEST_MS,
    keepAliveTimeout: IDLE_MS,
    connectionsCheckingInterval: LOOK_MS,
  };
  const server = tls === null ? createServer(options, answer) : createTls(options, tls, answer);
  server.maxHeadersCount = MAX_HEADERS;
  server.maxConnections = MAX_CONNECTIONS;
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => refuse(error.code ?? '', socket));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => reject(listenError(cause, at)));
    server.listen({ host: at.host, port: at.port }, resolve);
  });
  return { server, port: (server.address() as AddressInfo).port };
}

function createTls(options: ServerOptions, { cert, key, ca }: Tls, answer: ReturnType<typeof getRequestListener>): Server {
  try {
    return createTlsServer({ ...options, cert, key, ...(ca === undefined ? {} : { ca, requestCert: true, rejectUnauthorized: false }) }, answer);
  } catch (cause) {
    throw new AnkaError('badValue', `--cert and --key: ${(cause as Error).message}`, { cause });
  }
}

function listenError(cause: NodeJS.ErrnoException, { host, port }: ListenAddress): AnkaError {
  const at = `--listen ${host}:${port}`;
  if (cause.code === 'EADDRINUSE') return new AnkaError('portTaken', `${at}: another program uses this port; choose another one`);
  if (cause.code === 'EADDRNOTAVAIL') return new AnkaError('badValue', `${at}: this host has no such address`);
  if (cause.code === 'EACCES') return new AnkaError('noRights', `${at}: only root may use ports below 1024; choose another one`);
  return new AnkaError('internal', `${at}: ${cause.message}`, { cause });
}

const REASONS: Record<string, [status: string, message: string]> = {
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'the request took too long to arrive'],
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', `the headers have more than ${MAX_HEADER_BYTES} bytes`],
};

/** Answers what is no request, and closes the connection. */
function refuse(code: string, socket: Socket): void {
  if (!socket.writable) return void socket.destroy();
  const [status, message] = REASONS[code] ?? ['400 Bad Request', 'this is not HTTP'];
  const body = JSON.stringify(failure(message));
  socket.end(`HTTP/1.1 ${status}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`, () =>
    socket.destroy(),
  );
}
