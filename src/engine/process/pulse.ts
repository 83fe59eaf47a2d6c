/**
 * The pulse of a helper process: it is asked for an answer at an interval, and reported when it is hung
 * (docs/decisions/0026).
 *
 * Theory of operation: one question every 1.5 s. If it is not answered within 250 ms, the process is looked at four
 * times a second (host/hang-detector.ts) until it answers or is found to be hung. So one that is stopped is reported
 * after 3 s at the latest, and one that loops or sleeps after 3.5 s.
 *
 * Limits: it is silent after its report, and when a question fails, as the connection is then closed.
 */
import { HangDetector, readActivity } from '../../host/hang-detector.ts';
import { monotonicMs } from '../../lib/clock.ts';

const BEAT_MS = 1500;
const LOOK_MS = 250;

export interface PulseOptions {
  pid: number;
  /** Asks for an answer of any kind; rejects when the connection is closed. */
  ask: () => Promise<unknown>;
  /** It is hung; `why` completes "it does not answer: …". Called once. */
  onHung: (why: string) => void;
}

export class Pulse {
  readonly #options: PulseOptions;
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;
  /** While a question is unanswered. */
  #detector: HangDetector | null = null;

  /** Asks the first question at once. */
  constructor(options: PulseOptions) {
    this.#options = options;
    this.#beat();
  }

  stop(): void {
    this.#stopped = true;
    this.#detector = null;
    if (this.#timer) clearTimeout(this.#timer);
  }

  #beat(): void {
    const detector = new HangDetector(monotonicMs(), LOOK_MS);
    this.#detector = detector;
    this.#options.ask().then(
      () => {
        if (this.#detector === detector) this.#answered();
      },
      () => this.stop(),
    );
    this.#plan(LOOK_MS, () => this.#lookSoon(detector));
  }

  #answered(): void {
    this.#detector = null;
    this.#plan(BEAT_MS, () => this.#beat());
  }

  #plan(ms: number, work: () => void): void {
    if (this.#stopped) return;
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = setTimeout(work, ms);
    this.#timer.unref();
  }

  /** After the answers that have arrived were read: this process may have been stopped itself. */
  #lookSoon(detector: HangDetector): void {
    setImmediate(() => {
      if (this.#detector !== detector) return;
      const why = detector.look(monotonicMs(), readActivity(this.#options.pid));
      if (why === null) return this.#plan(LOOK_MS, () => this.#lookSoon(detector));
      this.stop();
      this.#options.onHung(why);
    });
  }
}
