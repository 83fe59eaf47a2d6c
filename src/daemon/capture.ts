/**
 * Captures of a card's frames as a pcapng stream (B93).
 *
 * Theory of operation: the client's connection pulls `bytes`; while it does not, the engine drops frames and counts
 * them. After `end` the remaining blocks and the statistics follow, so that the file is complete. A capture that ends
 * with its card keeps its counts for a later `end`.
 *
 * Limits: 16 concurrent captures; the counts of the last 16 are kept.
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
import { demandCard } from './vms/card-request.ts';

const LIMIT = 16;

const nanoseconds = (): bigint => BigInt(Date.now()) * 1_000_000n;

export class Captures {
  /** Ends each running capture, by id. */
  #running = new Map<string, () => Promise<CaptureEnd>>();
  /** Counts of ended captures. */
  #ended = new Map<string, CaptureEnd>();

  async begin(ctx: Context, vm: VmRow, side: CaptureSide, filter: string): Promise<CaptureStream> {
    if (!ctx.machines.has(vm.uuid)) throw new AnkaError('vmNotRunning', `${vm.name} is ${vm.status}; run 'anka start ${vm.name}' first`);
    demandCard(vm);
    if (this.#running.size >= LIMIT) throw new AnkaError('badState', `${LIMIT} captures are running; stop one of them first`);
    const engine = await ctx.engine();
    if (!engine.capture) throw new AnkaError('network', `the ${engine.name} engine does not support captures`);
    const capture = await engine.capture(vm.uuid, side, filter);
    const id = randomUUID();
    let resolveEnd: (end: CaptureEnd) => void = () => {};
    const ended = new Promise<CaptureEnd>((resolve) => {
      resolveEnd = resolve;
    });
    this.#running.set(id, () => {
      capture.close();
      return ended;
    });
    const finish = (end: CaptureEnd): void => {
      this.#running.delete(id);
      this.#ended.set(id, end);
      if (this.#ended.size > LIMIT) this.#ended.delete(this.#ended.keys().next().value as string);
      resolveEnd(end);
    };
    return { id, bytes: pcapng(capture, vm.name, filter, finish), abort: () => capture.close() };
  }

  /** Ends a capture; resolves with its counts once its last block is written. */
  async end(id: string): Promise<CaptureEnd> {
    const end = (await this.#running.get(id)?.()) ?? this.#ended.get(id);
    if (!end) throw new AnkaError('badState', `no capture ${id} is running`);
    return end;
  }
}

/** The blocks of a capture; one chunk for all frames that are waiting. */
async function* pcapng(capture: Capture, name: string, filter: string, finish: (end: CaptureEnd) => void): AsyncGenerator<Uint8Array> {
  const start = nanoseconds();
  let frames = 0;
  try {
    yield sectionHeader(`anka-net ${version()}`);
    yield interfaceDescription({ name, description: capture.description, snapLength: capture.snapLength, filter });
    for (;;) {
      const batch = await capture.next();
      if (batch === null) break;
      frames += batch.length;
      yield Buffer.concat(batch.map(enhancedPacket));
    }
    const { dropped } = capture.counts();
    yield interfaceStatistics({ start, end: nanoseconds(), received: frames + dropped, dropped });
  } finally {
    capture.close();
    finish({ frames, dropped: capture.counts().dropped });
  }
}
