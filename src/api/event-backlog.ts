/** Events that wait for one reader: a bounded number, as a reader may stop reading without closing its connection. */
import type { DaemonEvent } from './types.ts';

/** Kept for a reader; later ones are counted only. */
export const MAX_WAITING = 1000;

export class EventBacklog {
  #waiting: DaemonEvent[] = [];
  #lost = 0;
  #lastLost = 0;

  add(event: DaemonEvent): void {
    if (this.#waiting.length < MAX_WAITING) this.#waiting.push(event);
    else {
      this.#lost++;
      this.#lastLost = event.time;
    }
  }

  /** Takes everything that waits, in order; the last says how many events are missing after it, if any are. */
  take(): DaemonEvent[] {
    const events = this.#waiting;
    this.#waiting = [];
    if (this.#lost > 0)
      events.push({ time: this.#lastLost, type: 'events.lost', message: `${this.#lost} events were not sent, as they were not read in time` });
    this.#lost = 0;
    return events;
  }
}
