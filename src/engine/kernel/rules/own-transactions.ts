/**
 * Our transactions of nft, and whether the ruleset has changed by anything else.
 *
 * Theory of operation: the kernel's generation number grows by one with each transaction of any program. Where it grew
 * by one during ours, nothing else has changed.
 */
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { applyNft } from '../../../host/nft.ts';

export class OwnTransactions {
  /** Those in a row, without another program's in between: generations before the first, and after the last. */
  #from = 0;
  #to = -1;

  /** Generation after the last one of ours; -1 before the first. */
  get last(): number {
    return this.#to;
  }

  /** Applies `text` in one transaction. False if another program changed rules meanwhile. */
  apply(text: string): Promise<boolean> {
    return this.during(() => applyNft(text));
  }

  /** Runs `work`, which makes one transaction. False if another program changed rules meanwhile. */
  async during(work: () => Promise<unknown>): Promise<boolean> {
    const before = rulesetGeneration();
    await work();
    const after = rulesetGeneration();
    const alone = after - before === 1;
    if (!alone) this.#from = after;
    else if (before !== this.#to) this.#from = before;
    this.#to = after;
    return alone;
  }

  /** Whether the transaction that led to this generation was ours, and is among the last in a row. */
  includes(generation: number): boolean {
    return generation > this.#from && generation <= this.#to;
  }

  /** Whether nothing but our transactions has changed the ruleset from one generation to the other. */
  areAll(from: number, to: number): boolean {
    return from === to || (from >= this.#from && from <= to && to === this.#to);
  }
}
