/**
 * Requests and answers as JSON lines over a stream: the control protocol of our own helper processes.
 *
 * Each request `{id, method, params}` has one answer `{id, result}` or `{id, error}`; `{event}` comes unasked. Limit: 16 MiB a line.
 */
import type { Duplex } from 'node:stream';
import { AnkaError, type ErrorBody } from './errors.ts';

const MAX_LINE = 16 << 20;

/** Splits chunks into lines and calls back with each. Destroys the stream on a line without end. */
export function onLines(stream: Duplex, take: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > MAX_LINE) stream.destroy();
    for (const l of lines) if (l !== '') take(l);
  });
}

/** Serves one connection: every method by name. */
export function serveLines(stream: Duplex, methods: Record<string, (params: never) => Promise<unknown>>): void {
  onLines(stream, async (line) => {
    const { id, method, params } = JSON.parse(line) as { id: number; method: string; params: never };
    let answer: unknown;
    try {
      const run = methods[method];
      if (!run) throw new AnkaError('internal', `no method '${method}'`);
      answer = { id, result: (await run(params)) ?? {} };
    } catch (cause) {
      const error = cause instanceof AnkaError ? cause : new AnkaError('internal', (cause as Error).message);
      answer = { id, error: error.toBody() };
    }
    if (!stream.destroyed) stream.write(`${JSON.stringify(answer)}\n`);
  });
}

/** The asking side of one connection. */
export class LineClient {
  readonly closed: Promise<void>;
  #stream: Duplex;
  #next = 1;
  #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();

  constructor(stream: Duplex, onEvent: (event: string) => void) {
    this.#stream = stream;
    stream.on('error', () => {}); // 'close' follows
    onLines(stream, (line) => {
      const m = JSON.parse(line) as { id?: number; result?: unknown; error?: ErrorBody; event?: string };
      if (m.event !== undefined) return onEvent(m.event);
      const w = this.#waiting.get(m.id ?? -1);
      this.#waiting.delete(m.id ?? -1);
      if (m.error) w?.reject(AnkaError.fromBody(m.error));
      else w?.resolve(m.result);
    });
    this.closed = new Promise((resolve) => {
      stream.once('close', () => {
        for (const w of this.#waiting.values()) w.reject(new AnkaError('internal', 'the process on the other side is gone'));
        this.#waiting.clear();
        resolve();
      });
    });
  }

  call(method: string, params: unknown): Promise<unknown> {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      if (this.#stream.destroyed) return reject(new AnkaError('internal', 'the process on the other side is gone'));
      this.#waiting.set(id, { resolve, reject });
      this.#stream.write(`${JSON.stringify({ id, method, params })}\n`);
    });
  }

  /** The connection is over. */
  get gone(): boolean {
    return this.#stream.destroyed;
  }

  close(): void {
    this.#stream.destroy();
  }
}
