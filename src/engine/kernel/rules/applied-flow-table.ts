/**
 * The table of guests' connections in force (flow-table.ts).
 *
 * Theory of operation: as in applied-rules.ts, the table is compared with what it was after it was written, when some
 * rules of the host have changed. A daemon that finds the table of an earlier one writes its rules again, once;
 * connections keep their times. What the kernel does not support is left out, and `anka doctor` reports it.
 */
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { tableDigest, tableExists } from '../../../host/netlink/tables.ts';
import { acceptsNft } from '../../../host/nft.ts';
import { FLOW_TABLE } from '../names.ts';
import { type FlowFeatures, PROBES, removeFlowTable, renderFlowTable } from './flow-table.ts';
import type { OwnTransactions } from './own-transactions.ts';

/** What this host supports. Changes nothing. */
export async function findFlowFeatures(): Promise<FlowFeatures> {
  const [timeouts, count] = await Promise.all([acceptsNft(PROBES.timeouts), acceptsNft(PROBES.count)]);
  return { timeouts, count };
}

export class AppliedFlowTable {
  /** A digest of the table after it was written, and the generation at which it was last so. */
  #applied: { digest: string | null; generation: number } | null = null;

  readonly #transactions: OwnTransactions;

  constructor(transactions: OwnTransactions) {
    this.#transactions = transactions;
  }

  async apply(isWanted: boolean): Promise<void> {
    if (!isWanted) {
      if (tableExists(...FLOW_TABLE)) await this.remove();
    } else if (!this.#isInForce()) await this.#write();
  }

  async remove(): Promise<void> {
    await this.#transactions.apply(removeFlowTable());
    this.#applied = null;
  }

  #isInForce(): boolean {
    if (this.#applied === null) return false;
    const generation = rulesetGeneration();
    if (this.#transactions.areAll(this.#applied.generation, generation)) return true;
    const digest = tableDigest(...FLOW_TABLE);
    if (digest === null || digest !== this.#applied.digest) return false;
    this.#applied.generation = generation;
    return true;
  }

  async #write(): Promise<void> {
    const text = renderFlowTable(await findFlowFeatures());
    // of another version it has other definitions
    const alone = await this.#transactions.apply(text).catch(() => this.#transactions.apply(`${removeFlowTable()}\n${text}`));
    const digest = tableDigest(...FLOW_TABLE);
    const generation = rulesetGeneration();
    // another program may have changed the table as well: the next check writes it again
    this.#applied = alone && generation === this.#transactions.last ? { digest, generation } : null;
  }
}
