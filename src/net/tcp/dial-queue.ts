/**
 * In which order host sockets are opened when more are asked for than a turn of the event loop has time for.
 *
 * Theory of operation. Guests take turns, so that one guest's burst does not keep another waiting; of one guest's
 * connections the most urgent goes first (half-open.ts says how urgent), then the oldest. What has ended meanwhile is
 * passed over, and thrown out when it is more than half of what a guest has here: so the queue holds no more than twice
 * what is under way.
 */
import type { TcpFlow } from './flow.ts';
import type { TcpPortState } from './guest.ts';
import { Urgency } from './half-open.ts';

export interface Dial {
  readonly flow: TcpFlow;
  readonly host: string;
  readonly port: number;
}

/** Below this, nothing is thrown out. */
const SMALL = 256;

class Row {
  items: Dial[] = [];
  first = 0;

  push(dial: Dial, live: number): void {
    if (this.items.length - this.first > SMALL + 2 * live) {
      this.items = this.items.slice(this.first).filter((d) => !d.flow.ended);
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
      if (!dial.flow.ended) return dial;
    }
    return null;
  }
}

export class TcpDialQueue {
  /** By guest; in the order of their turns. */
  readonly #guests = new Map<TcpPortState, Row[]>();

  push(dial: Dial, urgency: number): void {
    const owner = dial.flow.owner;
    let rows = this.#guests.get(owner);
    if (!rows) {
      rows = Object.values(Urgency).map(() => new Row());
      this.#guests.set(owner, rows);
    }
    rows[urgency].push(dial, owner.dialling.size);
  }

  next(): Dial | null {
    for (const [owner, rows] of this.#guests) {
      this.#guests.delete(owner);
      for (const row of rows) {
        const dial = row.next();
        if (!dial) continue;
        this.#guests.set(owner, rows);
        return dial;
      }
    }
    return null;
  }
}
