/**
 * The nft rules in force.
 *
 * Theory of operation: `apply` renders the rules, and writes them when the text differs from the last one, or when our
 * tables are no longer as nft listed them right after. Elements that packets add do not count. The transaction takes
 * over what the old tables had learned (kept-elements.ts). Then connections of NICs that have moved are closed.
 *
 * Limits: a change by another program between the transaction and the listing would be taken for our own text. The
 * kernel's generation number shows it, and the next check writes the rules again.
 */
import { createHash } from 'node:crypto';
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { applyNft, listTable, withoutDynamicElements } from '../../../host/nft.ts';
import type { DesiredState } from '../../engine.ts';
import { TABLES } from '../names.ts';
import { closeConnections, NicLocations, type StaleConnections } from './flows.ts';
import { keptElements } from './kept-elements.ts';
import type { NicTap } from './netdev-table.ts';
import type { RuledNic, Segments } from './rule-input.ts';
import { removeTables, renderRuleset } from './ruleset.ts';

export interface RulesInput {
  nics: readonly RuledNic[];
  segments: Segments;
  taps: readonly NicTap[];
  /** Called before our tables are replaced. Returns claims (elements of set `claim`) that nobody has read yet. */
  beforeReplace: () => Promise<string[]>;
}

export class AppliedRules {
  /** The text that was written, and a digest of our tables afterwards. */
  #applied: { text: string; digest: string } | null = null;
  readonly #locations = new NicLocations();
  /** Connections still to be closed. */
  #stale: StaleConnections[] = [];

  /** Our tables have been written. */
  get present(): boolean {
    return this.#applied !== null;
  }

  async apply(desired: DesiredState, input: RulesInput): Promise<void> {
    const text = desired.networks.length === 0 ? removeTables() : renderRuleset(desired.networks, input.nics, input.segments, input.taps);
    if (!(await this.#isInForce(text, desired))) await this.#replace(text, desired, input);
    this.#stale.push(...this.#locations.update(input.nics));
    await closeConnections(this.#stale, desired.networks);
    this.#stale = [];
  }

  async #isInForce(text: string, desired: DesiredState): Promise<boolean> {
    if (this.#applied?.text !== text) return false;
    const digest = await digestOfTables();
    // missing tables are never as desired, even if the listing after the transaction lacked them, too
    return digest === this.#applied.digest && (digest === '') === (desired.networks.length === 0);
  }

  async #replace(text: string, desired: DesiredState, input: RulesInput): Promise<void> {
    const claims = this.#applied === null ? [] : await input.beforeReplace();
    const addClaims = claims.length === 0 ? '' : `add element bridge anka claim { ${claims.join(', ')} }`;
    const kept = desired.networks.length === 0 ? [] : [addClaims, await keptElements(desired.nics, text)];
    const generation = rulesetGeneration();
    await applyNft([text, ...kept].join('\n'));
    const digest = await digestOfTables();
    const alone = rulesetGeneration() - generation === 1;
    this.#applied = { text, digest: alone ? digest : 'changed by another program' };
  }

  forgetNic(id: string): void {
    this.#locations.forget(id);
  }

  /** Deletes our tables. Returns them, one line each. */
  async remove(): Promise<string[]> {
    const found = await Promise.all(TABLES.map(async ([f, t]) => ((await listTable(f, t)) === null ? null : `nft table ${f} ${t}`)));
    const tables = found.filter((t) => t !== null);
    if (tables.length > 0) await applyNft(removeTables());
    this.#applied = null;
    return tables;
  }
}

/** Changes with our tables, but not with the elements that packets add. Empty when a table is missing. */
async function digestOfTables(): Promise<string> {
  const tables = await Promise.all(TABLES.map(([f, t]) => listTable(f, t)));
  if (tables.includes(null)) return '';
  return createHash('sha256')
    .update(tables.map((t) => withoutDynamicElements(t ?? '')).join('\n'))
    .digest('hex');
}
