/**
 * A capture of one NIC: the frames that its network process copies to us, before or after the translation of the MAC
 * address (B93).
 *
 * Theory of operation: the process writes records into a stream (process/config.ts) and drops frames while the stream
 * is full. Here the stream is always read, filtered (net/capture-filter), and kept until `next`. No privileges are
 * needed. The capture ends when the NIC is detached.
 *
 * Limits: 4 MiB are kept, further frames are dropped and counted; frames that the process drops are not counted.
 */
import { compileFilter } from '../../host/packet-ring.ts';
import { beginStream } from '../../lib/begin-stream.ts';
import { AnkaError } from '../../lib/errors.ts';
import { passes } from '../../net/capture-filter.ts';
import type { CapturedFrame } from '../../wire/pcapng.ts';
import type { Capture, CaptureSide, DesiredNic } from '../engine.ts';
import type { StreamRequest } from './process/config.ts';

const KEPT_BYTES = 4 << 20;
const RECORD = { length: 0, time: 4, direction: 12, frame: 13 } as const;
/** Longest frame of a user network (port/port-memory.ts): 64 KiB of IP packet, its Ethernet header, and some room. */
const SNAP_LENGTH = 65_600;

/** Splits the stream's bytes into records, at any chunking. */
export class RecordReader {
  #rest: Buffer = Buffer.alloc(0);

  /** Complete frames, copied. Throws `internal` on an invalid record. */
  read(chunk: Buffer): CapturedFrame[] {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const frames: CapturedFrame[] = [];
    let at = 0;
    while (bytes.length - at >= RECORD.frame) {
      const length = bytes.readUInt32BE(at + RECORD.length);
      if (length > SNAP_LENGTH) throw new AnkaError('internal', `a record of a capture claims ${length} bytes`);
      if (bytes.length - at - RECORD.frame < length) break;
      frames.push({
        time: bytes.readBigUInt64BE(at + RECORD.time) * 1000n,
        outbound: bytes[at + RECORD.direction] === 0,
        data: Uint8Array.prototype.slice.call(bytes, at + RECORD.frame, at + RECORD.frame + length),
        length,
      });
      at += RECORD.frame + length;
    }
    this.#rest = Buffer.from(bytes.subarray(at));
    return frames;
  }
}

/** `path`: the process's stream socket. Throws `network`, or `badValue` or `missingProgram` because of the filter. */
export async function openCapture(path: string, nic: DesiredNic, side: CaptureSide, filter: string): Promise<Capture> {
  const program = filter === '' ? [] : await compileFilter(null, filter);
  const socket = await beginStream(path, { capture: { id: nic.id, side } } satisfies StreamRequest);
  const reader = new RecordReader();
  let kept: CapturedFrame[] = [];
  let bytes = 0;
  let received = 0;
  let dropped = 0;
  let closed = false;
  let wake: () => void = () => {};
  const end = (): void => {
    closed = true;
    wake();
  };
  const framesIn = (chunk: Buffer): CapturedFrame[] => {
    try {
      return reader.read(chunk);
    } catch {
      socket.destroy(); // invalid data ends the capture
      return [];
    }
  };
  socket.on('data', (chunk: Buffer) => {
    for (const f of framesIn(chunk)) {
      if (!passes(program, f.data, f.length)) continue;
      received++;
      if (bytes + f.data.length > KEPT_BYTES) {
        dropped++;
        continue;
      }
      bytes += f.data.length;
      kept.push(f);
    }
    if (kept.length > 0) wake();
  });
  socket.on('error', () => {}); // 'close' follows
  socket.on('end', () => socket.destroy());
  socket.on('close', end);
  socket.resume();
  return {
    description: `${side} of ${nic.vmName}'s card, at its network process`,
    snapLength: SNAP_LENGTH,
    async next() {
      while (kept.length === 0 && !closed)
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      if (kept.length === 0) return null;
      const some = kept;
      kept = [];
      bytes = 0;
      return some;
    },
    counts: () => ({ received, dropped }),
    close() {
      socket.destroy();
      end();
    },
  };
}
