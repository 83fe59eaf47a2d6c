/**
 * The light client of the API: node:http on the unix socket, and nothing else, so that it loads in a moment.
 *
 * Theory of operation: `connect` tries the socket; where nobody answers it starts `ankad`, detached, and waits until it
 * does. Limits: the wait ends after 30 s, or when the daemon has ended with an error, whose message is passed on.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ownProgram } from '../host/own-program.ts';
import type { Paths } from '../host/paths.ts';
import { AnkaError, type ErrorBody } from '../lib/errors.ts';
import type { DaemonEvent, Progress } from './types.ts';

const START_LIMIT_MS = 30_000;
/** Between two tries while another daemon has the lock, and does not answer. */
const AGAIN_MS = 200;
/** The status of a daemon that finds another one. */
export const ANOTHER_RUNS = 3;

export interface CallOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
}

export class Client {
  #socketPath: string;
  #settings: Record<string, string>;

  constructor(socketPath: string, settings: Record<string, string> = {}) {
    this.#socketPath = socketPath;
    this.#settings = settings;
  }

  get<T>(path: string, options?: CallOptions): Promise<T> {
    return this.#call('GET', path, undefined, options);
  }
  post<T>(path: string, body: object = {}, options?: CallOptions): Promise<T> {
    return this.#call('POST', path, body, options);
  }
  put<T>(path: string, body: object, options?: CallOptions): Promise<T> {
    return this.#call('PUT', path, body, options);
  }
  patch<T>(path: string, body: object, options?: CallOptions): Promise<T> {
    return this.#call('PATCH', path, body, options);
  }
  delete<T>(path: string, options?: CallOptions): Promise<T> {
    return this.#call('DELETE', path, undefined, options);
  }

  /** Events as they happen, until the signal ends it. */
  async *events(signal?: AbortSignal): AsyncGenerator<DaemonEvent> {
    const response = await this.#send('GET', '/v1/events', undefined, signal);
    for await (const line of lines(response)) yield JSON.parse(line) as DaemonEvent;
  }

  /** An answer of bytes, as they come. */
  async stream(path: string): Promise<IncomingMessage> {
    const response = await this.#send('GET', path, undefined);
    if ((response.statusCode ?? 500) < 400) return response;
    let text = '';
    response.setEncoding('utf8');
    for await (const chunk of response) text += chunk;
    throw AnkaError.fromBody((JSON.parse(text) as { error: ErrorBody }).error);
  }

  async #call<T>(method: string, path: string, body: object | undefined, options: CallOptions = {}): Promise<T> {
    const response = await this.#send(method, path, body, options.signal);
    if (response.headers['content-type']?.startsWith('application/x-ndjson')) {
      for await (const line of lines(response)) {
        const m = JSON.parse(line) as { progress?: Progress; result?: T; error?: ErrorBody };
        if (m.progress) options.onProgress?.(m.progress);
        else if (m.error) throw AnkaError.fromBody(m.error);
        else return m.result as T;
      }
      throw new AnkaError('daemon', CUT_OFF);
    }
    let text = '';
    for await (const chunk of pieces(response)) text += chunk;
    const isJson = response.headers['content-type']?.startsWith('application/json');
    const answer = isJson ? (JSON.parse(text) as T & { error?: ErrorBody }) : (text as T & { error?: ErrorBody });
    if ((response.statusCode ?? 500) >= 400)
      throw isJson && answer.error ? AnkaError.fromBody(answer.error) : new AnkaError('daemon', `the daemon answered ${response.statusCode}`);
    return answer;
  }

  #send(method: string, path: string, body: object | undefined, signal?: AbortSignal): Promise<IncomingMessage> {
    const text = body === undefined ? '' : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const r = request(
        {
          socketPath: this.#socketPath,
          method,
          path,
          headers: {
            host: 'ankad',
            accept: 'application/x-ndjson, application/json',
            ...(text ? { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) } : {}),
            ...(Object.keys(this.#settings).length > 0 ? { 'x-anka-settings': JSON.stringify(this.#settings) } : {}),
          },
          ...(signal ? { signal } : {}),
        },
        resolve,
      );
      r.on('error', (e) => reject(signal?.aborted ? e : new AnkaError('daemon', `the daemon does not answer: ${e.message}`, { cause: e })));
      r.end(text);
    });
  }
}

const CUT_OFF = 'the daemon ended in the middle of its answer; run the command again';

async function* lines(response: IncomingMessage): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of pieces(response)) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const p of parts) if (p !== '') yield p;
  }
}

/** Text as it comes. Throws `daemon` when the connection ends before the answer does. */
async function* pieces(response: IncomingMessage): AsyncGenerator<string> {
  response.setEncoding('utf8');
  try {
    yield* response as AsyncIterable<string>;
  } catch (cause) {
    if ((cause as Error).name === 'AbortError') throw cause;
    throw new AnkaError('daemon', CUT_OFF, { cause });
  }
}

/** Whether a daemon answers. */
export function isRunning(paths: Paths): Promise<boolean> {
  return new Promise((resolve) => {
    const s = createConnection(paths.socket);
    s.once('connect', () => {
      s.destroy();
      resolve(true);
    });
    s.once('error', () => resolve(false));
  });
}

/** A client of the daemon, which is started when it does not run, unless `autostart` is false. */
export async function connect(paths: Paths, options: { autostart?: boolean; settings?: Record<string, string> } = {}): Promise<Client> {
  const client = new Client(paths.socket, options.settings);
  if (await isRunning(paths)) return client;
  if (options.autostart === false) throw new AnkaError('daemon', 'the daemon does not run');
  await startDaemon(paths);
  return client;
}

async function startDaemon(paths: Paths): Promise<void> {
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  const [node, ...argv] = ownProgram(new URL('../daemon/main.ts', import.meta.url));
  const errors = join(paths.state, 'ankad.stderr');
  const fd = openSync(errors, 'w', 0o600);
  let state: 'starting' | 'ended' | 'another' = 'starting';
  const start = (): void => {
    state = 'starting';
    const child = spawn(node, argv, { detached: true, stdio: ['ignore', fd, fd], cwd: '/' });
    child.once('exit', (code) => {
      state = code === ANOTHER_RUNS ? 'another' : 'ended';
    });
    child.once('error', () => {
      state = 'ended';
    });
    child.unref();
  };
  // the compiler does not see that a callback changes it
  const has = (s: typeof state): boolean => state === s;
  start();
  const until = Date.now() + START_LIMIT_MS;
  while (Date.now() < until) {
    if (await isRunning(paths)) return;
    // another one was quicker, and will answer; or it is about to end, and has the lock still
    if (has('another')) {
      await sleep(AGAIN_MS);
      if (!(await isRunning(paths))) start();
    }
    if (has('ended')) {
      const said = readFileSync(errors, 'utf8').trim().split('\n').at(-1);
      throw new AnkaError('daemon', said?.replace(/^ankad: /, '') || `the daemon did not start; its log is ${paths.log}`);
    }
    await sleep(20);
  }
  throw new AnkaError('daemon', `the daemon did not answer within ${START_LIMIT_MS / 1000} s; its log is ${paths.log}`);
}
