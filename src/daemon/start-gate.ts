/**
 * Keeps starts of VMs apart from what must not happen while a VM runs or starts: a change of the engine, and a reset of
 * the networks.
 *
 * Theory of operation: a start enters before it does anything, and waits while the gate is closed. Work that closes the
 * gate checks first that nobody is inside; that it has to do itself, as it knows the message.
 */
export class StartGate {
  /** VMs that are being started: the engine attaches their cards before their machines run. */
  readonly starting = new Set<string>();
  #closed: Promise<unknown> | null = null;

  /** Returns when no such work is under way. Call `leave` when the start has ended, well or badly. */
  async enter(uuid: string): Promise<void> {
    while (this.#closed) await this.#closed;
    this.starting.add(uuid);
  }

  leave(uuid: string): void {
    this.starting.delete(uuid);
  }

  /** Runs the work while no start enters; after work that closed the gate before. */
  async close<T>(work: () => Promise<T>): Promise<T> {
    while (this.#closed) await this.#closed;
    const result = work();
    this.#closed = result.catch(() => {}); // only the caller gets the error
    try {
      return await result;
    } finally {
      this.#closed = null;
    }
  }
}
