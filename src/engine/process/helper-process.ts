/**
 * Start and shutdown of a helper process: what the kernel engine's service (service-main.ts) and the user engine's
 * network processes (network-main.ts) have in common.
 *
 * Theory of operation: `startHelper` reads the arguments, opens the log, gives up root except for `capabilities`, and
 * loads the leases. The program then creates what it serves, and `run` confines the process (docs/decisions/0012,
 * 0016), and serves the control protocol: JSON lines over a unix socket (0600), as in lib/json-lines. Clients get
 * `{event: 'changed'}` at most once a turn. The process outlives the daemon, and a closing terminal.
 *
 * Limits: one process per control socket; a second one exits at once while the first answers.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { parseArgs } from 'node:util';
import pino, { type Logger } from 'pino';
import { LogFile } from '../../host/log-file.ts';
import { watchResolvers } from '../../host/resolvers.ts';
import { confine } from '../../host/sandbox/confinement.ts';
import { dropRoot } from '../../host/sandbox/drop-root.ts';
import { serveLines } from '../../lib/json-lines.ts';
import { LeaseStore } from './lease-file.ts';

/** Time for the last answer and the last log lines to leave, ms. */
const EXIT_DELAY_MS = 50;

/** What a helper process serves, besides `forget` and `stop`. */
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
  readonly #clients = new Set<Socket>();
  #changedPlanned = false;

  constructor(title: string, control: string, leaseFile: string, log: Logger) {
    this.#title = title;
    this.#control = control;
    this.log = log;
    this.leases = new LeaseStore(leaseFile, log);
  }

  /** Status has changed: notifies clients, once a turn. */
  notifyChanged(): void {
    if (this.#changedPlanned) return;
    this.#changedPlanned = true;
    setImmediate(() => {
      this.#changedPlanned = false;
      for (const c of this.#clients) c.write('{"event":"changed"}\n');
    });
  }

  async run(served: Served): Promise<void> {
    const kept = await confine();
    if (kept.length > 0) this.log.warn({ kept }, 'this system does not allow to drop all privileges that are not needed');
    watchResolvers(served.onResolversChanged);
    const probe = createConnection(this.#control);
    probe.on('connect', () => {
      this.log.info(`another ${this.#title} answers on this socket: exiting`);
      process.exit(0);
    });
    probe.on('error', () => void this.#listen(served));
  }

  async #listen(served: Served): Promise<void> {
    if (served.streams) await listenAt(served.streams, `${this.#control}.dial`);
    const server = createServer((socket) => {
      this.#clients.add(socket);
      socket.on('error', () => {}); // 'close' follows
      socket.on('close', () => this.#clients.delete(socket));
      serveLines(socket, { ...served.methods, stop: async () => this.#stop(served) });
    });
    await listenAt(server, this.#control);
    this.log.info({ pid: process.pid, ...served.startInfo }, `${this.#title} started`);
  }

  #stop(served: Served): void {
    rmSync(this.#control, { force: true });
    rmSync(`${this.#control}.dial`, { force: true });
    served.onStop?.();
    setTimeout(() => process.exit(0), EXIT_DELAY_MS);
  }
}

/** Listens where a process that was killed may have left its socket. */
function listenAt(server: Server, path: string): Promise<void> {
  rmSync(path, { force: true });
  return new Promise((resolve) => {
    server.listen(path, () => {
      chmodSync(path, 0o600);
      resolve();
    });
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
  process.on('SIGHUP', () => {}); // the terminal was closed
  process.on('uncaughtException', (e) => {
    log.fatal({ error: e.stack }, 'uncaught');
    process.exitCode = 1;
    setTimeout(() => process.exit(1), EXIT_DELAY_MS);
  });
  if (values.user) dropRoot(Number(values.user), Number(values.group), [dirname(control), dirname(leases)], capabilities);
  return new Helper(title, control, leases, log);
}
