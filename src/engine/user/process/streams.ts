/**
 * Streams into a network process: connections to guests' ports (`anka nc`, `anka ssh`), and captures (config.ts).
 *
 * Theory of operation: the first line is a request, which is answered by a line. A dialled stream then belongs to the
 * TCP path. A capture's frames are written as records; frames are dropped while its reader is behind by more than 4
 * MiB. Limits: a first line of at most 4 KiB, within ten seconds; dropped frames of a capture are not reported.
 */
import type { Socket } from 'node:net';
import type { TcpRefusal } from '../../../net/tcp/interface.ts';
import type { FrameTap } from '../port/port.ts';
import type { StreamAnswer, StreamRequest } from './config.ts';
import type { UserNetwork } from './network.ts';

/** Messages for refusals. */
const REFUSALS: Record<TcpRefusal['kind'], string> = {
  refused: 'connection refused',
  timeout: 'the guest does not answer',
  'host-unreachable': 'the guest is not reachable',
  'net-unreachable': 'the network is not reachable',
  prohibited: 'too many connections to this VM',
};
const MAX_LINE = 4096;
const FIRST_LINE_MS = 10_000;
const MAX_BEHIND = 4 << 20;
const RECORD_HEADER = 13;

/** Serves one connection, accepted paused. */
export function serveStream(socket: Socket, network: () => UserNetwork | null): void {
  const timer = setTimeout(() => socket.destroy(), FIRST_LINE_MS);
  let head = Buffer.alloc(0);
  socket.on('error', () => {}); // 'close' follows
  socket.on('close', () => clearTimeout(timer));
  const onData = (chunk: Buffer): void => {
    head = Buffer.concat([head, chunk]);
    const end = head.indexOf(10);
    if (end < 0) {
      if (head.length > MAX_LINE) socket.destroy();
      return;
    }
    clearTimeout(timer);
    socket.off('data', onData);
    socket.pause();
    const rest = head.subarray(end + 1);
    if (rest.length > 0) socket.unshift(rest);
    const error = attempt(() => serveRequest(socket, head.subarray(0, end).toString(), network()));
    if (error !== null) socket.end(line({ error }));
  };
  socket.on('data', onData);
  socket.resume();
}

/** A request may have values of any type. */
function attempt(serve: () => string | null): string | null {
  try {
    return serve();
  } catch (cause) {
    return (cause as Error).message;
  }
}

const line = (answer: StreamAnswer): string => `${JSON.stringify(answer)}\n`;

/** Carries out the request. Returns an error message, or null. */
function serveRequest(socket: Socket, text: string, network: UserNetwork | null): string | null {
  let request: StreamRequest;
  try {
    request = Object(JSON.parse(text)) as StreamRequest;
  } catch {
    return 'the first line is not JSON';
  }
  if (!network) return 'the network is not configured';
  if ('dial' in request && request.dial) {
    const { id, ip, port } = request.dial;
    const answer = (why: TcpRefusal | null): void => void socket.write(line(why === null ? { ok: true } : { error: REFUSALS[why.kind] }));
    return network.dial({ id, ip, tcpPort: port }, socket, answer) ? null : 'the VM is not on this network, or has no address yet';
  }
  if (!('capture' in request && request.capture)) return 'the request is neither dial nor capture';
  const port = network.port(request.capture.id);
  if (!port) return 'this network has no such network card';
  const taps = port.taps[request.capture.side];
  if (!(taps instanceof Set)) return 'side must be inside or outside';
  socket.write(line({ ok: true }));
  const tap: FrameTap = (frame, toGuest) => {
    if (socket.writableLength > MAX_BEHIND) return;
    const record = Buffer.allocUnsafe(RECORD_HEADER + frame.length);
    record.writeUInt32BE(frame.length, 0);
    record.writeBigUInt64BE(BigInt(Math.round((performance.timeOrigin + performance.now()) * 1000)), 4);
    record[12] = toGuest ? 1 : 0;
    record.set(frame, RECORD_HEADER);
    socket.write(record);
  };
  taps.add(tap);
  const end = (): void => {
    taps.delete(tap);
    port.onClosed.delete(end);
    socket.end();
  };
  port.onClosed.add(end);
  socket.on('close', end);
  socket.on('end', end);
  socket.resume();
  return null;
}
