/** The engine's side of its service process (service-main.ts): configures it, and knows its last status. */
import { join } from 'node:path';
import { INTERFACE_DIRECTORIES } from '../../../host/ethernet.ts';
import { RESOLVER_DIRECTORIES } from '../../../host/resolvers.ts';
import type { DnsForwarderProcess } from '../../doctor/resolvers.ts';
import type { DesiredState, HelperHealth } from '../../engine.ts';
import { ProcessClient } from '../../process/client.ts';
import { PROCESS_UIDS } from '../../process/users.ts';
import { type SelfSet, type ServiceMethods, type ServiceNicStatus, type ServiceStatus, serviceConfigOf } from './config.ts';

export interface ServiceClientOptions {
  runDir: string;
  stateDir: string;
  log: { warn(o: object, m: string): void };
  /** Leases or listeners may have changed. */
  onChanged: () => void;
  /** It exited without being stopped. */
  onExit: () => void;
}

export class ServiceClient {
  readonly #process: ProcessClient<ServiceMethods>;
  #status: ServiceStatus | null = null;
  /** The last configuration, as JSON; empty when it is not known to be in force. */
  #config = '';

  constructor({ runDir, stateDir, log, onChanged, onExit }: ServiceClientOptions) {
    this.#process = new ProcessClient({
      title: 'the network service',
      name: 'service',
      program: new URL('./service-main.ts', import.meta.url),
      // in directories of their own, as it can open no others
      socket: join(runDir, 'service/control.sock'),
      leases: join(stateDir, 'service/leases.json'),
      log: join(stateDir, 'service/log'),
      user: PROCESS_UIDS.service,
      ownLog: log,
      fence: { read: [...RESOLVER_DIRECTORIES, ...INTERFACE_DIRECTORIES] },
      onChanged,
      onExit: () => {
        this.#config = '';
        onExit();
      },
    });
  }

  /** The last known status; null before the first. */
  get status(): ServiceStatus | null {
    return this.#status;
  }

  get nics(): readonly ServiceNicStatus[] {
    return this.#status?.nics ?? [];
  }

  get health(): HelperHealth {
    return this.#process.health;
  }

  /** Brings the service to the desired state, and starts it when a network needs it. */
  async configure(desired: DesiredState, selfSetOf: (id: string) => SelfSet): Promise<void> {
    const config = serviceConfigOf(desired, selfSetOf);
    const text = JSON.stringify(config);
    if (text === this.#config) {
      this.#status = await this.#process.call('status', {});
      // not if it exited meanwhile: the call has started one that has no configuration
      if (this.#config !== '') return;
    }
    if (config.networks.length === 0 && (await this.#process.callIfRunning('status', {})) === null) return;
    this.#status = await this.#process.call('configure', config);
    this.#config = text;
  }

  /** Asks for the status again. A service that does not answer, or has no configuration yet, knows no addresses. */
  async refresh(): Promise<'unavailable' | 'unchanged' | 'changed'> {
    const before = JSON.stringify(this.#status?.nics);
    const status = this.#config === '' ? null : await this.#process.callIfRunning('status', {}).catch(() => null);
    if (status === null || this.#config === '') return 'unavailable';
    this.#status = status;
    return JSON.stringify(status.nics) === before ? 'unchanged' : 'changed';
  }

  /** For `anka doctor`; empty when it does not run. */
  async dnsForwarders(): Promise<DnsForwarderProcess[]> {
    const status = await this.#process.callIfRunning('status', {}).catch(() => null);
    return status ? [{ title: 'the network service', servers: status.upstreams }] : [];
  }

  /** Gives a deleted VM's lease back. */
  async forget(id: string): Promise<void> {
    await this.#process.callIfRunning('forget', { id });
  }

  /** Stops the service, and waits until it has exited. Returns its pid, or null when it did not run. */
  async stop(): Promise<number | null> {
    const pid = await this.#process.stop();
    this.#config = '';
    return pid;
  }

  /** Disconnects; the service keeps running. */
  close(): void {
    this.#process.close();
  }
}
