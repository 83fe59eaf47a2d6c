/** Base chains of other firewalls on the path of guests' packets, and what they do with a packet (foreign-rules.ts). */

import { HOOKS, type Hook, type HookedPacket, type HookStage } from '../../../net/explain/hook-path.ts';
import { BRIDGES, isOurTable } from '../names.ts';
import { type ForeignChain, isXtables, type ListedRules, type NftObject, type XtablesTable } from './firewalls.ts';
import { type FilterChain, type FilterChains, follow, mayDrop, type NftStatement, nftRule, parseXtables } from './foreign-rules.ts';

/** Where a chain is, and the program that changes it. */
type ChainPlace = Pick<ForeignChain, 'family' | 'table' | 'chain' | 'by'>;

export interface ForeignFilter extends ChainPlace {
  hook: Hook;
  priority: number;
  /** A chain of type nat: the first packet of a connection passes it. */
  isNat: boolean;
  /** At ingress: its interfaces. */
  devices: readonly string[];
  /** Whether its policy counts as a rule. That of the chains that firewalls.ts finds is reported by itself. */
  policyCounts: boolean;
  chains: FilterChains;
}

/** As others name it. */
export function filterName(f: ForeignFilter): string {
  if (f.by !== 'iptables-legacy') return `chain ${f.family} ${f.table} ${f.chain}`;
  return `iptables-legacy: chain ${f.table === 'filter' ? '' : `${f.table} `}${f.chain}`;
}

type NftChain = NonNullable<NftObject['chain']>;

const isHook = (hook: string | undefined): hook is Hook => HOOKS.some((h) => h === hook);
const devicesOf = ({ dev }: NftChain): string[] => (dev === undefined ? [] : [dev].flat());
/** Chains that guests' IPv4 packets may pass at a hook that is followed. */
const isFollowed = (c: NftChain): boolean => !isOurTable(c.table) && isHook(c.hook) && ['ip', 'inet', 'netdev'].includes(c.family);

/** Chains of iptables by hook; each table has some of them. */
const XTABLES_CHAINS: readonly (readonly [string, Hook])[] = HOOKS.filter((h) => h !== 'ingress').map((h) => [h.toUpperCase(), h]);
const XTABLES_PRIORITIES = { raw: -300, mangle: -150, filter: 0, security: 50 } as const;

/** The base chains of other firewalls, in the order in which a packet passes them. */
export function foreignFilters({ nft: objects, xtables: lines, legacy }: ListedRules, tables: readonly XtablesTable[]): ForeignFilter[] {
  const all: XtablesRules[] = legacy === null ? [...tables] : [...tables, { by: 'iptables-legacy', table: 'filter', lines: legacy }];
  const filters = [...nftFilters(objects, { xtables: lines, tables }), ...all.filter((t) => t.by === 'iptables-legacy').flatMap(xtablesFilters)];
  const order = (f: ForeignFilter): number => HOOKS.indexOf(f.hook);
  return filters.sort((a, b) => order(a) - order(b) || a.priority - b.priority);
}

type XtablesRules = Omit<XtablesTable, 'table'> & { table: keyof typeof XTABLES_PRIORITIES };

/** Base chains in nft's tables. Those of iptables are read as it prints them. */
function nftFilters(objects: readonly NftObject[], { xtables, tables }: { xtables: readonly string[]; tables: readonly XtablesTable[] }): ForeignFilter[] {
  const bases = objects.flatMap(({ chain }) => (chain && isFollowed(chain) ? [chain] : []));
  const filterTable = bases.some((c) => c.family === 'ip' && c.table === 'filter') ? parseXtables(xtables) : new Map<string, FilterChain>();
  const byTable = new Map(tables.flatMap((t) => (t.by === 'iptables-nft' ? [[t.table as string, parseXtables(t.lines)] as const] : [])));
  return bases.map((c): ForeignFilter => {
    const hook = c.hook as Hook;
    const isTransit = hook === 'forward' || hook === 'input';
    const place = { family: c.family, table: c.table, chain: c.name, hook, priority: c.prio ?? 0, isNat: c.type === 'nat', devices: devicesOf(c) };
    const listed = c.table === 'filter' ? filterTable : byTable.get(c.table);
    const isOfXtables = isXtables(c) || (!isTransit && c.family === 'ip' && c.name === hook.toUpperCase() && listed?.has(c.name) === true);
    if (isOfXtables && listed) return { ...place, policyCounts: !isTransit, by: 'iptables-nft', chains: listed };
    return { ...place, policyCounts: !isTransit, by: 'nft', chains: chainsOf(objects, c) };
  });
}

/** Base chains of a table of iptables-legacy. */
function xtablesFilters({ by, table, lines }: XtablesRules): ForeignFilter[] {
  const chains = parseXtables(lines);
  return XTABLES_CHAINS.flatMap(([chain, hook]): ForeignFilter[] => {
    if (!chains.has(chain)) return [];
    const policyCounts = table !== 'filter' || hook === 'output';
    return [{ family: 'ip', table, chain, hook, priority: XTABLES_PRIORITIES[table], isNat: false, devices: [], policyCounts, by, chains }];
  });
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

/** The rule, or policy, that drops a packet. `isSure`: no rule that was skipped may spare it. */
function dropAt(f: ForeignFilter, packet: HookedPacket): { rule: string; isSure: boolean } | null {
  const doubts: NonNullable<Parameters<typeof follow>[3]>['doubts'] = [];
  const end = follow(f.chains, f.chain, packet, { doubts });
  // rules of forward and input are reported as they are
  const isSure = doubts.length === 0 || f.hook === 'forward' || f.hook === 'input';
  if (end !== null) return end === 'accepted' ? null : { rule: end.text, isSure };
  return f.policyCounts && f.chains.get(f.chain)?.policy === 'drop' ? { rule: `policy drop of chain ${f.chain}`, isSure: doubts.length === 0 } : null;
}

/** What a packet is when it passes the filter; empty: it does not pass. */
function passing(f: ForeignFilter, path: readonly HookStage[]): HookedPacket[] {
  return path.flatMap(({ hook, from, to, packet }) => {
    if (hook !== f.hook || f.priority < from || f.priority > to) return [];
    if (f.isNat && packet.state !== 'new') return [];
    return hook === 'ingress' && !f.devices.includes(packet.iif) ? [] : [packet];
  });
}

/** Null: nothing drops it, as far as the rules are understood. A policy counts only where the filter says so. */
export function foreignDrop(filters: readonly ForeignFilter[], path: readonly HookStage[]): ForeignDrop | null {
  for (const filter of filters) {
    const drops = passing(filter, path).map((p) => dropAt(filter, p));
    const [first] = drops;
    if (first && drops.every((d) => d?.isSure)) return { filter, rule: first.rule };
  }
  return null;
}

/** Filters that drop the packet unless a rule that is not understood spares it. */
export function doubtfulFilters(filters: readonly ForeignFilter[], path: readonly HookStage[]): ForeignFilter[] {
  return filters.filter((f) => {
    const drops = passing(f, path).map((p) => dropAt(f, p));
    return drops.some((d) => d !== null) && !drops.every((d) => d?.isSure);
  });
}

/** A base chain that is not followed, and may drop what passes our interfaces. */
export interface UnfollowedChain {
  family: string;
  table: string;
  chain: string;
  hook: string;
}

const UNFOLLOWED = ['bridge', 'arp', 'netdev', 'inet'];

/**
 * Chains of families bridge and arp, and of egress, with a rule or policy that drops or queues. `interfaces`: those
 * that guests' packets pass; `port`: a port of a bridge of ours.
 */
export function unfollowedChains({ nft: objects }: ListedRules, interfaces: readonly string[], port: string): UnfollowedChain[] {
  return objects.flatMap(({ chain: c }): UnfollowedChain[] => {
    if (!c?.hook || isOurTable(c.table) || isFollowed(c) || !UNFOLLOWED.includes(c.family)) return [];
    if (c.family !== 'bridge' && c.family !== 'arp' && !devicesOf(c).some((d) => interfaces.includes(d))) return [];
    // of the chains that anka gives its accept, the policy is reported by itself
    const hasAccept = c.family === 'bridge' && (c.hook === 'forward' || c.hook === 'input');
    const chains = chainsOf(objects, c);
    const among = c.family === 'bridge' ? [port] : interfaces;
    const drops = (!hasAccept && c.policy === 'drop') || among.some((name) => mayDrop(chains, c.name, { iif: name, oif: name }));
    return drops ? [{ family: c.family, table: c.table, chain: c.name, hook: c.hook }] : [];
  });
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
  return `${by}${table === 'filter' ? '' : ` -t ${table}`} -I ${chain} ${direction === 'in' ? '-i' : '-o'} ${device} -j ACCEPT`;
}
