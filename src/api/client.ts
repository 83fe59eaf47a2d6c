/**
 * The client of the API: node:http on a unix socket, without other dependencies, so that it loads fast.
 *
 * Theory of operation: `connect` tries the socket. If no daemon answers, it starts `ankad` detached and waits until it
 * answers. While an answer is awaited, the daemon is watched (daemon-watch.ts): no command waits for one that is
 * stopped or hung. Limits: the wait for a start ends after 30 s, or when the daemon exits with an error, whose message
 * is passed on.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, openSync, readFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { daemonCommand } from '../host/daemon-program.ts';
import { isDiskFull } from '../host/disk-space.ts';
import { daemonEnvironment } from '../host/environment.ts';
import type { Paths } from '../host/paths.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError, type ErrorBody } from '../lib/errors.ts';
import { DaemonWatch, isHung } from './daemon-watch.ts';
import type { DaemonEvent, Progress } from './types.ts';

const START_LIMIT_MS = 30_000;
/** Pause between two attempts to connect to a daemon that starts. */
const POLL_MS = 20;
/** Pause before another start, while a daemon that does not answer holds the lock. */
const RESTART_MS = 200;
/** Exit status of `ankad` when another daemon holds the lock. */
export const EXIT_ALREADY_RUNNING = 3;

export { isHung };

const INTERRUPTED = 'the daemon exited before its answer was complete; run the command again';

export interface CallOptions {
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
}

/** A turn that the daemon has given to this client. */
export interface Turn<T> {
  value: T;
  /** Passes the turn on. */
  end(): void;
}

export class Client {
  #socketPath: string;
  #settings: Record<string, string>;
  #lockFile: string | null;

  /** `lockFile`: holds the daemon's pid. */
  constructor(socketPath: string, settings: Record<string, string> = {}, lockFile: string | null = null) {
    this.#socketPath = socketPath;
    this.#settings = settings;
    this.#lockFile = lockFile;
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

  /** Events as they occur, from when this resolves until the signal aborts. */
  async events(signal?: AbortSignal): Promise<AsyncGenerator<DaemonEvent>> {
    return eventsOf(await this.#send('GET', '/v1/events', undefined, signal));
  }

  /** A response whose body is a stream of bytes. */
  async stream(path: string): Promise<IncomingMessage> {
    const response = await this.#send('GET', path, undefined);
    if ((response.statusCode ?? 500) < 400) return response;
    throw AnkaError.fromBody((JSON.parse(await textOf(response)) as { error: ErrorBody }).error);
  }

  /** Waits for a turn, which lasts until its `end`, or the end of this process. */
  async turn<T>(path: string): Promise<Turn<T>> {
    const response = await this.stream(path);
    response.on('error', () => {}); // the daemon has exited
    const { value } = await lines(response).next();
    const answer = JSON.parse((value as string | undefined) ?? '{}') as { turn?: T; error?: ErrorBody };
    if (answer.turn !== undefined) return { value: answer.turn, end: () => void response.destroy() };
    response.destroy();
    throw answer.error ? AnkaError.fromBody(answer.error) : new AnkaError('daemon', INTERRUPTED);
  }

  async #call<T>(method: string, path: string, body: object | undefined, options: CallOptions = {}): Promise<T> {
    const response = await this.#send(method, path, body, options.signal);
    if (response.headers['content-type']?.startsWith('application/x-ndjson')) return lastResult<T>(response, options);
    const text = await textOf(response);
    const isJson = response.headers['content-type']?.startsWith('application/json');
    const answer = isJson ? (JSON.parse(text) as T & { error?: ErrorBody }) : (text as T & { error?: ErrorBody });
    if ((response.statusCode ?? 500) >= 400)
      throw isJson && answer.error
        ? AnkaError.fromBody(answer.error)
        : new AnkaError('daemon', `the daemon answered ${method} ${path} with status ${response.statusCode}`);
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
        (response) => {
          response.once('close', () => watch.end());
          answer = response;
          resolve(response);
        },
      );
      let answer: IncomingMessage | null = null;
      const onHung = (error: AnkaError): void => void (answer ?? r).destroy(error);
      const watch = new DaemonWatch({ socket: this.#socketPath, lockFile: this.#lockFile, onHung });
      r.on('error', (e) => {
        watch.end();
        const failed = `no answer from the daemon at ${this.#socketPath}: ${e.message}; run the command again`;
        reject(signal?.aborted || isHung(e) ? e : new AnkaError('daemon', failed, { cause: e }));
      });
      r.end(text);
    });
  }
}

/** The result of a long operation; the lines before it are progress. */
async function lastResult<T>(response: IncomingMessage, options: CallOptions): Promise<T> {
  for await (const line of lines(response)) {
    const m = JSON.parse(line) as { progress?: Progress; result?: T; error?: ErrorBody };
    if (m.progress) options.onProgress?.(m.progress);
    else if (m.error) throw AnkaError.fromBody(m.error);
    else return m.result as T;
  }
  throw new AnkaError('daemon', INTERRUPTED);
}

async function* eventsOf(response: IncomingMessage): AsyncGenerator<DaemonEvent> {
  for await (const line of lines(response)) yield JSON.parse(line) as DaemonEvent;
}

async function* lines(response: IncomingMessage): AsyncGenerator<string> {
  let rest = '';
  for await (const chunk of chunksOf(response)) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop() ?? '';
    for (const p of parts) if (p !== '') yield p;
  }
}

async function textOf(response: IncomingMessage): Promise<string> {
  let text = '';
  for await (const chunk of chunksOf(response)) text += chunk;
  return text;
}

/** The body as text, chunk by chunk. Throws `daemon` when the connection closes before its end. */
async function* chunksOf(response: IncomingMessage): AsyncGenerator<string> {
  response.setEncoding('utf8');
  try {
    yield* response as AsyncIterable<string>;
  } catch (cause) {
    if ((cause as Error).name === 'AbortError' || isHung(cause)) throw cause;
    throw new AnkaError('daemon', INTERRUPTED, { cause });
  }
}

/** Whether a daemon accepts connections. */
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

/** A client of the daemon. Starts the daemon first when it is not running, unless `autostart` is false. */
export async function connect(paths: Paths, options: { autostart?: boolean; settings?: Record<string, string> } = {}): Promise<Client> {
  const client = new Client(paths.socket, options.settings, paths.lock);
  if (await isRunning(paths)) return client;
  if (options.autostart === false) throw new AnkaError('daemon', "the daemon is not running; 'anka list' or any other command starts it");
  await startDaemon(paths);
  return client;
}

/** One attempt to start `ankad`. */
interface Attempt {
  state: 'starting' | 'exited' | 'alreadyRunning';
}

/** Starts `ankad` detached, with its errors in the file. */
function spawnDaemon(errorFile: number): Attempt {
  const attempt: Attempt = { state: 'starting' };
  const [node, ...argv] = daemonCommand();
  const child = spawn(node, argv, { detached: true, stdio: ['ignore', errorFile, errorFile], cwd: '/', env: daemonEnvironment() });
  child.once('exit', (code) => {
    attempt.state = code === EXIT_ALREADY_RUNNING ? 'alreadyRunning' : 'exited';
  });
  child.once('error', () => {
    attempt.state = 'exited';
  });
  child.unref();
  return attempt;
}

async function startDaemon(paths: Paths): Promise<void> {
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  const errors = join(paths.state, 'ankad.stderr');
  const errorFile = openSync(errors, 'w', 0o600);
  let attempt = spawnDaemon(errorFile);
  const deadline = monotonicMs() + START_LIMIT_MS;
  while (monotonicMs() < deadline) {
    if (await isRunning(paths)) return;
    // another daemon holds the lock: it is starting and will answer, or it is exiting and will release the lock
    if (attempt.state === 'alreadyRunning') {
      await sleep(RESTART_MS);
      if (!(await isRunning(paths))) attempt = spawnDaemon(errorFile);
    }
    if (attempt.state === 'exited') {
      const lastLine = readFileSync(errors, 'utf8').trim().split('\n').at(-1);
      // then it could not say so
      if (!lastLine && isDiskFull(paths.state)) throw new AnkaError('diskFull', `the daemon did not start: no space left in ${paths.state}; free some space`);
      throw new AnkaError('daemon', lastLine?.replace(/^ankad: /, '') || `the daemon did not start; its log is ${paths.log}`);
    }
    await sleep(POLL_MS);
  }
  const { lockHolder } = await import('../host/process-lock.ts');
  const pid = lockHolder(paths.lock);
  const remedy = pid === null ? '' : `; 'anka daemon stop' stops it (pid ${pid}), and VMs keep running`;
  throw new AnkaError('daemon', `the daemon did not answer within ${START_LIMIT_MS / 1000} s; its log is ${paths.log}${remedy}`);
}
