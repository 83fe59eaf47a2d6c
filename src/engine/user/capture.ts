/**
 * A capture of one card: the frames that its network process copies to us, before or after the translation of the MAC
 * address (B93).
 *
 * Theory of operation: the process writes records into a stream (config.ts) and drops what that does not take; here the
 * stream is always read, filtered (net/bpf), and kept until `next` asks. No rights are needed for any of it. Limits: 4
 * MiB are kept, what comes above that is dropped and counted; what the process itself drops is not counted. It ends
 * when the card is unplugged.
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
/** No frame of a user network is longer (port.ts): 64 KiB of IP packet, its Ethernet header, and a little room. */
const SNAP_LENGTH = 65_600;

/** Splits the stream's bytes into records, however they are cut. */
export class RecordReader {
  #rest: Buffer = Buffer.alloc(0);

  /** Frames that are whole now; copied. Throws `internal` on what is no record. */
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

/**
 * Begins a capture at the process whose stream socket this is. Throws `network`, or `badValue` or `missingProgram`
 * because of the filter.
 */
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
      socket.destroy(); // a process that is not whole; the capture ends
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
