/**
 * The nft rules in force.
 *
 * Theory of operation: `apply` renders the rules, and writes them when the text differs from the last one, or when our
 * tables are no longer as they were right after. Elements that packets add do not count. The tables are only read when
 * the kernel's generation number shows that a program has changed some rules. The transaction takes over what the old
 * tables had learned (kept-elements.ts). Then connections are cut that the new rules would not make
 * (old-connections.ts).
 *
 * Limits: a change by another program between the transaction and the reading would be taken for our own text. The
 * generation number shows it, and the next check writes the rules again.
 */
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { tableDigest, tableExists } from '../../../host/netlink/tables.ts';
import type { DesiredState } from '../../engine.ts';
import { ALL_TABLES, TABLES } from '../names.ts';
import { AppliedFilterTable } from './applied-filter-table.ts';
import { AppliedFlowTable } from './applied-flow-table.ts';
import { connectionFacts } from './connection-policy.ts';
import { forgottenElements, keptElements } from './kept-elements.ts';
import { OldConnections } from './old-connections.ts';
import type { OwnTransactions } from './own-transactions.ts';
import { type RulesetInput, removeTables, renderRuleset } from './ruleset.ts';

export interface RulesInput extends RulesetInput {
  /** Called before our tables are replaced. */
  beforeReplace: () => void;
  /** Whether an element of set `heard` is kept. */
  keepsHeard: (tap: string, ip: number) => boolean;
  /** The host's own IPv4 addresses. */
  hostAddresses: readonly string[];
  /** False while the NICs' leases cannot be known. */
  addressesKnown: boolean;
}

export class AppliedRules {
  /** The text that was written, a digest of our tables afterwards, and the generation at which they were last so. */
  #applied: { text: string; digest: string; generation: number } | null = null;
  readonly #transactions: OwnTransactions;
  readonly #flows: AppliedFlowTable;
  readonly #filters: AppliedFilterTable;
  readonly #connections = new OldConnections();
  /** Our tables have been found damaged, and connections were not checked since. */
  #damaged = false;

  constructor(transactions: OwnTransactions) {
    this.#transactions = transactions;
    this.#flows = new AppliedFlowTable(transactions);
    this.#filters = new AppliedFilterTable(transactions);
  }

  /** Our tables have been written. */
  get present(): boolean {
    return this.#applied !== null;
  }

  async apply(desired: DesiredState, input: RulesInput): Promise<void> {
    // first, as what the rules accept needs it
    await this.#flows.apply(desired.networks.length > 0);
    const text = desired.networks.length === 0 ? removeTables() : renderRuleset(desired, input);
    const intact = this.#areIntact();
    if (!intact && this.#applied !== null) this.#damaged = true;
    if (!intact || this.#applied?.text !== text) await this.#replace(text, desired, input);
    // behind the guard: where a filter cannot be applied, the others' rules are in force
    await this.#filters.apply(desired, input.nics, input.hostAddresses);
    if (!input.addressesKnown) return;
    await this.#connections.follow(connectionFacts(desired, input.nics, input.assignedElsewhere, this.#connections.facts), this.#damaged);
    this.#damaged = false;
  }

  /** Our tables are as the last transaction left them. */
  #areIntact(): boolean {
    if (this.#applied === null) return false;
    const generation = rulesetGeneration();
    if (this.#transactions.areAll(this.#applied.generation, generation)) return true;
    const digest = digestOfTables();
    // missing tables are never as desired, even if the listing after the transaction lacked them, too
    const intact = digest === this.#applied.digest && (digest === '') === (this.#applied.text === removeTables());
    if (intact) this.#applied.generation = generation;
    return intact;
  }

  async #replace(text: string, desired: DesiredState, input: RulesInput): Promise<void> {
    if (this.#applied !== null) input.beforeReplace();
    const kept = desired.networks.length === 0 ? '' : keptElements(desired.nics, text, input.keepsHeard);
    const alone = await this.#write(`${text}\n${kept}`, forgottenElements(desired.nics));
    const digest = digestOfTables();
    const generation = rulesetGeneration();
    const isOurs = alone && generation === this.#transactions.last;
    this.#applied = isOurs ? { text, digest, generation } : { text, digest: 'changed by another program', generation: -1 };
  }

  /** `forgotten`: removes elements. One of them may have been removed just now, which would fail the transaction. */
  async #write(text: string, forgotten: string): Promise<boolean> {
    try {
      return await this.#transactions.apply(`${text}\n${forgotten}`);
    } catch (cause) {
      if (forgotten === '') throw cause;
      return this.#transactions.apply(text);
    }
  }

  /** The NIC was deleted: its addresses may be given to others. */
  forgetNic(id: string): Promise<void> {
    return this.#connections.forget(id);
  }

  /** Cuts all connections of our networks. To be called when their interfaces are removed. */
  cutConnections(): Promise<void> {
    return this.#connections.cutAll();
  }

  /** Deletes our tables. Returns them, one line each. */
  async remove(): Promise<string[]> {
    const tables = ALL_TABLES.filter(([f, t]) => tableExists(f, t)).map(([f, t]) => `nft table ${f} ${t}`);
    if (tables.length > 0) {
      await this.#transactions.apply(removeTables());
      await this.#flows.remove();
      await this.#filters.remove();
    }
    this.#applied = null;
    return tables;
  }
}

/** Changes with our tables, but not with what packets add to them. Empty when a table is missing. */
function digestOfTables(): string {
  const digests = TABLES.map(([f, t]) => tableDigest(f, t));
  return digests.includes(null) ? '' : digests.join();
}
