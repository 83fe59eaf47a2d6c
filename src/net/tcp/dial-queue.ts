/**
 * The order in which host sockets are opened when more are requested than one turn of the event loop has time for.
 *
 * Theory of operation. Guests are served round-robin, so that a burst of one guest does not delay the others. Within a
 * guest the lowest DialPriority (half-open.ts) goes first, then the oldest. Dials of closed flows are skipped. They are
 * removed in bulk once they outnumber the guest's half-open flows, so the queue holds at most about twice as many.
 */
import type { TcpFlow, TcpPortState } from './flow.ts';
import { DialPriority } from './half-open.ts';
import type { TcpDestination, TcpService } from './interface.ts';

export interface Dial {
  readonly flow: TcpFlow;
  readonly to: TcpDestination | TcpService;
}

/** Entries below which a queue is not cleaned up. */
const MIN_CLEANUP = 256;

/** Dials of one guest and one priority, oldest first. */
class Fifo {
  items: Dial[] = [];
  first = 0;

  /** `live` is how many flows of the guest are half-open. */
  push(dial: Dial, live: number): void {
    if (this.items.length - this.first > MIN_CLEANUP + 2 * live) {
      this.items = this.items.slice(this.first).filter((d) => !d.flow.closed);
      this.first = 0;
    }
    this.items.push(dial);
  }

  next(): Dial | null {
    while (this.first < this.items.length) {
      const dial = this.items[this.first++];
      if (this.first === this.items.length) {
        this.items.length = 0;
        this.first = 0;
      }
      if (!dial.flow.closed) return dial;
    }
    return null;
  }
}

export class TcpDialQueue {
  /** By guest, in round-robin order; each has one queue per priority. */
  readonly #guests = new Map<TcpPortState, Fifo[]>();

  push(dial: Dial, priority: number): void {
    const owner = dial.flow.owner;
    let queues = this.#guests.get(owner);
    if (!queues) {
      queues = Object.values(DialPriority).map(() => new Fifo());
      this.#guests.set(owner, queues);
    }
    queues[priority].push(dial, owner.halfOpenOut.size);
  }

  next(): Dial | null {
    for (const [owner, queues] of this.#guests) {
      this.#guests.delete(owner);
      for (const queue of queues) {
        const dial = queue.next();
        if (!dial) continue;
        this.#guests.set(owner, queues);
        return dial;
      }
    }
    return null;
  }
}
