/** Limits the challenge ACKs of one connection (RFC 5961 7). */

/** Challenge ACKs per second. */
const MAX_PER_SECOND = 10;

export class ChallengeLimit {
  #count = 0;
  /** Start of the current second, ms. */
  #from = 0;

  /** Whether one more may be sent at `now` (ms). */
  allow(now: number): boolean {
    if (now - this.#from >= 1000) {
      this.#from = now;
      this.#count = 0;
    }
    return this.#count++ < MAX_PER_SECOND;
  }
}
