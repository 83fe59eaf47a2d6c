/**
 * Delayed ACKs for small payload. The answer often carries the ACK, so that a request and its answer cost the guest two
 * frames instead of three.
 *
 * Theory of operation. The ACK of one small in-order segment waits for at most `delay` milliseconds. Anything sent to
 * the guest meanwhile carries it. A second segment, or anything else that wants an ACK, is acknowledged at once. If the
 * delay expires, the answer is slow, or the guest waits for the ACK (Nagle's algorithm). The flow's next small segments
 * are then acknowledged at once before a delay is tried again.
 *
 * Limits. A guest with Nagle's algorithm that sends a request in two parts waits for `delay` once in
 * IMMEDIATE_AFTER_TIMEOUT requests.
 *
 * Read first: RFC 9293 3.8.6.3, RFC 1122 4.2.3.2.
 */

/** Small segments that are acknowledged at once after a delay has expired. */
const IMMEDIATE_AFTER_TIMEOUT = 32;

/** The ACK that one flow owes its guest. */
export class PendingAck<F> {
  readonly flow: F;
  due = false;
  /** It must not be delayed. */
  urgent = false;
  /** Since when it is due, ms. */
  since = 0;
  /** In the list of delayed ACKs. */
  delayed = false;
  /** Small segments still to be acknowledged at once. */
  immediate = 0;

  constructor(flow: F) {
    this.flow = flow;
  }
}

export class TcpAckDelay<F> {
  readonly #delay: number;
  #delayed: PendingAck<F>[] = [];
  /** When the first delay expires; Infinity = none is delayed. */
  #at = Number.POSITIVE_INFINITY;

  /** `delay` in milliseconds; 0 = ACKs are not delayed. */
  constructor(delay: number) {
    this.#delay = delay;
  }

  /** Delays the ACK of a small segment if it may be. It is cancelled by clearing `due`. */
  tryDelay(ack: PendingAck<F>): boolean {
    if (this.#delay === 0) return false;
    if (ack.immediate > 0) {
      ack.immediate--;
      return false;
    }
    if (ack.delayed) return true;
    ack.delayed = true;
    this.#delayed.push(ack);
    this.#at = Math.min(this.#at, ack.since + this.#delay);
    return true;
  }

  nextAt(): number {
    return this.#at;
  }

  /** Acknowledges the flows whose delay has expired. */
  run(now: number, acknowledge: (flow: F) => void): void {
    if (now < this.#at) return;
    const delayed = this.#delayed;
    this.#delayed = [];
    this.#at = Number.POSITIVE_INFINITY;
    for (const ack of delayed) {
      ack.delayed = false;
      if (!ack.due) continue;
      const expiresAt = ack.since + this.#delay;
      if (expiresAt <= now) {
        ack.immediate = IMMEDIATE_AFTER_TIMEOUT;
        acknowledge(ack.flow);
      } else {
        ack.delayed = true;
        this.#delayed.push(ack);
        if (expiresAt < this.#at) this.#at = expiresAt;
      }
    }
  }
}
