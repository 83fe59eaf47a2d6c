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
 * Limits: nft 1.0.6 garbles concatenated maps in its JSON output, so they are only ever written.
 */
import type { DesiredNetwork } from '../../engine.ts';
import { TABLES } from '../names.ts';
import { bridgeTable } from './bridge-table.ts';
import { ipTable } from './ip-table.ts';
import { ip6Table } from './ip6-table.ts';
import { type NicTap, netdevTable } from './netdev-table.ts';
import type { RuledNic, Segments } from './rule-input.ts';

/** Everything, for `nft -f`. */
export function renderRuleset(networks: readonly DesiredNetwork[], nics: readonly RuledNic[], segments: Segments, taps: readonly NicTap[]): string {
  return [removeTables(), ipTable(networks, nics), ip6Table(networks), bridgeTable(networks, nics, segments), netdevTable(taps)].join('\n');
}

/** Removes our tables. A table that does not exist is created first, so that deleting it cannot fail. */
export function removeTables(): string {
  return TABLES.map(([family, name]) => `table ${family} ${name}\ndelete table ${family} ${name}`).join('\n');
}
