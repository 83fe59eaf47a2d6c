/**
 * The daemon's side of the service process: starts it when it is not there, re-attaches to it when it is, and starts it again when it dies.
 * Limits: a service that cannot be started is tried again each time it is called, never in a loop of its own.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { AnkaError } from '../../lib/errors.ts';
import { LineClient } from '../../lib/json-lines.ts';
import type { ServiceMethods } from './service-config.ts';

const START_LIMIT_MS = 20_000;

export interface ServiceOptions {
  runDir: string;
  stateDir: string;
  /** The service said that something changed. */
  onChanged: () => void;
  /** The service is gone without having been asked to. */
  onGone: () => void;
}

/** Command that runs a program of ours: the compiled file, or the source through tsx when there is no compiled one beside. */
export function ownProgram(url: string): string[] {
  const file = fileURLToPath(url);
  const compiled = file.replace(/\.ts$/, '.js');
  if (existsSync(compiled)) return [process.execPath, compiled];
  return [process.execPath, '--import', import.meta.resolve('tsx'), file];
}

export class ServiceClient {
  #options: ServiceOptions;
  #client: LineClient | null = null;
  #connecting: Promise<LineClient> | null = null;
  #closing = false;

  constructor(options: ServiceOptions) {
    this.#options = options;
  }

  get socketPath(): string {
    return join(this.#options.runDir, 'service.sock');
  }

  /** Runs a method; starts the service first when it does not answer. */
  async call<M extends keyof ServiceMethods>(method: M, params: ServiceMethods[M]['params']): Promise<ServiceMethods[M]['result']> {
    const client = await this.#connect(true);
    return (await client.call(method, params)) as ServiceMethods[M]['result'];
  }

  /** As `call`, but null when no service runs. */
  async callIfRunning<M extends keyof ServiceMethods>(method: M, params: ServiceMethods[M]['params']): Promise<ServiceMethods[M]['result'] | null> {
    const client = await this.#connect(false).catch(() => null);
    return client ? ((await client.call(method, params)) as ServiceMethods[M]['result']) : null;
  }

  /** Lets go; the service goes on. */
  close(): void {
    this.#closing = true;
    this.#client?.close();
  }

  #connect(start: boolean): Promise<LineClient> {
    if (this.#client) return Promise.resolve(this.#client);
    this.#connecting ??= this.#dial(start).finally(() => {
      this.#connecting = null;
    });
    return this.#connecting;
  }

  async #dial(start: boolean): Promise<LineClient> {
    const first = await this.#try();
    if (first) return first;
    if (!start) throw new AnkaError('internal', 'the network service does not run');
    await this.#start();
    const until = Date.now() + START_LIMIT_MS;
    while (Date.now() < until) {
      const client = await this.#try();
      if (client) return client;
      await sleep(20);
    }
    throw new AnkaError('network', `the network service did not start; its log is ${join(this.#options.stateDir, 'service.log')}`);
  }

  async #start(): Promise<void> {
    const { runDir, stateDir } = this.#options;
    await mkdir(runDir, { recursive: true, mode: 0o700 });
    const [node, ...args] = ownProgram(import.meta.url.replace(/service-client/, 'service-main'));
    const child = spawn(
      node as string,
      [...args, '--control', this.socketPath, '--leases', join(stateDir, 'leases.json'), '--log', join(stateDir, 'service.log')],
      {
        detached: true,
        stdio: 'ignore',
        cwd: '/',
      },
    );
    child.on('error', () => {}); // the wait for its socket tells
    child.unref();
  }

  #try(): Promise<LineClient | null> {
    return new Promise((resolve) => {
      const socket = createConnection(this.socketPath);
      socket.once('error', () => resolve(null));
      socket.once('connect', () => {
        const client = new LineClient(socket, () => this.#options.onChanged());
        this.#client = client;
        void client.closed.then(() => {
          this.#client = null;
          if (!this.#closing) this.#options.onGone();
        });
        resolve(client);
      });
    });
  }
}
