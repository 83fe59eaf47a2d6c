/** `anka capture`: a card's frames as pcapng, into a file or a pipe (B93). */
import { createWriteStream, openSync } from 'node:fs';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { CaptureEnd } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { type Session, vmPath } from '../session.ts';

export interface CaptureOptions {
  side?: string;
  /** A file, or `-` for standard output. */
  write?: string;
}

/** Opens the file now, so that what is wrong with it is told before anything is captured. */
function openFile(path: string): number {
  try {
    return openSync(path, 'w', 0o600);
  } catch (cause) {
    throw new AnkaError('badValue', `${path} cannot be written: ${(cause as Error).message}`, { cause });
  }
}

async function pour(from: AsyncIterable<Uint8Array>, sink: Writable): Promise<void> {
  for await (const chunk of from) if (!sink.write(chunk)) await new Promise<void>((resolve) => sink.once('drain', () => resolve()));
}

export async function capture(s: Session, vm: string, words: readonly string[], o: CaptureOptions): Promise<void> {
  const side = o.side ?? 'inside';
  if (side !== 'inside' && side !== 'outside') throw new AnkaError('usage', `Invalid value for '--side': '${side}' is not one of 'inside', 'outside'.`);
  const path = o.write ?? '-';
  if (path === '-' && process.stdout.isTTY)
    throw new AnkaError('usage', "A capture is no text for a terminal: write it into a file with '-w FILE', or into a pipe, such as '| tshark -r -'.");
  const daemon = await s.daemon();
  const query = new URLSearchParams({ side, filter: words.join(' ') });
  const response = await daemon.stream(vmPath(vm, `/capture?${query}`));
  const id = String(response.headers['x-anka-capture']);
  const sink: Writable = path === '-' ? process.stdout : createWriteStream('', { fd: openFile(path) });

  let ended: Promise<CaptureEnd> | null = null;
  const end = (): void => {
    if (ended) process.exit(130); // asked twice: at once
    ended = daemon.delete<CaptureEnd>(`/v1/captures/${id}`);
    ended.catch(() => {}); // told below
  };
  process.on('SIGINT', end);
  process.on('SIGTERM', end);
  const failed = new Promise<never>((_resolve, reject) => {
    sink.on('error', (e: NodeJS.ErrnoException) => {
      response.destroy();
      if (e.code === 'EPIPE') process.exit(0); // the reader has enough
      reject(new AnkaError('badValue', `${path === '-' ? 'standard output' : path} cannot be written: ${e.message}`, { cause: e }));
    });
  });
  failed.catch(() => {}); // told below
  s.out.note(`capturing the ${side} of ${vm}${path === '-' ? '' : ` into ${path}`}; Ctrl-C ends it`);
  try {
    await Promise.race([failed, pour(response, sink)]);
    if (path !== '-') {
      sink.end();
      await Promise.race([failed, finished(sink)]);
    }
  } catch (cause) {
    if (sink.errored) await failed;
    throw new AnkaError('daemon', `the capture was cut off: ${(cause as Error).message}`, { cause });
  } finally {
    process.off('SIGINT', end);
    process.off('SIGTERM', end);
  }
  const byItself = (ended as Promise<CaptureEnd> | null) === null;
  if (byItself) end();
  const counts = await (ended as unknown as Promise<CaptureEnd>);
  const text = `${byItself ? `${vm} was stopped, or its cable pulled: ` : ''}${counts.frames} frames captured, ${counts.dropped} dropped`;
  if (path === '-') s.out.note(text);
  else s.out.done({ file: path, ...counts }, text);
}
