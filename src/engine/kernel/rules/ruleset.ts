/**
 * The nft rules of a desired state, as one transaction: pure, from state to text.
 *
 * Theory of operation: each table is rendered whole and replaced, so no rule is ever edited in place.
 *
 * | table       | file            | what it does                                                        |
 * | ----------- | --------------- | ------------------------------------------------------------------- |
 * | netdev anka | netdev-table.ts | drops frames that the bridge would not show to table bridge         |
 * | bridge anka | bridge-table.ts | the guard: a NIC sends only from its own addresses; isolation       |
 * | ip anka     | ip-table.ts     | NAT, forwarding rules, isolation from outside, DHCP and DNS ports   |
 * | ip6 anka    | ip6-table.ts    | IPv6 does not leave its network                                     |
 *
 * Table inet anka_flows (flow-table.ts) is apart: no change replaces it.
 *
 * Limits: nft 1.0.6 garbles concatenated maps in its JSON output, so they are only ever written.
 */
import type { DesiredState } from '../../engine.ts';
import { TABLES } from '../names.ts';
import { bridgeTable } from './bridge-table.ts';
import { ipTable } from './ip-table.ts';
import { ip6Table } from './ip6-table.ts';
import { type NicTap, netdevTable } from './netdev-table.ts';
import type { RuledNic, Segments } from './rule-input.ts';

export interface RulesetInput {
  nics: readonly RuledNic[];
  segments: Segments;
  taps: readonly NicTap[];
  /** Addresses assigned to VMs that are not attached. */
  assignedElsewhere: readonly number[];
}

/** Everything, for `nft -f`. */
export function renderRuleset(desired: DesiredState, { nics, segments, taps, assignedElsewhere }: RulesetInput): string {
  const { networks } = desired;
  const metadata = desired.metadata === true;
  return [
    removeTables(),
    ipTable(networks, nics, metadata),
    ip6Table(networks, metadata),
    bridgeTable(desired, nics, segments, assignedElsewhere),
    netdevTable(taps),
  ].join('\n');
}

/** Removes our tables. A table that does not exist is created first, so that deleting it cannot fail. */
export function removeTables(): string {
  return TABLES.map(([family, name]) => `table ${family} ${name}\ndelete table ${family} ${name}`).join('\n');
}
