/**
 * Start and shutdown of a helper process: what the kernel engine's service (service-main.ts) and the user engine's
 * network processes (network-main.ts) have in common.
 *
 * Theory of operation: `startHelper` reads the arguments, opens the log, gives up root except for `capabilities`, and
 * loads the leases. The program then creates what it serves, and `run` confines the process (docs/decisions/0012,
 * 0016), and serves the control protocol: JSON lines over a unix socket (0600), as in lib/json-lines. It checks who
 * connects, by the peer's credentials. Clients get `{event: 'changed'}` at most once a turn. The process outlives the
 * daemon, and a closing terminal. SIGUSR1 and SIGUSR2 do nothing.
 *
 * Limits: one process per control socket, which holds the lock beside it. Another one exits when the first answers; it
 * waits while that one starts, and takes over when it exits. An exception before the process serves ends it; later ones
 * are survived (host/unexpected-errors.ts), and the answer to `pulse` counts them. A process whose socket was removed
 * exits once its daemon has.
 */
import { chmodSync, existsSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pino, { type Logger } from 'pino';
import { isOwnPeer } from '../../host/ffi/unix-socket.ts';
import { LogFile } from '../../host/log-file.ts';
import { ProcessLock } from '../../host/process-lock.ts';
import { type ResolverFiles, watchResolvers } from '../../host/resolvers.ts';
import { confine } from '../../host/sandbox/confinement.ts';
import { dropRoot } from '../../host/sandbox/drop-root.ts';
import { type ErrorCount, surviveUnexpectedErrors } from '../../host/unexpected-errors.ts';
import { serveLines } from '../../lib/json-lines.ts';
import type { GivenResolverFiles } from '../upstream-resolvers.ts';
import { LeaseStore } from './lease-file.ts';

/** Bytes that wait for a client that does not read, such as a stopped daemon, before events are dropped. */
const MAX_UNSENT = 64 << 10;
/** Pause between two looks at the control socket, ms. */
const LOOK_MS = 2000;
/** Between two tries to take the lock, ms. */
const LOCK_RETRY_MS = 20;
/** Of a connection to a process that answers; one that is exiting closes it before, ms. */
const ANSWERS_MS = 200;
/** Time for the last answer and the last log lines to leave, ms. */
const EXIT_DELAY_MS = 50;

/** What a helper process serves, besides `pulse`, `resolverFiles` and `stop`. */
export interface Served {
  /** Methods of the control socket, by name. */
  methods: Record<string, (params: never) => Promise<unknown>>;
  onResolversChanged: () => void;
  /** Closes what it serves, before the process exits. */
  onStop?: () => void;
  /** Serves a second socket, `CONTROL.dial`. */
  streams?: Server;
  /** More for the log line of the start. */
  startInfo?: object;
}

export class Helper {
  readonly #title: string;
  readonly log: Logger;
  readonly leases: LeaseStore;
  readonly #control: string;
  readonly #errors: ErrorCount;
  readonly #clients = new Set<Socket>();
  /** The host's resolver files as the daemon sees them. */
  resolverFiles: GivenResolverFiles | null = null;
  #changedPlanned = false;
  /** It listens on its control socket. */
  serving = false;

  constructor(title: string, paths: { control: string; leases: string }, log: Logger, errors: ErrorCount) {
    this.#title = title;
    this.#control = paths.control;
    this.#errors = errors;
    this.log = log;
    this.leases = new LeaseStore(paths.leases, log);
  }

  /** Status has changed: notifies clients, once a turn. */
  notifyChanged(): void {
    if (this.#changedPlanned) return;
    this.#changedPlanned = true;
    setImmediate(() => {
      this.#changedPlanned = false;
      for (const c of this.#clients) if (c.writableLength < MAX_UNSENT) c.write('{"event":"changed"}\n');
    });
  }

  async run(served: Served): Promise<void> {
    await this.#takeLock();
    const kept = await confine();
    if (kept.length > 0) this.log.warn({ kept }, 'this system does not allow to drop all privileges that are not needed');
    watchResolvers(served.onResolversChanged);
    await this.#listen(served);
  }

  /** Waits for the lock until this is the process of the socket. Exits when another one is, also one without a lock. */
  async #takeLock(): Promise<void> {
    for (;;) {
      const isFree = ProcessLock.take(`${this.#control}.lock`) !== null;
      if (await isAnswered(this.#control)) {
        this.log.info(`another ${this.#title} answers on this socket: exiting`);
        process.exit(0);
      }
      if (isFree) return;
      await sleep(LOCK_RETRY_MS);
    }
  }

  async #listen(served: Served): Promise<void> {
    if (served.streams) await this.#listenAt(served.streams, `${this.#control}.dial`);
    const server = createServer((socket) => {
      this.#clients.add(socket);
      socket.on('error', () => {}); // 'close' follows
      const given: GivenResolverFiles = { files: null, current: true };
      socket.on('close', () => {
        this.#clients.delete(socket);
        given.current = false;
        if (this.resolverFiles === given) served.onResolversChanged();
      });
      const resolverFiles = async (files: ResolverFiles): Promise<void> => {
        given.files = files;
        this.resolverFiles = given;
        served.onResolversChanged();
      };
      const pulse = async (): Promise<object> => ({ unexpectedErrors: this.#errors.total });
      serveLines(socket, { ...served.methods, pulse, resolverFiles, stop: async () => this.#stop(served) });
    });
    await this.#listenAt(server, this.#control);
    this.serving = true;
    setInterval(() => this.#stopUnlessReachable(served), LOOK_MS).unref();
    this.log.info({ pid: process.pid, ...served.startInfo }, `${this.#title} started`);
  }

  /** A process that no daemon can reach would keep its ports from the next one. */
  #stopUnlessReachable(served: Served): void {
    if (this.#clients.size > 0 || existsSync(this.#control)) return;
    this.log.warn('the control socket was removed, and no daemon is connected: exiting');
    this.#stop(served);
  }

  #stop(served: Served): void {
    for (const suffix of ['', '.dial', '.lock']) rmSync(`${this.#control}${suffix}`, { force: true });
    served.onStop?.();
    setTimeout(() => process.exit(0), EXIT_DELAY_MS);
  }

  /**
   * Listens where a process that was killed may have left its socket. Its own user may connect, and root. Once it
   * listens, a client that cannot be accepted, for want of descriptors, is lost.
   */
  #listenAt(server: Server, path: string): Promise<void> {
    server.prependListener('connection', (socket: Socket) => {
      if (!isOwnPeer(socket)) socket.destroy();
    });
    rmSync(path, { force: true });
    return new Promise((resolve, reject) => {
      server.on('error', (e) => {
        if (server.listening) this.log.warn({ error: e.message }, 'a client of the control socket was not accepted');
        else reject(e);
      });
      server.listen(path, () => {
        chmodSync(path, 0o600);
        resolve();
      });
    });
  }
}

/** Whether a process listens on a unix socket, and is not about to exit. */
function isAnswered(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection(path);
    const end = (answered: boolean): void => {
      probe.destroy();
      resolve(answered);
    };
    probe.on('connect', () => setTimeout(end, ANSWERS_MS, true));
    probe.on('error', () => end(false));
    probe.on('close', () => end(false));
    probe.resume();
  });
}

export interface HelperOptions {
  /** File name without extension, for the usage message. */
  program: string;
  /** Name in log lines. */
  title: string;
  /** What the process keeps of root's capabilities. */
  capabilities: number[];
}

/** To be called first. Exits with 2 on wrong arguments. */
export function startHelper({ program, title, capabilities }: HelperOptions): Helper {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({ options: { control: text, leases: text, log: text, user: text, group: text } });
  const { control, leases } = values;
  if (!control || !leases || !values.log) {
    console.error(`usage: ${program} --control SOCKET --leases FILE --log FILE [--user UID --group GID]`);
    process.exit(2);
  }
  process.umask(0o077);
  const log = pino({}, new LogFile(values.log));
  for (const signal of ['SIGHUP', 'SIGUSR2']) process.on(signal, () => {}); // the terminal was closed; no meaning
  let helper: Helper | null = null;
  const errors = surviveUnexpectedErrors({ log, survives: () => helper?.serving ?? false, exit: () => process.exit(1) });
  if (values.user) dropRoot(Number(values.user), Number(values.group), [dirname(control), dirname(leases)], capabilities);
  helper = new Helper(title, { control, leases }, log, errors);
  return helper;
}
