/**
 * The daemon's side of one network process (process/network-main.ts): starts, configures and stops it.
 *
 * Theory of operation: the process gets its whole configuration at once, and only when it differs from the last one.
 * Its files are in directories of its own, as it can open no others; root's processes run as other users
 * (docs/decisions/0012).
 */
import { join } from 'node:path';
import { RESOLVER_DIRECTORIES } from '../../host/resolvers.ts';
import { monotonicMs } from '../../lib/clock.ts';
import type { HelperHealth, NicStats } from '../engine.ts';
import { ProcessClient } from '../process/client.ts';
import { loadLeases, saveLeases } from '../process/lease-file.ts';
import { isRoot, PROCESS_GID, PROCESS_UIDS } from '../process/users.ts';
import type { NetworkConfig, NetworkFacts, NetworkMethods, NetworkStatus } from './process/config.ts';

export interface NetworkProcessOptions {
  name: 'shared' | 'host';
  runDir: string;
  stateDir: string;
  log: { warn(o: object, m: string): void };
  onChanged: () => void;
  /**
   * It exited, and was not asked to. `ranMs`: how long after its first configuration; large when another daemon did.
   */
  onExit: (ranMs: number) => void;
}

export class NetworkProcess {
  readonly #client: ProcessClient<NetworkMethods>;
  readonly #options: NetworkProcessOptions;
  readonly #leaseFile: string;
  /** The last configuration, as JSON; empty when it is not known. */
  #config = '';
  /** When it was first configured; null while it is not. */
  #configuredAt: number | null = null;

  constructor(options: NetworkProcessOptions) {
    const { name, runDir, stateDir } = options;
    const stateOfProcess = join(stateDir, `net-${name}`);
    this.#options = options;
    this.#leaseFile = join(stateOfProcess, 'leases.json');
    this.#client = new ProcessClient<NetworkMethods>({
      title: `the ${name} network's process`,
      name,
      program: new URL('./process/network-main.ts', import.meta.url),
      socket: join(runDir, `net-${name}`, 'control.sock'),
      leases: this.#leaseFile,
      log: join(stateOfProcess, 'log'),
      user: PROCESS_UIDS[name],
      ownLog: options.log,
      fence: { read: RESOLVER_DIRECTORIES },
      onChanged: options.onChanged,
      onExit: () => {
        const ranMs = this.#configuredAt === null ? Number.POSITIVE_INFINITY : monotonicMs() - this.#configuredAt;
        this.#config = '';
        this.#configuredAt = null;
        options.onExit(ranMs);
      },
    });
  }

  /** The control socket. */
  get socket(): string {
    return this.#client.socket;
  }

  /** The socket for streams (process/config.ts). */
  get streamSocket(): string {
    return `${this.#client.socket}.dial`;
  }

  get health(): HelperHealth {
    return this.#client.health;
  }

  /** Disconnects; the process keeps running. */
  close(): void {
    this.#client.close();
  }

  async stats(): Promise<NicStats[]> {
    return (await this.#client.callIfRunning('stats', {}).catch(() => null)) ?? [];
  }

  /** Null when it does not run. */
  facts(): Promise<NetworkFacts | null> {
    return this.#client.callIfRunning('facts', {});
  }

  /** Null when it does not run or does not answer. */
  status(): Promise<NetworkStatus | null> {
    return this.#client.callIfRunning('status', {}).catch(() => null);
  }

  /** Detaches the NICs that are not in `config`; leaves the rest of the network as it is. */
  async detachOthers(config: NetworkConfig): Promise<void> {
    const status = await this.#client.callIfRunning('status', {});
    if (!status) return;
    const present = new Set(status.nics.map((n) => n.id));
    if (status.nics.every((n) => config.nics.some((wanted) => wanted.id === n.id))) return;
    await this.#client.call('configure', { ...config, nics: config.nics.filter((n) => present.has(n.id)) });
    this.#config = '';
  }

  /** Brings the process to `config`; starts it when there is a NIC. */
  async configure(config: NetworkConfig): Promise<void> {
    const text = JSON.stringify(config);
    if (this.#config === text) return;
    if (config.nics.length === 0 && (await this.#client.callIfRunning('status', {})) === null) return;
    this.#configuredAt ??= monotonicMs();
    await this.#client.call('configure', config);
    this.#configuredAt ??= monotonicMs(); // it exited meanwhile, and another one was started
    this.#config = text;
  }

  /** Stops the process, if it runs. Returns its pid, or null. */
  stop(): Promise<number | null> {
    this.#config = '';
    return this.#client.stop();
  }

  /** Gives a deleted VM's lease back: in the process, or in its file while it does not run. */
  async forget(id: string): Promise<void> {
    if ((await this.#client.callIfRunning('forget', { id })) !== null) return;
    const saved = loadLeases(this.#leaseFile);
    if (!Object.values(saved).some((leases) => leases.some((l) => l.id === id))) return;
    const rest = Object.fromEntries(Object.entries(saved).map(([name, leases]) => [name, leases.filter((l) => l.id !== id)]));
    saveLeases(this.#leaseFile, rest, isRoot() ? { uid: PROCESS_UIDS[this.#options.name], gid: PROCESS_GID } : undefined);
  }
}
