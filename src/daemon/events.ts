/** Events, sent to every listener and to the log. */
import type { DaemonEvent } from '../api/types.ts';
import type { Log } from './log.ts';

export class EventLog {
  #listeners = new Set<(e: DaemonEvent) => void>();
  #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  emit(type: string, message: string, vm?: { uuid: string; name: string }): void {
    const event: DaemonEvent = { time: Date.now(), type, message, ...(vm ? { vm: { uuid: vm.uuid, name: vm.name } } : {}) };
    this.#log.info({ event: type, ...(vm ? { vm: vm.name } : {}) }, message);
    for (const listener of this.#listeners) listener(event);
  }

  /** Returns the function that removes the listener. */
  on(listener: (e: DaemonEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
