/** Base chains of other firewalls on the path of guests' packets, and what they do with a packet (foreign-rules.ts). */

import type { HookedPacket } from '../../../net/explain/kernel-engine.ts';
import { BRIDGES } from '../names.ts';
import { type ForeignChain, isOnOurPath, isXtables, type ListedRules, type NftObject } from './firewalls.ts';
import { dropping, type FilterChain, type FilterChains, follow, type NftStatement, nftRule, parseXtables } from './foreign-rules.ts';

/** Where a chain is, and the program that changes it. */
type ChainPlace = Pick<ForeignChain, 'family' | 'table' | 'chain' | 'by'>;

export interface ForeignFilter extends ChainPlace {
  hook: 'forward' | 'input';
  chains: FilterChains;
}

/** As others name it. */
export const filterName = (f: ForeignFilter): string =>
  f.by === 'iptables-legacy' ? `iptables-legacy: chain ${f.chain}` : `chain ${f.family} ${f.table} ${f.chain}`;

export function foreignFilters({ nft: objects, xtables: lines, legacy }: ListedRules): ForeignFilter[] {
  const bases = objects.flatMap(({ chain }) => (chain && isOnOurPath(chain) && chain.family !== 'bridge' ? [chain] : []));
  const xtables = bases.some(isXtables) ? parseXtables(lines) : new Map<string, FilterChain>();
  const ofNft = bases.map((c): ForeignFilter => {
    const place = { family: c.family, table: c.table, chain: c.name, hook: c.hook as ForeignFilter['hook'] };
    return isXtables(c) ? { ...place, by: 'iptables-nft', chains: xtables } : { ...place, by: 'nft', chains: chainsOf(objects, c) };
  });
  const legacyFilters = (['FORWARD', 'INPUT'] as const).flatMap((chain): ForeignFilter[] =>
    legacy === null
      ? []
      : [{ family: 'ip', table: 'filter', chain, hook: chain === 'FORWARD' ? 'forward' : 'input', by: 'iptables-legacy', chains: parseXtables(legacy) }],
  );
  return [...ofNft, ...legacyFilters];
}

/** The chains of a table of nft. */
function chainsOf(objects: readonly NftObject[], { family, table }: { family: string; table: string }): FilterChains {
  const chains = new Map<string, FilterChain>();
  for (const { chain: c } of objects)
    if (c?.family === family && c.table === table) chains.set(c.name, { rules: [], policy: c.policy === 'drop' ? 'drop' : 'accept' });
  for (const { rule: r } of objects) {
    if (r?.family !== family || r.table !== table) continue;
    chains.get(r.chain)?.rules.push(nftRule(`rule ${r.handle} of chain ${family} ${table} ${r.chain}`, (r.expr ?? []) as NftStatement[]));
  }
  return chains;
}

/** A rule that drops a packet, and the base chain by which it is reached. */
export interface ForeignDrop {
  filter: ForeignFilter;
  /** As its program prints it. */
  rule: string;
}

/** Null: no rule drops it, as far as they are understood. Policies do not count. */
export function foreignDrop(filters: readonly ForeignFilter[], hook: 'forward' | 'input', packet: HookedPacket): ForeignDrop | null {
  for (const filter of filters) {
    const rule = filter.hook === hook ? dropping(filter.chains, filter.chain, packet) : null;
    if (rule) return { filter, rule: rule.text };
  }
  return null;
}

/** A rule of the chain accepts the packet. */
export const accepts = (filter: ForeignFilter, packet: HookedPacket): boolean => follow(filter.chains, filter.chain, packet) === 'accepted';

/** A packet of which only the interfaces are known. */
export const transit = (iif: string, oif: string): HookedPacket => ({ iif, oif, source: 0, destination: 0, protocol: 'any', port: null, state: 'new' });

/** The filter that a chain belongs to: of docker's, the chain is the one for users. */
export function filterOf(f: ForeignChain, filters: readonly ForeignFilter[]): ForeignFilter | undefined {
  return filters.find((x) => x.by === f.by && x.hook === f.hook && x.family === f.family && x.table === f.table && (f.by !== 'nft' || x.chain === f.chain));
}

/** Whether a chain that drops by default has an accept for guests: ours, or another one. */
export function letsPass(f: ForeignChain, filters: readonly ForeignFilter[]): boolean {
  const filter = filterOf(f, filters);
  return f.allowed || (filter !== undefined && accepts(filter, transit(BRIDGES.shared, 'any')));
}

/** The command that lets packets of an interface pass a base chain first. */
export function acceptCommand({ by, family, table, chain }: ChainPlace, direction: 'in' | 'out', device: string): string {
  const name = direction === 'out' ? 'oifname' : 'iifname';
  if (by === 'nft') return `nft insert rule ${family} ${table} ${chain} ${name} ${device} accept`;
  return `${by} -I ${chain} ${direction === 'in' ? '-i' : '-o'} ${device} -j ACCEPT`;
}
