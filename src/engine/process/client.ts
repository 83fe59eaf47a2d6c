/**
 * The daemon's side of a helper process of an engine: starts it when it is not there, re-attaches to it when it is, and
 * tells when it dies. Limits: a process that cannot be started is tried again each time it is called, never in a loop
 * of its own.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { AnkaError } from '../../lib/errors.ts';
import { LineClient } from '../../lib/json-lines.ts';

const START_LIMIT_MS = 20_000;
/**
 * What a process of ours gets of the environment, which is that of whoever ran the first command: no secrets, and no
 * options for Node.
 */
const PASSED_ON = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'ANKA_DEBUG'];

export interface ProcessOptions {
  /** What it is called in messages, e.g. `the network service`. */
  title: string;
  /** The program: URL of its source file. */
  program: URL;
  /** Its control socket; the folder is made. */
  socket: string;
  leases: string;
  log: string;
  /** More arguments for it. */
  arguments?: string[];
  /**
   * It opens no file but what it needs (host/sandbox/fenced-main.ts): the folders of its sockets, leases and log, and
   * these.
   */
  fence?: { read: string[] };
  /** It said that something changed. */
  onChanged: () => void;
  /** It is gone without having been asked to. */
  onGone: () => void;
}

/**
 * Command that runs a program of ours: the compiled file, or the source through tsx when there is no compiled one
 * beside.
 */
function ownProgram(url: URL): string[] {
  const file = fileURLToPath(url);
  const compiled = file.replace(/\.ts$/, '.js');
  if (existsSync(compiled)) return [process.execPath, compiled];
  return [process.execPath, '--import', import.meta.resolve('tsx'), file];
}

/** The same behind a fence. */
function fencedProgram(url: URL, keep: readonly string[], read: readonly string[]): string[] {
  const command = ownProgram(new URL('../../host/sandbox/fenced-main.ts', import.meta.url));
  const program = ownProgram(url).at(-1) as string;
  return [...command, program, ...[...new Set(keep)].flatMap((k) => ['--keep', k]), ...read.flatMap((r) => ['--read', r]), '--'];
}

/** `M` says which methods the process has, by name. */
export class ProcessClient<M extends { [K in keyof M]: { params: unknown; result: unknown } }> {
  readonly socket: string;
  #options: ProcessOptions;
  #client: LineClient | null = null;
  #connecting: Promise<LineClient> | null = null;
  #closing = false;

  constructor(options: ProcessOptions) {
    this.#options = options;
    this.socket = options.socket;
  }

  /**
   * Runs a method; starts the process first when it does not answer. One that dies over it is started anew, and asked
   * once more: every method may be run twice.
   */
  async call<K extends keyof M & string>(method: K, params: M[K]['params']): Promise<M[K]['result']> {
    const client = await this.#connect(true);
    try {
      return (await client.call(method, params)) as M[K]['result'];
    } catch (cause) {
      if (!client.gone || this.#closing) throw cause;
      return (await (await this.#connect(true)).call(method, params)) as M[K]['result'];
    }
  }

  /** As `call`, but null when no process runs. */
  async callIfRunning<K extends keyof M & string>(method: K, params: M[K]['params']): Promise<M[K]['result'] | null> {
    const client = await this.#connect(false).catch(() => null);
    if (!client) return null;
    try {
      return (await client.call(method, params)) as M[K]['result'];
    } catch (cause) {
      if (client.gone) return null;
      throw cause;
    }
  }

  /** Lets go; the process goes on. */
  close(): void {
    this.#closing = true;
    this.#client?.close();
  }

  async #connect(start: boolean): Promise<LineClient> {
    if (this.#client && !this.#client.gone) return this.#client;
    const dialling = this.#connecting;
    if (dialling) {
      const client = await dialling.catch(() => null);
      return client ?? this.#connect(start); // it may have been a look only, and now it shall be started
    }
    this.#connecting = this.#dial(start).finally(() => {
      this.#connecting = null;
    });
    return this.#connecting;
  }

  async #dial(start: boolean): Promise<LineClient> {
    const first = await this.#try();
    if (first) return first;
    if (!start) throw new AnkaError('internal', `${this.#options.title} does not run`);
    await this.#start();
    const until = Date.now() + START_LIMIT_MS;
    while (Date.now() < until) {
      const client = await this.#try();
      if (client) return client;
      await sleep(20);
    }
    throw new AnkaError('network', `${this.#options.title} did not start; its log is ${this.#options.log}`);
  }

  async #start(): Promise<void> {
    const { program, socket, leases, log, fence, arguments: more = [] } = this.#options;
    await mkdir(dirname(socket), { recursive: true, mode: 0o700 });
    const [node, ...args] = fence ? fencedProgram(program, [socket, leases, log].map(dirname), fence.read) : ownProgram(program);
    const child = spawn(node as string, [...args, '--control', socket, '--leases', leases, '--log', log, ...more], {
      detached: true,
      stdio: 'ignore',
      cwd: '/',
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => PASSED_ON.includes(name))),
    });
    child.on('error', () => {}); // the wait for its socket tells
    child.unref();
  }

  #try(): Promise<LineClient | null> {
    return new Promise((resolve) => {
      const socket = createConnection(this.socket);
      socket.once('error', () => resolve(null));
      socket.once('connect', () => {
        const client = new LineClient(socket, () => this.#options.onChanged());
        this.#client = client;
        void client.closed.then(() => {
          if (this.#client === client) this.#client = null;
          if (!this.#closing) this.#options.onGone();
        });
        resolve(client);
      });
    });
  }
}
