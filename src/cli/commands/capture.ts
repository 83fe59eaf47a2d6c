/**
 * `anka capture`: the frames of a network card as pcapng, into a file or a pipe (B93).
 *
 * Theory of operation. The daemon streams the capture; SIGINT and SIGTERM ask it to end the capture, and the rest of
 * the stream, with the statistics block, is still written. Limits: a second signal exits immediately.
 */
import { createWriteStream, openSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import type { Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import type { CaptureEnd } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { whenUnread } from '../output/unread.ts';
import { type Session, vmPath } from '../session.ts';

export interface CaptureOptions {
  side?: string;
  /** A file, or `-` for standard output. */
  write?: string;
}

/** Opens the file before the capture starts, so that its errors come first. */
function openFile(path: string): number {
  try {
    return openSync(path, 'w', 0o600);
  } catch (cause) {
    throw new AnkaError('badValue', `cannot write ${path}: ${(cause as Error).message}`, { cause });
  }
}

async function copy(from: AsyncIterable<Uint8Array>, to: Writable): Promise<void> {
  for await (const chunk of from) if (!to.write(chunk)) await new Promise<void>((resolve) => to.once('drain', () => resolve()));
}

/** Rejects when the output fails; exits when the reader of a pipe has closed it. */
function outputFailure(output: Writable, name: string, response: IncomingMessage): Promise<never> {
  const failure = new Promise<never>((_resolve, reject) => {
    output.on('error', (e: NodeJS.ErrnoException) => {
      response.destroy();
      if (e.code === 'EPIPE') process.exit();
      reject(new AnkaError('badValue', `cannot write ${name}: ${e.message}`, { cause: e }));
    });
  });
  failure.catch(() => {}); // reported where it is awaited
  return failure;
}

/** Writes the whole stream. Throws when the output or the connection fails. */
async function save(response: IncomingMessage, output: Writable, path: string): Promise<void> {
  const failure = outputFailure(output, path === '-' ? 'standard output' : path, response);
  try {
    await Promise.race([failure, copy(response, output)]);
    if (path === '-') return;
    output.end();
    await Promise.race([failure, finished(output)]);
  } catch (cause) {
    if (output.errored) await failure;
    throw new AnkaError('daemon', `the capture was interrupted: ${(cause as Error).message}; run the command again`, { cause });
  }
}

export async function capture(s: Session, vm: string, words: readonly string[], o: CaptureOptions): Promise<void> {
  const side = o.side ?? 'inside';
  if (side !== 'inside' && side !== 'outside') throw new AnkaError('usage', `Invalid value for '--side': '${side}' is not one of 'inside', 'outside'.`);
  const path = o.write ?? '-';
  if (path === '-' && process.stdout.isTTY)
    throw new AnkaError('usage', "Cannot write a capture to a terminal: use '-w FILE', or a pipe such as '| tshark -r -'.");
  const daemon = await s.daemon();
  const query = new URLSearchParams({ side, filter: words.join(' ') });
  const response = await daemon.stream(vmPath(vm, `/capture?${query}`));
  const id = String(response.headers['x-anka-capture']);
  const output: Writable = path === '-' ? process.stdout : createWriteStream('', { fd: openFile(path) });
  if (path === '-') whenUnread(() => process.exit());

  let counts: Promise<CaptureEnd> | null = null;
  const end = (): Promise<CaptureEnd> => {
    const ending = daemon.delete<CaptureEnd>(`/v1/captures/${id}`);
    ending.catch(() => {}); // reported where it is awaited
    counts = ending;
    return ending;
  };
  const onSignal = (): void => {
    if (counts) process.exit(130);
    void end();
  };
  process.on('SIGINT', onSignal);
  process.on('SIGTERM', onSignal);
  s.out.note(`capturing ${vm} (${side})${path === '-' ? '' : ` to ${path}`}; Ctrl-C stops`);
  try {
    await save(response, output, path);
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
  const cardWentDown = (counts as Promise<CaptureEnd> | null) === null;
  const { frames, dropped } = await (counts ?? end());
  const text = `${cardWentDown ? `${vm} was stopped, or its network card unplugged: ` : ''}${frames} frames captured, ${dropped} dropped`;
  if (path === '-') s.out.note(text);
  else s.out.done({ file: path, frames, dropped }, text);
}
