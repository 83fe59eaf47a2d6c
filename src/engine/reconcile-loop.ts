/**
 * The loop that keeps what an engine manages as desired. Both engines use it.
 *
 * Theory of operation: work runs one piece at a time. Commands (`enqueue`) run in their order, ahead of background work
 * that waits. A `cue` schedules one reconciliation; further cues are merged into it until it starts, and the shortest
 * delay counts. Other repeated work is merged, too (`request`): so the queue stays short on a machine that is slower
 * than the events. A command that reconciles (`supersede`) makes a scheduled reconciliation needless: it is dropped
 * when the command begins. After each reconciliation that a cue caused, watchers are notified.
 * Between `start` and `stop` the loop is active: only then do cues and periodic checks have an effect.
 *
 * Limits: background work that has begun is not interrupted, but may ask whether a command waits (`commandWaits`).
 */

import { monotonicMs } from '../lib/clock.ts';
import { everySecond } from '../lib/every-second.ts';

export interface ReconcileLoopOptions {
  /** Name of the engine in log lines. */
  title: string;
  log: { warn(o: object, m: string): void };
  /** Brings everything to the desired state. */
  reconcile: () => Promise<void>;
  /** Default time from a cue to its reconciliation, ms. */
  cueDelayMs: number;
  /**
   * Checks that run once a second while the loop is active; they do not wait for queued work unless they request some.
   */
  everySecond?: readonly (() => void | Promise<void>)[];
}

export class ReconcileLoop {
  readonly #options: ReconcileLoopOptions;
  readonly #watchers = new Set<() => void | Promise<void>>();
  /** Commands that have not begun. */
  readonly #commands: (() => Promise<void>)[] = [];
  /** Requested work that has not begun. */
  readonly #requested = new Set<() => Promise<void>>();
  /** Resolves when no work is left; null when there is none. */
  #running: Promise<void> | null = null;
  #cue: { timer: NodeJS.Timeout; at: number } | null = null;
  #endChecks: (() => void)[] = [];
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
    this.#endChecks = (this.#options.everySecond ?? []).map((check) => everySecond(() => this.#attempt(check)));
  }

  /** To be called when there is no desired state any more. Queued work still runs. */
  stop(): void {
    this.#active = false;
    for (const end of this.#endChecks) end();
    this.#endChecks = [];
    this.#dropCue();
  }

  /** Stops for good, and waits for work that was queued. */
  async close(): Promise<void> {
    this.#closed = true;
    this.stop();
    await this.#running;
  }

  /** A command has not begun yet. */
  get commandWaits(): boolean {
    return this.#commands.length > 0;
  }

  /** Runs a command when all commands before it have finished. A failure is logged, too, as the caller may not wait. */
  enqueue<T>(work: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#commands.push(() => {
        const result = work();
        result.then(resolve, reject);
        return result.then(() => {});
      });
      this.#run();
    });
  }

  /** As `enqueue`, for a command that reconciles. Watchers are notified if it took the place of a reconciliation. */
  supersede<T>(work: () => Promise<T>): Promise<T> {
    return this.enqueue(async () => {
      const wasCued = this.#dropCue();
      const wasRequested = this.#requested.delete(this.#reconcile);
      const result = await work();
      if (wasCued || wasRequested) this.notify();
      return result;
    });
  }

  /** Runs `work` when no command waits, unless it waits already. Pass the same function each time. */
  request(work: () => Promise<void>): void {
    this.#requested.add(work);
    this.#run();
  }

  #run(): void {
    this.#running ??= this.#work();
  }

  async #work(): Promise<void> {
    const { log, title } = this.#options;
    // what is added in this turn of the event loop may have to go first
    await Promise.resolve();
    for (let next = this.#next(); next; next = this.#next()) {
      try {
        await next();
      } catch (cause) {
        log.warn({ error: (cause as Error).message }, title);
      }
    }
    this.#running = null;
  }

  #next(): (() => Promise<void>) | undefined {
    const command = this.#commands.shift();
    if (command) return command;
    const [requested] = this.#requested;
    if (requested) this.#requested.delete(requested);
    return requested;
  }

  /** Something may differ from the desired state: reconcile in `delayMs`. */
  cue(delayMs = this.#options.cueDelayMs): void {
    if (!this.#active) return;
    const at = monotonicMs() + delayMs;
    if (this.#cue && this.#cue.at <= at) return;
    this.#dropCue();
    const timer = setTimeout(() => {
      this.#cue = null;
      this.request(this.#reconcile);
    }, delayMs);
    this.#cue = { timer, at };
  }

  /** False if there was none. */
  #dropCue(): boolean {
    if (!this.#cue) return false;
    clearTimeout(this.#cue.timer);
    this.#cue = null;
    return true;
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
