/**
 * Turns to log in to a guest: few at a time, in the order of the requests.
 *
 * An sshd drops connections beyond a number of logins that are not complete: Dropbear at 5 of one address, OpenSSH at
 * random from 10 (MaxStartups).
 */
import { AnkaError } from '../lib/errors.ts';

/** Logins to one guest at a time. */
const AT_ONCE = 4;
/** Clients that wait for a turn of one guest. */
const MAX_WAITING = 1000;

/** A turn, or the wait for it. */
interface Turn {
  granted: Promise<void>;
  /** Leaves the queue, or passes the turn on. May be called again. */
  end(): void;
}

interface Queue {
  active: number;
  /** Grants the turn of each waiting client, in order. */
  waiting: Set<() => void>;
}

export class LoginTurns {
  #queues = new Map<string, Queue>();

  /** Queues a client for the guest with this id. Throws `badState` when too many wait. */
  take(id: string): Turn {
    const queue = this.#queues.get(id) ?? { active: 0, waiting: new Set() };
    if (queue.waiting.size >= MAX_WAITING) throw new AnkaError('badState', `${MAX_WAITING} logins to this VM are waiting; try again later`);
    this.#queues.set(id, queue);
    let grant = (): void => {};
    const granted = new Promise<void>((resolve) => {
      grant = resolve;
    });
    const begin = (): void => {
      queue.active++;
      grant();
    };
    if (queue.active < AT_ONCE) begin();
    else queue.waiting.add(begin);
    let ended = false;
    const end = (): void => {
      if (ended) return;
      ended = true;
      if (!queue.waiting.delete(begin)) queue.active--;
      const [next] = queue.waiting;
      if (next && queue.active < AT_ONCE) {
        queue.waiting.delete(next);
        next();
      }
      if (queue.active === 0 && queue.waiting.size === 0) this.#queues.delete(id);
    };
    return { granted, end };
  }
}
