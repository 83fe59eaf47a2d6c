/**
 * The last resort for exceptions and rejections that no code handles.
 *
 * Theory of operation: each is logged with its stack and counted, and the process goes on: it serves many VMs, and the
 * call that failed is one of them. After 100 within 10 s its state is taken for damaged: it
 * exits, and something else starts it again.
 *
 * Limits: what an exception left half done stays so. Every known cause is therefore handled at its place.
 */

const MAX_ERRORS = 100;
const WINDOW_MS = 10_000;

/** Counts errors, and decides when there are too many. */
export class ErrorCount {
  total = 0;
  /** Times of the last errors, by the caller's clock; oldest first. */
  readonly #times: number[] = [];

  /** Notes an error. True when there are too many. */
  add(now: number): boolean {
    this.total++;
    this.#times.push(now);
    if (this.#times.length > MAX_ERRORS) this.#times.shift();
    return this.#times.length === MAX_ERRORS && now - (this.#times[0] as number) <= WINDOW_MS;
  }
}

/** An error with its stack, whatever was thrown. */
function described(cause: unknown): string {
  return cause instanceof Error ? (cause.stack ?? cause.message) : `thrown: ${String(cause)}`;
}

export interface Survivor {
  log: { error(o: object, m: string): void };
  /** Whether the state allows to go on, e.g. because the process has started. */
  survives: () => boolean;
  /** Ends the process: it does not survive, or there were too many errors. Called once. */
  exit: () => void;
}

/** Survives unexpected errors from now on, where it can; returns their count. */
export function surviveUnexpectedErrors({ log, survives, exit }: Survivor): ErrorCount {
  const count = new ErrorCount();
  let ending = false;
  const note = (message: string) => (cause: unknown) => {
    log.error({ error: described(cause) }, message);
    const tooMany = count.add(performance.now());
    if (ending || (!tooMany && survives())) return;
    ending = true;
    if (tooMany) log.error({ errors: count.total }, `${MAX_ERRORS} unexpected errors within ${WINDOW_MS / 1000} s: exiting`);
    exit();
  };
  process.on('uncaughtException', note('unexpected error'));
  process.on('unhandledRejection', note('unhandled rejection'));
  return count;
}
