/**
 * Requests and answers as JSON lines over a stream: the control protocol of the helper processes.
 *
 * Each request `{id, method, params}` has one answer `{id, result}` or `{id, error}`; `{event}` is unsolicited.
 * Anything else closes the connection, as neither side trusts the other. Limits: 16 MiB a line; 5 s for an answer,
 * unless the caller allows more.
 */
import type { Duplex } from 'node:stream';
import { AnkaError, type ErrorBody } from './errors.ts';

const MAX_LINE = 16 << 20;
const ANSWER_LIMIT_MS = 5000;

interface PendingCall {
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  limit: NodeJS.Timeout | undefined;
}

/**
 * Splits chunks into lines and calls `take` with each. If it returns false, or a line is too long, destroys the stream.
 */
export function onLines(stream: Duplex, take: (line: string) => boolean): void {
  let rest: string[] = [];
  let length = 0;
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const lines = chunk.split('\n');
    rest.push(lines[0] as string);
    length += (lines[0] as string).length;
    if (lines.length > 1) {
      lines[0] = rest.join('');
      rest = [lines.pop() as string];
      length = (rest[0] as string).length;
      for (const l of lines) if (l !== '' && !stream.destroyed && !take(l)) stream.destroy();
    }
    if (length > MAX_LINE) {
      rest = [];
      stream.destroy();
    }
  });
}

/** The object in a line; null when it contains none. */
function objectOf<T extends object>(line: string): Partial<T> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' ? (value as Partial<T> | null) : null;
  } catch {
    return null;
  }
}

/** Serves the methods on one connection. */
export function serveLines(stream: Duplex, methods: Record<string, (params: never) => Promise<unknown>>): void {
  const serve = async ({ id, method, params }: Partial<{ id: number; method: string; params: never }>): Promise<void> => {
    let answer: unknown;
    try {
      const run = Object.hasOwn(methods, String(method)) ? methods[String(method)] : undefined;
      if (!run) throw new AnkaError('internal', `no method '${method}'`);
      answer = { id, result: (await run(params as never)) ?? {} };
    } catch (cause) {
      const error = cause instanceof AnkaError ? cause : new AnkaError('internal', (cause as Error).message);
      answer = { id, error: error.toBody() };
    }
    if (!stream.destroyed) stream.write(`${JSON.stringify(answer)}\n`);
  };
  onLines(stream, (line) => {
    const request = objectOf<{ id: number; method: string; params: never }>(line);
    if (request) void serve(request);
    return request !== null;
  });
}

/** The client of one connection. */
export class LineClient {
  readonly closed: Promise<void>;
  #stream: Duplex;
  #next = 1;
  #pending = new Map<number, PendingCall>();

  constructor(stream: Duplex, onEvent: (event: string) => void) {
    this.#stream = stream;
    stream.on('error', () => {}); // 'close' follows
    onLines(stream, (line) => {
      const m = objectOf<{ id: number; result: unknown; error: ErrorBody; event: string }>(line);
      if (!m) return false;
      if (m.event !== undefined) {
        onEvent(m.event);
        return true;
      }
      const w = this.#pending.get(m.id ?? -1);
      this.#pending.delete(m.id ?? -1);
      clearTimeout(w?.limit);
      if (m.error) w?.reject(AnkaError.fromBody(m.error));
      else w?.resolve(m.result);
      return true;
    });
    this.closed = new Promise((resolve) => {
      stream.once('close', () => {
        for (const w of this.#pending.values()) {
          clearTimeout(w.limit);
          w.reject(new AnkaError('internal', 'the connection to the helper process is closed'));
        }
        this.#pending.clear();
        resolve();
      });
    });
  }

  /**
   * Throws what the other side answers, `timeout`, or `internal` when the connection is closed. `limitMs`: null = the
   * caller watches over the other side.
   */
  call(method: string, params: unknown, limitMs: number | null = ANSWER_LIMIT_MS): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#stream.destroyed) return reject(new AnkaError('internal', 'the connection to the helper process is closed'));
      const expire = (ms: number): void => {
        this.#pending.delete(id);
        reject(new AnkaError('timeout', `the helper process did not answer '${method}' within ${ms / 1000} s`));
      };
      this.#pending.set(id, { resolve, reject, limit: limitMs === null ? undefined : setTimeout(expire, limitMs, limitMs) });
      this.#stream.write(`${JSON.stringify({ id, method, params })}\n`);
    });
  }

  /** The connection is closed. */
  get gone(): boolean {
    return this.#stream.destroyed;
  }

  close(): void {
    this.#stream.destroy();
  }
}
