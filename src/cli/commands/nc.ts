/** `anka nc HOST PORT`: standard input and output connected to a TCP port of a VM, for ssh's ProxyCommand (B14). */
import { fstatSync } from 'node:fs';
import { createConnection, Socket } from 'node:net';
import type { Writable } from 'node:stream';
import type { VmListEntry } from '../../api/types.ts';
import { beginStream } from '../../lib/begin-stream.ts';
import { AnkaError } from '../../lib/errors.ts';
import { integer } from '../arguments.ts';
import { joinStreams } from '../join-streams.ts';
import { reportLost } from '../lost-connection.ts';
import type { Session } from '../session.ts';
import { demandStreamSocket } from '../stream-socket.ts';
import { VmWatch } from '../vm-watch.ts';

/** Until the guest has answered, ms. */
const CONNECT_LIMIT_MS = 20_000;
/** Silence after which the kernel asks whether the guest is still there, ms. */
const KEEP_ALIVE_MS = 15_000;

/** The same words as from a network process. */
const REASONS: Record<string, string> = {
  ECONNREFUSED: 'connection refused',
  EHOSTUNREACH: 'the guest is not reachable',
  ENETUNREACH: 'the network is not reachable',
  ETIMEDOUT: 'the guest does not answer',
  ECONNRESET: 'the guest reset the connection',
};

/** Watches the VM with this name, UUID or IP address; null for an address that no VM has. */
async function findGuest(s: Session, host: string): Promise<VmWatch | null> {
  let ref = host;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {
    const vm = (await (await s.daemon()).get<VmListEntry[]>('/v1/vms')).find((v) => v.ip === host);
    if (!vm) return null;
    ref = vm.uuid;
  }
  const watch = await VmWatch.begin(s, ref);
  if (watch.access.address !== undefined) return watch;
  watch.close();
  throw new AnkaError('vmNotRunning', `${host} has no IP address; start it with 'anka start ${host}', or check it with 'anka show ${host}'`);
}

/** A TCP connection from this host. */
function dial(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: address, port, allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: KEEP_ALIVE_MS });
    const timer = setTimeout(() => socket.destroy(Object.assign(new Error(), { code: 'ETIMEDOUT' })), CONNECT_LIMIT_MS);
    const settled = (): void => clearTimeout(timer);
    socket.once('error', reject).once('close', settled);
    socket.once('connect', () => {
      settled();
      resolve(socket.off('error', reject));
    });
  });
}

/** Standard output; a pipe as a stream of its own, as Node never closes `process.stdout`. */
function standardOutput(): Writable {
  const s = fstatSync(1);
  return s.isFIFO() || s.isSocket() ? new Socket({ fd: 1, readable: false, writable: true }) : process.stdout;
}

export async function nc(s: Session, host: string, port: string): Promise<void> {
  const number = integer('PORT', port, { low: 1, high: 65_535 });
  const watch = await findGuest(s, host);
  try {
    if (watch) demandStreamSocket(host, watch.access);
    const lost = await connectPort(watch, host, number);
    if (lost !== null) s.exit(reportLost(s.out, host, lost));
  } finally {
    watch?.close();
  }
}

/** Connects the standard streams until the connection is closed. Returns why it was lost; null if it was not. */
async function connectPort(watch: VmWatch | null, host: string, port: number): Promise<string | null> {
  const failed = (e: NodeJS.ErrnoException): never => {
    throw new AnkaError('network', `${host} port ${port}: ${REASONS[e.code ?? ''] ?? e.message}`);
  };
  const { uuid, address, stream_socket: streams } = watch?.access ?? {};
  const opened = streams === undefined ? dial(address ?? host, port) : beginStream(streams, { dial: { id: uuid, port } });
  const socket = await opened.catch(failed);
  let lost: string | null = null;
  void watch?.ended.then((why) => {
    lost = why;
    socket.destroy();
  });
  // a network process closes the streams of a VM that has ended as if its guest had
  let checked: Promise<string | null> | undefined;
  if (streams !== undefined) socket.once('end', () => (checked = watch?.check()));
  const output = standardOutput();
  const closeOutput = (): unknown => output !== process.stdout && output.destroy();
  await joinStreams(socket, process.stdin, output, closeOutput).catch(async (e: Error) => {
    lost ??= (await watch?.check()) ?? null;
    if (lost === null) failed(e);
  });
  return lost ?? (await checked) ?? null;
}
