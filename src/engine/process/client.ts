/**
 * Our side of a helper process: starts it when it does not run, sends it requests, feels its pulse, and reports when it
 * exits.
 *
 * Theory of operation: the control socket is the process's identity. A process of the right user that listens on it is
 * used, whoever started it, so a helper process outlives the daemon. It is started detached, without a terminal, with a
 * cleaned environment, and on request with access to its own files only. One that is hung (pulse.ts) is killed, which
 * closes the connection like any other exit: pending calls are repeated with the process that replaces it.
 *
 * Limits: it has 20 s to start, 5 s for a call, and 30 s for one that changes what it serves. On macOS a hung process
 * is not found, as its pid is unknown.
 */
import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { peerOfSocket } from '../../host/ffi/unix-socket.ts';
import { ownProgram } from '../../host/own-program.ts';
import { isAlive, killOf } from '../../host/process.ts';
import { type ResolverFiles, readResolverFiles, watchResolvers } from '../../host/resolvers.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import { LineClient } from '../../lib/json-lines.ts';
import type { HelperHealth } from '../engine.ts';
import { Pulse } from './pulse.ts';
import { asUser, isRoot } from './users.ts';

const START_LIMIT_MS = 20_000;
const STOP_LIMIT_MS = 10_000;
const POLL_MS = 20;
/** Calls that take a while: they open ports, or wait for a disk. */
const SLOW_CALLS = ['configure', 'forget', 'stop'];
const SLOW_LIMIT_MS = 30_000;
/**
 * Environment variables that a helper process gets. The rest belongs to whoever ran the first command and may hold
 * secrets or options for Node.
 */
const ENVIRONMENT = ['PATH', 'HOME', 'TMPDIR', 'TZ', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH', 'ANKA_DEBUG'];

export interface ProcessOptions {
  /** Its name in messages, e.g. `the network service`, and in metrics. */
  title: string;
  name: HelperHealth['name'];
  /** URL of the program's source file. */
  program: URL;
  /** Its control socket; the directory is created. */
  socket: string;
  leases: string;
  log: string;
  /** Its user, if this process is root's. */
  user: number;
  /** Log of this process. */
  ownLog: { warn(o: object, m: string): void };
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
  /** Answers at once; `unexpectedErrors`: exceptions that it has survived. */
  pulse: { params: Record<string, never>; result: { unexpectedErrors: number } };
  status: { params: Record<string, never>; result: { pid: number } };
  /** Gives a deleted VM's lease back. */
  forget: { params: { id: string }; result: Record<string, never> };
  stop: { params: Record<string, never>; result: Record<string, never> };
  /** The host's resolver files, in case they are where the process may open none (host/sandbox/fence.ts). */
  resolverFiles: { params: ResolverFiles; result: Record<string, never> };
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
  /** Pid of the process at the other end of `#client`, also when that is closed; 0 if unknown. */
  #pid = 0;
  #pulse: Pulse | null = null;
  /** Exceptions that it has survived: those of processes that exited, and of this one. */
  #errorsBefore = 0;
  #errors = 0;
  #hangs = 0;
  readonly #user: number;
  readonly #stopWatching: () => void;
  #connecting: Promise<LineClient> | null = null;
  #closing = false;

  constructor(options: ProcessOptions) {
    this.#options = options;
    this.socket = options.socket;
    this.#user = isRoot() ? options.user : (process.getuid?.() ?? 0);
    this.#stopWatching = watchResolvers(() => this.#sendResolverFiles());
  }

  get health(): HelperHealth {
    const { name, title, log } = this.#options;
    return { name, title, log, unexpectedErrors: this.#errorsBefore + this.#errors, hangs: this.#hangs };
  }

  /** For a process that may not open them: /etc/resolv.conf may become a link to any directory. */
  #sendResolverFiles(): void {
    const client = this.#client;
    if (!client || client.gone) return;
    client.call('resolverFiles', readResolverFiles()).catch(() => {}); // sent again after a reconnect
  }

  /**
   * Runs a method; starts the process first if it does not answer. If it exits during the call, it is started again and
   * the method is retried once: every method is safe to repeat.
   */
  async call<K extends keyof M & string>(method: K, params: M[K]['params']): Promise<M[K]['result']> {
    const client = await this.#connect(true);
    try {
      return (await client.call(method, params, limitOf(method))) as M[K]['result'];
    } catch (cause) {
      if (!client.gone || this.#closing) throw cause;
      return (await (await this.#connect(true)).call(method, params, limitOf(method))) as M[K]['result'];
    }
  }

  /** As `call`, but returns null when no process runs. */
  async callIfRunning<K extends keyof M & string>(method: K, params: M[K]['params']): Promise<M[K]['result'] | null> {
    const client = await this.#connect(false).catch(() => null);
    if (!client) return null;
    try {
      return (await client.call(method, params, limitOf(method))) as M[K]['result'];
    } catch (cause) {
      if (client.gone) return null;
      throw cause;
    }
  }

  /** Stops the process if it runs, and waits until it has exited. Returns its pid, or null. */
  async stop(): Promise<number | null> {
    const client = await this.#connect(false).catch(() => null);
    if (!client) return null;
    const pid = this.#pid || (await this.callIfRunning('status', {}).catch(() => null))?.pid;
    if (!pid) return null;
    client.call('stop', {}, SLOW_LIMIT_MS).catch(() => {}); // it exits
    await this.#exited(pid);
    if (isAlive(pid)) killOf(this.#user, pid);
    await this.#exited(pid);
    return pid;
  }

  async #exited(pid: number): Promise<void> {
    const until = monotonicMs() + STOP_LIMIT_MS;
    while (isAlive(pid) && monotonicMs() < until) await sleep(POLL_MS);
  }

  /** Disconnects; the process keeps running. */
  close(): void {
    this.#closing = true;
    this.#stopWatching();
    this.#pulse?.stop();
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
    // the process that closed the last connection is exiting: its socket accepts connections until its very end
    const lost = this.#pid;
    this.#pid = 0;
    if (lost > 0) await this.#exited(lost);
    const first = await this.#try();
    if (first) return first;
    if (!start) throw new AnkaError('internal', `${this.#options.title} does not run`);
    const until = monotonicMs() + START_LIMIT_MS;
    let hasEnded = await this.#start();
    while (monotonicMs() < until) {
      const client = await this.#try();
      if (client) return client;
      // it has left the socket to another one, which has exited since then
      if (hasEnded()) hasEnded = await this.#start();
      await sleep(POLL_MS);
    }
    throw new AnkaError('network', `${this.#options.title} did not start; its log is ${this.#options.log}`);
  }

  /** The function that it returns says whether the process has exited without an error. */
  async #start(): Promise<() => boolean> {
    const { program, socket, leases, log, fence, user } = this.#options;
    await mkdir(dirname(socket), { recursive: true, mode: 0o700 });
    const [node, ...args] = fence ? fencedProgram(program, [socket, leases, log].map(dirname), fence.read) : ownProgram(program);
    const child = spawn(node, [...args, '--control', socket, '--leases', leases, '--log', log, ...asUser(user)], {
      detached: true,
      stdio: 'ignore',
      cwd: '/',
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => ENVIRONMENT.includes(name))),
    });
    child.on('error', () => {}); // `#dial` reports that the socket did not appear
    child.unref();
    return () => child.exitCode === 0;
  }

  #try(): Promise<LineClient | null> {
    return new Promise((resolve) => {
      const socket = createConnection(this.socket);
      socket.on('error', () => resolve(null));
      socket.once('connect', () => {
        const client = this.#adopt(socket);
        if (!client) socket.destroy();
        resolve(client);
      });
    });
  }

  /**
   * Null if another user's process listens there: it is neither trusted nor killed. The directory is the process's own:
   * it could lead us to any socket.
   */
  #adopt(socket: Socket): LineClient | null {
    const peer = peerOfSocket(socket);
    if (peer?.uid !== this.#user) return null;
    const client = new LineClient(socket, () => this.#options.onChanged());
    this.#client = client;
    this.#pid = peer.pid;
    this.#sendResolverFiles();
    void client.closed.then(() => {
      if (this.#client === client) this.#client = null;
      this.#errorsBefore += this.#errors;
      this.#errors = 0;
      if (!this.#closing) this.#options.onExit();
    });
    if (peer.pid > 0) this.#feelPulse(client, peer.pid);
    return client;
  }

  #feelPulse(client: LineClient, pid: number): void {
    this.#pulse?.stop();
    this.#pulse = new Pulse({
      pid,
      ask: () =>
        client.call('pulse', {}, null).then(
          (answer) => {
            this.#errors = Number((answer as Partial<HelperMethods['pulse']['result']> | null)?.unexpectedErrors) || 0;
          },
          (cause) => {
            if (client.gone) throw cause; // else an earlier version answered that it has no such method
          },
        ),
      onHung: (why) => {
        this.#hangs++;
        this.#options.ownLog.warn({ pid, why }, `${this.#options.title} does not answer: killing it`);
        killOf(this.#user, pid);
      },
    });
  }
}

const limitOf = (method: string): number | undefined => (SLOW_CALLS.includes(method) ? SLOW_LIMIT_MS : undefined);
