/**
 * How often something may happen: so often at once, and so often in a time. Pure: time is an argument, in milliseconds
 * of any clock.
 */
export class TokenBucket {
  readonly #most: number;
  readonly #perMs: number;
  #left: number;
  #at = Number.NEGATIVE_INFINITY;

  /** `most` at once, and as many more in each `ms`, evenly. */
  constructor(most: number, ms: number) {
    this.#most = most;
    this.#perMs = most / ms;
    this.#left = most;
  }

  /** Once more: whether it may. A clock that was set back gives nothing and takes nothing. */
  take(now: number): boolean {
    if (now > this.#at) this.#left = Math.min(this.#most, this.#left + (now - this.#at) * this.#perMs);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}
