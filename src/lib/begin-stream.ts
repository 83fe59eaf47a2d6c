/**
 * Streams through the helper processes: a JSON line requests one, a line answers `{"ok":true}` or `{"error":…}`, then
 * raw bytes follow in both directions.
 */
import { createConnection, type Socket } from 'node:net';
import { AnkaError } from './errors.ts';

const MAX_ANSWER = 65_536;

function answerOf(line: string): { error?: string } | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}

/**
 * Connects, sends the request and waits for the answer. Returns the paused socket; bytes behind the answer are read
 * from it first. Throws `network`.
 */
export function beginStream(path: string, request: object): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path, allowHalfOpen: true });
    let text = Buffer.alloc(0);
    const fail = (message: string): void => {
      socket.destroy();
      reject(new AnkaError('network', message));
    };
    const failed = (cause: Error): void => fail(`the network's process does not answer: ${cause.message}`);
    const ended = (): void => fail("the network's process ended the stream");
    const take = (chunk: Buffer): void => {
      text = Buffer.concat([text, chunk]);
      const end = text.indexOf(10);
      if (end < 0) {
        if (text.length > MAX_ANSWER) fail("the network's process gave no answer");
        return;
      }
      socket.off('data', take).off('error', failed).off('close', ended);
      socket.pause();
      const answer = answerOf(text.toString('utf8', 0, end));
      if (!answer) {
        fail("the network's process gave no answer");
        return;
      }
      const { error } = answer;
      if (error !== undefined) {
        fail(error);
        return;
      }
      if (end + 1 < text.length) socket.unshift(text.subarray(end + 1));
      resolve(socket);
    };
    socket.on('error', failed).on('close', ended).on('data', take);
    socket.write(`${JSON.stringify(request)}\n`);
  });
}
