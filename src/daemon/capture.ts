/**
 * Captures as bytes: what an engine sees of a card, as a pcapng file (B93).
 *
 * Theory of operation: `bytes` is pulled by the client's connection; while it is not, the engine drops and counts.
 * `end` lets the rest of the blocks and the statistics follow, so that the file is whole. One that ends by itself, with
 * its card, can be asked for its counts afterwards. Limits: 16 captures at a time; the counts of the last 16 are kept.
 */
import { randomUUID } from 'node:crypto';
import type { CaptureStream } from '../api/service.ts';
import type { CaptureEnd } from '../api/types.ts';
import type { Capture, CaptureSide } from '../engine/engine.ts';
import { AnkaError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import type { VmRow } from '../store/vms.ts';
import { enhancedPacket, interfaceDescription, interfaceStatistics, sectionHeader } from '../wire/pcapng.ts';
import type { Context } from './context.ts';

const LIMIT = 16;

interface Running {
  end(): Promise<CaptureEnd>;
}

const nanoseconds = (): bigint => BigInt(Date.now()) * 1_000_000n;

export class Captures {
  #running = new Map<string, Running>();
  /** What the last ones caught. */
  #over = new Map<string, CaptureEnd>();

  /** Begins one. */
  async begin(ctx: Context, vm: VmRow, side: CaptureSide, filter: string): Promise<CaptureStream> {
    if (!ctx.machines.has(vm.uuid)) throw new AnkaError('vmNotRunning', `${vm.name} is ${vm.status}; 'anka start ${vm.name}' starts it`);
    if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card; 'anka modify ${vm.name} add network-card' brings one`);
    if (this.#running.size >= LIMIT) throw new AnkaError('badState', `${LIMIT} captures run already; end one of them first`);
    const engine = await ctx.engine();
    if (!engine.capture) throw new AnkaError('network', `the ${engine.name} engine cannot capture`);
    const capture = await engine.capture(vm.uuid, side, filter);
    const id = randomUUID();
    let tell: (end: CaptureEnd) => void = () => {};
    const ended = new Promise<CaptureEnd>((resolve) => {
      tell = resolve;
    });
    this.#running.set(id, {
      end: () => {
        capture.close();
        return ended;
      },
    });
    const finish = (end: CaptureEnd): void => {
      this.#running.delete(id);
      this.#over.set(id, end);
      if (this.#over.size > LIMIT) this.#over.delete(this.#over.keys().next().value as string);
      tell(end);
    };
    return { id, bytes: pcapng(capture, vm.name, filter, finish), abort: () => capture.close() };
  }

  /** Ends one; tells what it caught once its last block is written. */
  async end(id: string): Promise<CaptureEnd> {
    const end = (await this.#running.get(id)?.end()) ?? this.#over.get(id);
    if (!end) throw new AnkaError('badState', `no capture ${id} runs`);
    return end;
  }
}

/** The blocks of a capture, some frames at a time. */
async function* pcapng(capture: Capture, name: string, filter: string, finish: (end: CaptureEnd) => void): AsyncGenerator<Uint8Array> {
  const start = nanoseconds();
  let frames = 0;
  try {
    yield sectionHeader(`anka-net ${version()}`);
    yield interfaceDescription({ name, description: capture.description, snapLength: capture.snapLength, filter });
    for (;;) {
      const some = await capture.next();
      if (some === null) break;
      frames += some.length;
      yield Buffer.concat(some.map(enhancedPacket));
    }
    const { dropped } = capture.counts();
    yield interfaceStatistics({ start, end: nanoseconds(), received: frames + dropped, dropped });
  } finally {
    capture.close();
    finish({ frames, dropped: capture.counts().dropped });
  }
}
