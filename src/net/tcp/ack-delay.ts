/**
 * ACKs of small payload, held back for a moment, as the answer often carries them: a request and its answer then cost
 * the guest two frames instead of three.
 *
 * Theory of operation. One small segment in order is owed an ACK for at most `delay` milliseconds; whatever is sent to
 * the guest meanwhile pays the debt. A second one, or anything else that wants an ACK, is answered at once. When the
 * time runs out, the answer is not quick, or the guest itself waits for the ACK (Nagle's algorithm): then the flow's
 * next small segments are acknowledged at once, before it is tried again.
 *
 * Limits. A guest with Nagle's algorithm that sends a request in two parts waits for `delay`, once in that many
 * requests.
 *
 * Read first: RFC 9293 3.8.6.3, RFC 1122 4.2.3.2.
 */
import { Happened, type TcpFlow } from './flow.ts';

/** Small segments that are acknowledged at once after a delay that was in vain. */
const QUICK = 32;

export class TcpAckDelay {
  readonly #delay: number;
  #debtors: TcpFlow[] = [];
  /** When the first has waited long enough; Infinity = nobody waits. */
  #at = Number.POSITIVE_INFINITY;

  /** `delay` in milliseconds; 0 holds nothing back. */
  constructor(delay: number) {
    this.#delay = delay;
  }

  /** The flow owes an ACK of a small segment: whether it may wait. Its debt is paid when `ackDue` is false. */
  mayWait(flow: TcpFlow): boolean {
    if (this.#delay === 0) return false;
    if (flow.quickAcks > 0) {
      flow.quickAcks--;
      return false;
    }
    if (flow.ackHeld) return true;
    flow.ackHeld = true;
    this.#debtors.push(flow);
    this.#at = Math.min(this.#at, flow.ackSince + this.#delay);
    return true;
  }

  nextAt(): number {
    return this.#at;
  }

  /** Pays for those who have waited long enough. */
  run(now: number, acknowledge: (flow: TcpFlow) => void): void {
    if (now < this.#at) return;
    const debtors = this.#debtors;
    this.#debtors = [];
    this.#at = Number.POSITIVE_INFINITY;
    for (const flow of debtors) {
      flow.ackHeld = false;
      if (!flow.ackDue || flow.events & Happened.gone) continue;
      const due = flow.ackSince + this.#delay;
      if (due <= now) {
        flow.quickAcks = QUICK;
        acknowledge(flow);
      } else {
        flow.ackHeld = true;
        this.#debtors.push(flow);
        if (due < this.#at) this.#at = due;
      }
    }
  }
}
