/**
 * Our side of a helper process: starts it when it does not run, sends it requests, and reports when it exits.
 *
 * Theory of operation: the control socket is the process's identity. A process that answers on it is used, whoever
 * started it, so a helper process outlives the daemon. It is started detached, without a terminal, with a cleaned
 * environment, and on request with access to its own files only.
 *
 * Limits: it has 20 s to start.
 */
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ownProgram } from '../../host/own-program.ts';
import { isAlive } from '../../host/process.ts';
import { AnkaError } from '../../lib/errors.ts';
import { LineClient } from '../../lib/json-lines.ts';

const START_LIMIT_MS = 20_000;
const STOP_LIMIT_MS = 10_000;
const POLL_MS = 20;
/**
 * Environment variables that a helper process gets. The rest belongs to whoever ran the first command and may hold
 * secrets or options for Node.
 */
const ENVIRONMENT = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'ANKA_DEBUG'];

export interface ProcessOptions {
  /** Its name in messages, e.g. `the network service`. */
  title: string;
  /** URL of the program's source file. */
  program: URL;
  /** Its control socket; the directory is created. */
  socket: string;
  leases: string;
  log: string;
  /** Additional arguments. */
  arguments?: string[];
  /**
   * Restricts it to the directories of its sockets, leases and log, and to those in `read`
   * (host/sandbox/fenced-main.ts).
   */
  fence?: { read: string[] };
  /** It reported a change. */
  onChanged: () => void;
  /** The connection to it was lost. */
  onExit: () => void;
}

/** Methods that every helper process has. */
export interface HelperMethods {
  status: { params: Record<string, never>; result: { pid: number } };
  /** Gives a deleted VM's lease back. */
  forget: { params: { id: string }; result: Record<string, never> };
  stop: { params: Record<string, never>; result: Record<string, never> };
}

function fencedProgram(program: URL, write: readonly string[], read: readonly string[]): [node: string, ...args: string[]] {
  const [node, ...args] = ownProgram(new URL('../../host/sandbox/fenced-main.ts', import.meta.url));
  const file = ownProgram(program).at(-1) as string;
  return [node, ...args, file, ...[...new Set(write)].flatMap((k) => ['--write', k]), ...read.flatMap((r) => ['--read', r]), '--'];
}

/** `M`: methods of the process, by name. */
export class ProcessClient<M extends HelperMethods & { [K in keyof M]: { params: unknown; result: unknown } }> {
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
   * Runs a method; starts the process first if it does not answer. If it exits during the call, it is started again and
   * the method is retried once: every method is safe to repeat.
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

  /** As `call`, but returns null when no process runs. */
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

  /** Stops the process if it runs, and waits until it has exited. Returns its pid, or null. */
  async stop(): Promise<number | null> {
    const status = await this.callIfRunning('status', {}).catch(() => null);
    if (!status) return null;
    await this.callIfRunning('stop', {}).catch(() => null);
    const until = Date.now() + STOP_LIMIT_MS;
    while (isAlive(status.pid) && Date.now() < until) await sleep(POLL_MS);
    return status.pid;
  }

  /** Disconnects; the process keeps running. */
  close(): void {
    this.#closing = true;
    this.#client?.close();
  }

  async #connect(start: boolean): Promise<LineClient> {
    if (this.#client && !this.#client.gone) return this.#client;
    const connecting = this.#connecting;
    if (connecting) {
      const client = await connecting.catch(() => null);
      return client ?? this.#connect(start); // the attempt may have been one that starts no process
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
      await sleep(POLL_MS);
    }
    throw new AnkaError('network', `${this.#options.title} did not start; its log is ${this.#options.log}`);
  }

  async #start(): Promise<void> {
    const { program, socket, leases, log, fence, arguments: more = [] } = this.#options;
    await mkdir(dirname(socket), { recursive: true, mode: 0o700 });
    const [node, ...args] = fence ? fencedProgram(program, [socket, leases, log].map(dirname), fence.read) : ownProgram(program);
    const child = spawn(node, [...args, '--control', socket, '--leases', leases, '--log', log, ...more], {
      detached: true,
      stdio: 'ignore',
      cwd: '/',
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => ENVIRONMENT.includes(name))),
    });
    child.on('error', () => {}); // `#dial` reports that the socket did not appear
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
          if (!this.#closing) this.#options.onExit();
        });
        resolve(client);
      });
    });
  }
}
