/** What changed on the host since the last check. */
import { monotonicMs } from '../../lib/clock.ts';

/** Least time between checks for other programs' tables. */
const FOREIGN_MS = 1000;
/** After so many transactions a whole check is due. */
const MAX_GENERATIONS = 64;

export interface DueCheck {
  /** Anything may have changed. */
  all: boolean;
  /** An interface changed, or an address, a route or a program of one. */
  links: boolean;
  /** Of the nftables ruleset: what each transaction led to. */
  generations: readonly number[];
}

export class PendingCheck implements DueCheck {
  all = false;
  links = false;
  #generations: number[] = [];
  #foreignAt = Number.NEGATIVE_INFINITY;

  get generations(): readonly number[] {
    return this.#generations;
  }

  addRules(generation: number): void {
    if (this.#generations.length < MAX_GENERATIONS) this.#generations.push(generation);
    else this.all = true;
  }

  /** How long to wait until other programs' tables are checked, ms; `shortest`: where they were not just now. */
  foreignDelay(shortest: number): number {
    return Math.max(shortest, this.#foreignAt + FOREIGN_MS - monotonicMs());
  }

  /** To be called when other programs' tables are checked. */
  checksForeign(): void {
    this.#foreignAt = monotonicMs();
  }

  /** Returns what is due, and begins anew. */
  take(): DueCheck {
    const { all, links } = this;
    const generations = this.#generations;
    this.all = false;
    this.links = false;
    this.#generations = [];
    return { all, links, generations };
  }
}
