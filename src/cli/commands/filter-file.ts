/** The text of a packet filter, read with the caller's rights from a file or from standard input. */
import { open } from 'node:fs/promises';
import { AnkaError } from '../../lib/errors.ts';

/** Bytes that are read; the daemon names its own limit, which is lower. */
const MOST = 65_536;

/** `-` is standard input. Null for `off`. Throws `badValue` with the file. */
export async function readFilter(source: string): Promise<string | null> {
  if (source === 'off') return null;
  const name = source === '-' ? 'standard input' : source;
  try {
    return await (source === '-' ? readStart(process.stdin, name) : readFileStart(source));
  } catch (cause) {
    if (cause instanceof AnkaError) throw cause;
    const why = (cause as Error).message.replace(/^E\w+: ([^,]*),.*$/s, '$1');
    throw new AnkaError('badValue', `network filter: cannot read ${name}: ${why}; give a file with rules, '-' for standard input, or off`);
  }
}

async function readFileStart(path: string): Promise<string> {
  const file = await open(path, 'r');
  return readStart(file.createReadStream(), path);
}

async function readStart(stream: NodeJS.ReadableStream, name: string): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stream) {
    chunks.push(Buffer.from(chunk));
    bytes += chunk.length;
    if (bytes > MOST) throw new AnkaError('badValue', `network filter: ${name} has more than ${MOST} bytes; a filter has at most 32768`);
  }
  return Buffer.concat(chunks).toString('utf8');
}
