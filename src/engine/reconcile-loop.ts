/**
 * The loop that keeps what an engine manages as desired. Both engines use it.
 *
 * Theory of operation: work runs one piece at a time, in the order of `enqueue`. A `cue` schedules one reconciliation;
 * further cues are merged into it until it starts. Other repeated work is merged, too (`request`): so the queue stays
 * short on a machine that is slower than the events. After each reconciliation that a cue caused, watchers are
 * notified.
 * Between `start` and `stop` the loop is active: only then do cues and periodic checks have an effect.
 *
 * Limits: when two merged cues ask for different delays, the first one counts.
 */

export interface ReconcileLoopOptions {
  /** Name of the engine in log lines. */
  title: string;
  log: { warn(o: object, m: string): void };
  /** Brings everything to the desired state. */
  reconcile: () => Promise<void>;
  /** Default time from a cue to its reconciliation, ms. */
  cueDelayMs: number;
  /** Checks that run while the loop is active; they do not wait for queued work unless they request some. */
  periodic?: readonly { everyMs: number; check: () => void | Promise<void> }[];
}

export class ReconcileLoop {
  readonly #options: ReconcileLoopOptions;
  readonly #watchers = new Set<() => void | Promise<void>>();
  #queue: Promise<unknown> = Promise.resolve();
  /** Requested work that has not begun. */
  readonly #requested = new Set<() => Promise<void>>();
  #cue: NodeJS.Timeout | null = null;
  #periodic: NodeJS.Timeout[] = [];
  #active = false;
  #closed = false;

  constructor(options: ReconcileLoopOptions) {
    this.#options = options;
  }

  /** True between `start` and `stop` or `close`. */
  get active(): boolean {
    return this.#active;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** To be called when there is a desired state. */
  start(): void {
    if (this.#active || this.#closed) return;
    this.#active = true;
    this.#periodic = (this.#options.periodic ?? []).map(({ everyMs, check }) => setInterval(() => this.#attempt(check), everyMs).unref());
  }

  /** To be called when there is no desired state any more. Queued work still runs. */
  stop(): void {
    this.#active = false;
    for (const t of this.#periodic) clearInterval(t);
    this.#periodic = [];
    if (this.#cue) clearTimeout(this.#cue);
    this.#cue = null;
  }

  /** Stops for good, and waits for work that was queued. */
  async close(): Promise<void> {
    this.#closed = true;
    this.stop();
    await this.#queue;
  }

  /** Runs `work` when all work before it has finished. A failure is logged, too, as the caller may not wait. */
  enqueue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#queue.then(work);
    const { log, title } = this.#options;
    this.#queue = result.catch((cause: Error) => log.warn({ error: cause.message }, title));
    return result;
  }

  /** As `enqueue`, unless this work waits already. Pass the same function each time. */
  request(work: () => Promise<void>): void {
    if (this.#requested.has(work)) return;
    this.#requested.add(work);
    void this.enqueue(() => {
      this.#requested.delete(work);
      return work();
    });
  }

  /** Something may differ from the desired state: reconcile in `delayMs`. */
  cue(delayMs = this.#options.cueDelayMs): void {
    if (!this.#active) return;
    this.#cue ??= setTimeout(() => {
      this.#cue = null;
      this.request(this.#reconcile);
    }, delayMs);
  }

  readonly #reconcile = async (): Promise<void> => {
    if (!this.#active) return;
    await this.#options.reconcile();
    this.notify();
  };

  /** Returns the unsubscribe function. */
  watch(onChange: () => void | Promise<void>): () => void {
    this.#watchers.add(onChange);
    return () => this.#watchers.delete(onChange);
  }

  /** Reports to watchers that the observed state may have changed. */
  notify(): void {
    for (const w of this.#watchers) this.#attempt(w);
  }

  /** Runs a check or a watcher. One that fails is logged, and keeps no other from running. */
  #attempt(work: () => void | Promise<void>): void {
    const { log, title } = this.#options;
    new Promise<void>((resolve) => resolve(work())).catch((cause: Error) => log.warn({ error: cause.message }, title));
  }
}
