/** A token bucket: limits how often something happens, with a burst. Pure: time is an argument, in ms of any clock. */
export class TokenBucket {
  readonly #burst: number;
  readonly #perMs: number;
  #tokens: number;
  #at = Number.NEGATIVE_INFINITY;

  /** `burst` at once; refilled evenly within `ms`. */
  constructor(burst: number, ms: number) {
    this.#burst = burst;
    this.#perMs = burst / ms;
    this.#tokens = burst;
  }

  /** Takes a token if there is one. A clock that was set back changes nothing. */
  take(now: number): boolean {
    if (now > this.#at) this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMs);
    this.#at = now;
    if (this.#tokens < 1) return false;
    this.#tokens -= 1;
    return true;
  }
}
