/**
 * The table of packet filters in force (filter-table.ts).
 *
 * Theory of operation: as in applied-rules.ts, the table is rendered whole, and replaced in one transaction when its
 * text differs, or when it is no longer as it was right after. A change of other rules does not touch it, so that flows
 * stay. Without a filter there is no table.
 */
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { tableDigest, tableExists } from '../../../host/netlink/tables.ts';
import { parseFilter } from '../../../net/filter/parse-filter.ts';
import { isGroup } from '../../../net/policy/addresses.ts';
import { gatewayOf, parseIpv4, subnetContains } from '../../../wire/address.ts';
import type { DesiredState } from '../../engine.ts';
import { FILTER_TABLE, tapName } from '../names.ts';
import { type FilteredTap, type LocalAddresses, removeFilterTable, renderFilterTable } from './filter-table.ts';
import { type KeptCard, keptFlows } from './kept-flows.ts';
import type { OwnTransactions } from './own-transactions.ts';
import type { RuledNic } from './rule-input.ts';

/** A card with a filter, and its text. */
interface Filtered extends FilteredTap {
  text: string;
  addresses: readonly number[];
}

export class AppliedFilterTable {
  readonly #transactions: OwnTransactions;
  #applied: { text: string; digest: string | null; generation: number } | null = null;
  /** Texts of filters in force, by tap. */
  #texts: ReadonlyMap<string, string> = new Map();

  constructor(transactions: OwnTransactions) {
    this.#transactions = transactions;
  }

  /** `hostAddresses`: the host's own IPv4 addresses. */
  async apply({ networks }: DesiredState, nics: readonly RuledNic[], hostAddresses: readonly string[]): Promise<void> {
    const filtered = filteredCards(networks, nics);
    if (filtered.length === 0) {
      if (tableExists(...FILTER_TABLE)) await this.remove();
      return;
    }
    const local: LocalAddresses = { subnets: networks.map((n) => n.subnet), host: hostAddresses, macs: nics.map(({ nic }) => nic.outsideMac) };
    const text = renderFilterTable(filtered, local);
    if (this.#applied?.text === text && this.#isInForce()) return;
    await this.#replace(text, filtered, local);
  }

  async remove(): Promise<void> {
    await this.#transactions.apply(removeFilterTable());
    this.#applied = null;
    this.#texts = new Map();
  }

  #isInForce(): boolean {
    if (this.#applied === null) return false;
    const generation = rulesetGeneration();
    if (this.#transactions.areAll(this.#applied.generation, generation)) return true;
    const digest = tableDigest(...FILTER_TABLE);
    if (digest === null || digest !== this.#applied.digest) return false;
    this.#applied.generation = generation;
    return true;
  }

  async #replace(text: string, filtered: readonly Filtered[], local: LocalAddresses): Promise<void> {
    const kept = keptFlows(
      filtered.map((f) => this.#keptCard(f, local)),
      new Set(filtered.map((f) => f.tap)),
    );
    const alone = await this.#transactions.apply(`${text}\n${kept}`);
    this.#texts = new Map(filtered.map((f) => [f.tap, f.text]));
    const digest = tableDigest(...FILTER_TABLE);
    const generation = rulesetGeneration();
    // another program may have changed the table as well: the next check writes it again
    this.#applied = alone && generation === this.#transactions.last ? { text, digest, generation } : null;
  }

  #keptCard({ tap, rules, gateway, text, addresses }: Filtered, { subnets, host }: LocalAddresses): KeptCard {
    const own = new Set(host.map(parseIpv4));
    const isLocal = (ip: number): boolean => own.has(ip) || isGroup(ip) || subnets.some((s) => subnetContains(s, ip));
    return { tap, rules, same: this.#texts.get(tap) === text, addresses, network: { gateway: gateway ?? -1, isLocal } };
  }
}

/** Cards with at least one rule, that are attached to a network. */
function filteredCards(networks: DesiredState['networks'], nics: readonly RuledNic[]): Filtered[] {
  return nics.flatMap(({ nic, addresses }): Filtered[] => {
    if (nic.filter === undefined || nic.type === 'disconnected') return [];
    const rules = parseFilter(nic.filter);
    if (rules.length === 0) return [];
    const network = networks.find((n) => n.name === nic.type);
    return [{ tap: tapName(nic.id), rules, gateway: network ? gatewayOf(network.subnet) : null, text: nic.filter, addresses }];
  });
}
