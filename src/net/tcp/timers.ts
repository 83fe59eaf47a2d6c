/**
 * Deadlines of all flows: a timer wheel.
 *
 * Theory of operation. A timer is in at most one slot: that of the deadline it had when it was inserted. Moving a
 * deadline later only stores the new time. The timer moves to its new slot when the old slot comes up. So the usual
 * case, every ACK postponing the retransmission timer, costs one store. `nextAt` is the one deadline of the whole path.
 *
 * Limits. A deadline is met up to WIDTH (16 ms) late, never early.
 */

/** Width of a slot, ms. */
const WIDTH = 16;
const SLOTS = 1024;

/** One flow's deadline, and its links in the wheel. */
export class Timer<F> {
  readonly flow: F;
  /** ms; Infinity = none. */
  deadline = Number.POSITIVE_INFINITY;
  /** Slot counted from time 0; −1 = in no slot. */
  slot = -1;
  before: Timer<F> | null = null;
  after: Timer<F> | null = null;

  constructor(flow: F) {
    this.flow = flow;
  }
}

export class TimerWheel<F> {
  readonly #slots: (Timer<F> | null)[] = new Array<Timer<F> | null>(SLOTS).fill(null);
  /** The last slot that was run, counted from time 0. */
  #done: number;
  #count = 0;

  constructor(now: number) {
    this.#done = Math.floor(now / WIDTH);
  }

  /** Sets the timer to `deadline` (ms; Infinity = off). */
  set(timer: Timer<F>, deadline: number): void {
    timer.deadline = deadline;
    if (deadline === Number.POSITIVE_INFINITY) return;
    const slot = this.#slotOf(deadline);
    if (timer.slot >= 0) {
      if (timer.slot <= slot) return;
      this.remove(timer);
    }
    this.#insert(timer, slot);
  }

  #slotOf(deadline: number): number {
    const slot = Math.floor(deadline / WIDTH) + 1;
    return Math.min(Math.max(slot, this.#done + 1), this.#done + SLOTS - 1);
  }

  #insert(timer: Timer<F>, slot: number): void {
    const i = slot % SLOTS;
    timer.slot = slot;
    timer.before = null;
    timer.after = this.#slots[i];
    if (timer.after) timer.after.before = timer;
    this.#slots[i] = timer;
    this.#count++;
  }

  remove(timer: Timer<F>): void {
    if (timer.slot < 0) return;
    if (timer.before) timer.before.after = timer.after;
    else this.#slots[timer.slot % SLOTS] = timer.after;
    if (timer.after) timer.after.before = timer.before;
    timer.before = timer.after = null;
    timer.slot = -1;
    this.#count--;
  }

  /** When `run` must be called next; Infinity when no timer is set. */
  nextAt(): number {
    if (this.#count === 0) return Number.POSITIVE_INFINITY;
    for (let s = this.#done + 1; s < this.#done + SLOTS; s++) if (this.#slots[s % SLOTS]) return s * WIDTH;
    return Number.POSITIVE_INFINITY;
  }

  /** Calls `expire` for every flow whose deadline has passed. */
  run(now: number, expire: (flow: F) => void): void {
    const until = Math.floor(now / WIDTH);
    if (this.#count === 0) this.#done = Math.max(this.#done, until);
    while (this.#done < until) {
      const s = ++this.#done;
      let timer = this.#slots[s % SLOTS];
      this.#slots[s % SLOTS] = null;
      while (timer) {
        const next: Timer<F> | null = timer.after;
        timer.before = timer.after = null;
        timer.slot = -1;
        this.#count--;
        if (timer.deadline <= now) {
          timer.deadline = Number.POSITIVE_INFINITY;
          // `expire` may remove other timers: the rest of this list stays reachable from the slot
          this.#slots[s % SLOTS] = next;
          if (next) next.before = null;
          expire(timer.flow);
          timer = this.#slots[s % SLOTS];
          this.#slots[s % SLOTS] = null;
          continue;
        }
        if (timer.deadline !== Number.POSITIVE_INFINITY) this.#insert(timer, this.#slotOf(timer.deadline));
        timer = next;
      }
    }
  }
}
