/**
 * Watches the daemon while a client waits for it.
 *
 * Theory of operation: an answer may take as long as its operation, so the daemon is asked for another one, which it
 * gives at once. While that is due, the daemon's process is looked at (host/hang-detector.ts). The first question comes
 * after 2 s, each further one after twice the time, up to a minute: a client that listens for hours costs nothing.
 *
 * Limits: the daemon's pid is read from its lock file. Without one, a daemon counts as hung after 30 s.
 */
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { HangDetector, readActivity } from '../host/hang-detector.ts';
import { AnkaError } from '../lib/errors.ts';

const FIRST_MS = 2000;
const MAX_MS = 60_000;
const LOOK_MS = 250;
/** It may wait for a lock on its database for 5 s. */
const ASLEEP_MS = 8000;
/** The `cause` of the error about a daemon that does not answer. */
const HUNG = Symbol('hung');

/** The error says that the daemon is there, but does not answer: to try again has no use. */
export const isHung = (cause: unknown): boolean => cause instanceof AnkaError && cause.cause === HUNG;

function pidIn(lockFile: string | null): number {
  try {
    return lockFile === null ? 0 : Number.parseInt(readFileSync(lockFile, 'utf8'), 10) || 0;
  } catch {
    return 0;
  }
}

function hungError(pid: number, why: string): AnkaError {
  const who = pid > 0 ? `the daemon (pid ${pid})` : 'the daemon';
  const kill = pid > 0 ? `kill -9 ${pid}` : 'killall -9 ankad';
  const remedy = why.includes('stopped') ? `run 'kill -CONT ${pid}'` : `run '${kill}': the next command starts another one, and VMs and networks keep running`;
  return new AnkaError('daemon', `${who} does not answer: ${why}; ${remedy}`, { cause: HUNG });
}

export interface DaemonWatchOptions {
  socket: string;
  /** Holds the daemon's pid; null if it is unknown where. */
  lockFile: string | null;
  /** It is hung. Called once. */
  onHung: (error: AnkaError) => void;
}

export class DaemonWatch {
  readonly #options: DaemonWatchOptions;
  #timer: NodeJS.Timeout;
  #waitMs = FIRST_MS;
  #ended = false;

  constructor(options: DaemonWatchOptions) {
    this.#options = options;
    this.#timer = this.#plan(FIRST_MS, () => this.#ask());
  }

  /** The answer has arrived, or will not. */
  end(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  #plan(ms: number, work: () => void): NodeJS.Timeout {
    return setTimeout(work, ms).unref();
  }

  #ask(): void {
    const detector = new HangDetector(performance.now(), LOOK_MS, ASLEEP_MS);
    const pid = pidIn(this.#options.lockFile);
    let due = true;
    const settled = (): void => {
      if (!due) return;
      due = false;
      clearTimeout(this.#timer);
      this.#waitMs = Math.min(MAX_MS, 2 * this.#waitMs);
      if (!this.#ended) this.#timer = this.#plan(this.#waitMs, () => this.#ask());
    };
    const question = request({ socketPath: this.#options.socket, path: '/v1/pulse', agent: false, headers: { host: 'ankad' } }, (r) => {
      r.resume();
      settled();
    });
    question.on('error', settled); // the awaited answer fails, too
    question.end();
    const look = (): void => {
      if (!due || this.#ended) return void question.destroy();
      const why = detector.look(performance.now(), readActivity(pid));
      if (why === null) {
        this.#timer = this.#plan(LOOK_MS, look);
        return;
      }
      due = false;
      this.end();
      question.destroy();
      this.#options.onHung(hungError(pid, why));
    };
    this.#timer = this.#plan(LOOK_MS, look);
  }
}
