/**
 * Other programs' firewalls on the host.
 *
 * Theory of operation: an accept in our tables does not override a drop in another table. Every other filter chain of
 * the forward or input hook is found that drops by its policy, or by a last rule that matches everything (firewalld,
 * and the iptables rules of some distributions). It gets an accept for our bridges at its top, labelled `anka:v1`; of
 * docker's, the chain that docker leaves to users. Tables that belong to iptables are read and changed with iptables:
 * it cannot parse nft's rules, and nft does not print iptables' comments. iptables-legacy has tables of its own, which
 * nft does not see; they are read only if the kernel has them already (legacy-tables.ts). `reset` removes the accepts.
 * Nothing is listed while the kernel's generation number shows that no program but this one has changed a rule, and a
 * digest that iptables-legacy has not either, which does not change that number.
 *
 * Limits: a firewall that reloads drops our accept with its other rules, until the next check adds it again. A table
 * that its owner has locked (firewalld 2.1 and later, NftablesTableOwner) refuses our rule. That is reported as a
 * problem, and the user has to add the interfaces to a trusted zone. What a chain rejects before its end is what the
 * user configured.
 */
import { run } from '../../../host/exec.ts';
import { rulesetGeneration } from '../../../host/netlink/netfilter.ts';
import { applyNft } from '../../../host/nft.ts';
import { isOurTable } from '../names.ts';
import { type LegacyChain, legacyChains, legacyDigest, legacyTable, PACKET_TABLES, type PacketTable } from './legacy-tables.ts';
import type { OwnTransactions } from './own-transactions.ts';

const COMMENT = 'anka:v1';
export type XtablesProgram = 'iptables-nft' | 'iptables-legacy';

/** Wait for the lock of another iptables, up to 10 s. */
const WAIT = ['-w', '10'];

export interface ForeignChain {
  family: string;
  table: string;
  chain: string;
  hook: 'forward' | 'input';
  /** The program that it belongs to, guessed from its name. */
  owner: 'docker' | 'ufw' | 'firewalld' | 'iptables' | 'iptables-legacy' | 'nftables';
  /** The program by which it is changed. */
  by: 'nft' | XtablesProgram;
  /** It has an accept of ours. */
  allowed: boolean;
  /** Direction and interface of each accept of ours, as in `-i anka-shared`. */
  accepts: readonly string[];
}

export interface NftObject {
  /** `dev`: of family netdev and of ingress. */
  chain?: { family: string; table: string; name: string; hook?: string; prio?: number; policy?: string; type?: string; dev?: string | string[] };
  rule?: { family: string; table: string; chain: string; comment?: string; handle: number; expr?: NftExpression[] };
}

type NftExpression = { match?: { left?: { meta?: { key?: string } }; right?: unknown }; drop?: null; reject?: unknown; counter?: unknown };

/** A rule that drops or rejects whatever reaches it. */
const dropsEverything = (expressions: readonly NftExpression[]): boolean => {
  const statements = expressions.flatMap((e) => Object.keys(e)).filter((s) => s !== 'counter');
  return statements.length === 1 && (statements[0] === 'drop' || statements[0] === 'reject');
};

/** An accept of ours in an iptables chain. */
interface XtablesAccept {
  chain: string;
  direction: '-i' | '-o';
  device: string;
}

/** The filter table among nft's tables, as `iptables -S` prints it. */
async function xtablesRules(): Promise<string[]> {
  // without iptables there are none
  return (await run('iptables-nft', [...WAIT, '-S']).catch(() => '')).split('\n');
}

/** Accepts of ours in rules as iptables prints them. */
function xtablesAccepts(rules: readonly string[]): XtablesAccept[] {
  return rules.flatMap((line) => {
    const [, chain, direction, device] = /^-A (\S+) (-[io]) (\S+) .*--comment "?anka:v1"? /.exec(line) ?? [];
    return chain && direction && device ? [{ chain, direction: direction as '-i' | '-o', device }] : [];
  });
}

/** Arguments of an iptables rule that accepts what enters or leaves by an interface. */
const xtablesRule = (a: XtablesAccept): string[] => [a.chain, a.direction, a.device, '-m', 'comment', '--comment', COMMENT, '-j', 'ACCEPT'];

/** The whole ruleset; empty if nft refuses. */
async function listAll(): Promise<NftObject[]> {
  const text = await run('nft', ['-j', '-a', 'list', 'ruleset']).catch(() => '{"nftables":[]}');
  return (JSON.parse(text) as { nftables: NftObject[] }).nftables;
}

type Chain = NonNullable<NftObject['chain']>;
type Rule = NonNullable<NftObject['rule']>;

const isIn = (rule: Rule, chain: { family: string; table: string; name: string }): boolean =>
  rule.family === chain.family && rule.table === chain.table && rule.chain === chain.name;

/** A chain whose drops concern our networks' IPv4 packets, or their frames (family bridge). */
export function isOnOurPath(c: Chain): boolean {
  return !isOurTable(c.table) && (c.hook === 'forward' || c.hook === 'input') && !['ip6', 'netdev'].includes(c.family);
}

/** A chain of iptables in nft's tables. */
export const isXtables = (c: Chain): boolean => c.family === 'ip' && c.table === 'filter' && /^(FORWARD|INPUT)$/.test(c.name);

/** Whether what no rule of the chain accepts is dropped. */
function dropsTheRest(c: Chain, rules: readonly Rule[], xtables: readonly string[]): boolean {
  if (c.policy === 'drop' || dropsEverything(rules.filter((r) => isIn(r, c)).at(-1)?.expr ?? [])) return true;
  return c.table === 'filter' && /^-A \S+ -j (DROP|REJECT)\b/.test(xtables.filter((l) => l.startsWith(`-A ${c.name} `)).at(-1) ?? '');
}

/** The rules of this host, as the programs list them. */
export interface ListedRules {
  nft: NftObject[];
  /** The filter table of iptables among nft's, as `iptables -S` prints it. */
  xtables: string[];
  /** That of iptables-legacy; null if there is none. */
  legacy: string[] | null;
}

/** Adds the interfaces of other programs' chains at ingress and egress: nft 1.0.6 leaves them out of its JSON. */
async function addDevices(objects: readonly NftObject[]): Promise<void> {
  for (const { chain: c } of objects) {
    if (!c || isOurTable(c.table) || c.dev !== undefined || !(c.hook === 'ingress' || c.hook === 'egress')) continue;
    c.dev = chainDevices(await run('nft', ['list', 'chain', c.family, c.table, c.name]).catch(() => ''));
  }
}

/** The interfaces of a base chain as nft prints it. */
export function chainDevices(text: string): string[] {
  const [, one, several] = /^\s*type \S+ hook \S+ (?:device ("?[^\s";]+"?)|devices = \{([^}]*)\})/m.exec(text) ?? [];
  return (one ?? several ?? '').split(',').flatMap((name) => name.replaceAll('"', '').trim() || []);
}

export async function listRules(): Promise<ListedRules> {
  const nft = await listAll();
  await addDevices(nft);
  // nothing to parse where no chain is one of iptables'
  const xtables = nft.some(({ chain }) => chain?.family === 'ip' && chain.table === 'filter') ? await xtablesRules() : [];
  return { nft, xtables, legacy: await legacyTable() };
}

/** A table of iptables besides filter, as `iptables -S` prints it. */
export interface XtablesTable {
  by: XtablesProgram;
  table: PacketTable;
  lines: string[];
}

/** The tables of iptables besides filter; nat drops nothing. `nft`: what nft lists. */
export async function listXtables(nft: readonly NftObject[]): Promise<XtablesTable[]> {
  const found: XtablesTable[] = [];
  for (const table of PACKET_TABLES) {
    if (nft.some(({ chain }) => chain?.family === 'ip' && chain.table === table && chain.hook !== undefined)) {
      const text = await run('iptables-nft', [...WAIT, '-t', table, '-S']).catch(() => '');
      if (text !== '') found.push({ by: 'iptables-nft', table, lines: text.split('\n') });
    }
    const legacy = await legacyTable(table);
    if (legacy !== null) found.push({ by: 'iptables-legacy', table, lines: legacy });
  }
  return found;
}

/** Chains of other programs that drop what our networks need, unless they have our accept. */
export function findFirewalls({ nft: objects, xtables, legacy: table }: ListedRules): ForeignChain[] {
  const xtablesOurs = xtablesAccepts(xtables);
  const legacy = legacyChains(table ?? []).map((c) => legacyFirewall(c));
  const chains = objects.flatMap((o) => (o.chain ? [o.chain] : []));
  const rules = objects.flatMap((o) => (o.rule ? [o.rule] : []));
  const docker = chains.some((c) => c.name === 'DOCKER-USER');
  const ufw = chains.some((c) => c.name.startsWith('ufw-'));
  const ofNft = chains
    .filter((c) => isOnOurPath(c) && dropsTheRest(c, rules, xtables))
    .map((c): ForeignChain => {
      const byXtables = isXtables(c);
      const ofDocker = byXtables && docker && c.hook === 'forward';
      const chain = ofDocker ? 'DOCKER-USER' : c.name;
      const owner = c.table === 'firewalld' ? 'firewalld' : byXtables ? (ufw ? 'ufw' : ofDocker ? 'docker' : 'iptables') : 'nftables';
      const ours = rules.filter((r) => isIn(r, { ...c, name: chain }) && (r.comment ?? '').startsWith(COMMENT));
      const accepts = byXtables
        ? xtablesOurs.filter((a) => a.chain === chain).map((a) => `${a.direction} ${a.device}`)
        : ours.flatMap((r) => acceptOf(r.expr ?? []));
      const by = byXtables ? 'iptables-nft' : 'nft';
      return { family: c.family, table: c.table, chain, hook: c.hook as 'forward' | 'input', owner, by, allowed: accepts.length > 0, accepts };
    });
  return [...ofNft, ...legacy.flatMap((f) => f ?? [])];
}

/** Null: it drops nothing by default. */
function legacyFirewall({ name, policy, rules, all }: LegacyChain): ForeignChain | null {
  if (policy !== 'DROP' && !/^-A \S+ -j (DROP|REJECT)\b/.test(rules.at(-1) ?? '')) return null;
  const docker = name === 'FORWARD' && all.includes('-N DOCKER-USER');
  const chain = docker ? 'DOCKER-USER' : name;
  const owner = docker ? 'docker' : all.some((l) => l.startsWith('-N ufw-')) ? 'ufw' : 'iptables-legacy';
  const accepts = xtablesAccepts(all)
    .filter((a) => a.chain === chain)
    .map((a) => `${a.direction} ${a.device}`);
  const hook = name === 'FORWARD' ? 'forward' : 'input';
  return { family: 'ip', table: 'filter', chain, hook, owner, by: 'iptables-legacy', allowed: accepts.length > 0, accepts };
}

/** By nft's keyword. */
const DIRECTIONS: Record<string, '-i' | '-o'> = { iifname: '-i', oifname: '-o' };
/** In family bridge, interfaces are ports: all of ours. Not every kernel can name the bridge (`meta ibrname`). */
export const OUR_PORTS = 'anka*';

/** Direction and interface of an accept of ours. */
function acceptOf(expressions: readonly NftExpression[]): string[] {
  return expressions.flatMap(({ match }) => {
    const direction = DIRECTIONS[match?.left?.meta?.key ?? ''];
    return direction === undefined ? [] : [`${direction} ${String(match?.right)}`];
  });
}

/**
 * Adds our accepts where they are missing. A firewall may reload between `findFirewalls` and this: then these are not
 * our transactions alone, and the next check looks again.
 */
async function allowThroughFirewalls(found: readonly ForeignChain[], bridges: readonly string[], transactions: OwnTransactions): Promise<void> {
  for (const f of found) {
    const devices = f.family === 'bridge' ? [OUR_PORTS] : bridges;
    const wanted = devices.flatMap((device) =>
      (f.hook === 'forward' ? (['-i', '-o'] as const) : (['-i'] as const)).map((direction) => ({ direction, device })),
    );
    const missing = wanted.filter((a) => !f.accepts.includes(`${a.direction} ${a.device}`));
    if (f.by !== 'nft') {
      const insert = (a: (typeof missing)[number]): Promise<string> => run(f.by, [...WAIT, '-I', ...xtablesRule({ chain: f.chain, ...a })]);
      // iptables-legacy's tables have no generation
      for (const a of missing) await (f.by === 'iptables-nft' ? transactions.during(() => insert(a)) : insert(a));
    } else if (missing.length > 0) {
      const at = `${f.family} ${f.table} ${f.chain}`;
      const name = { '-i': 'iifname', '-o': 'oifname' };
      await transactions.apply(missing.map((a) => `insert rule ${at} ${name[a.direction]} "${a.device}" accept comment "${COMMENT}"`).join('\n'));
    }
  }
}

/** Keeps our accepts in other programs' firewalls. */
export class FirewallAllowances {
  /** What the last look found in order. */
  #seen: { generation: number; legacy: string; bridges: string } | null = null;

  readonly #transactions: OwnTransactions;

  constructor(transactions: OwnTransactions) {
    this.#transactions = transactions;
  }

  /** Adds the accepts for these bridges where they are missing. Without bridges there is nothing to accept. */
  async apply(bridges: readonly string[]): Promise<void> {
    const seen = this.#seen;
    this.#seen = null;
    if (bridges.length === 0) return;
    const now = { generation: rulesetGeneration(), legacy: await legacyDigest(), bridges: bridges.join() };
    const isSame = seen?.bridges === now.bridges && seen.legacy === now.legacy && this.#transactions.areAll(seen.generation, now.generation);
    if (!isSame) await allowThroughFirewalls(findFirewalls(await listRules()), bridges, this.#transactions);
    this.#seen = now;
  }
}

/** Removes every accept of ours. Returns them, one line each. */
export async function removeFirewallAllowances(): Promise<string[]> {
  const removed: string[] = [];
  const { nft, xtables, legacy } = await listRules();
  const found = { 'iptables-nft': xtables, 'iptables-legacy': legacy ?? [] } as const;
  for (const [program, rules] of Object.entries(found)) {
    for (const a of xtablesAccepts(rules)) {
      await run(program, [...WAIT, '-D', ...xtablesRule(a)]);
      removed.push(`accept in ip filter ${a.chain}`);
    }
  }
  for (const { rule } of nft) {
    if (!rule || isOurTable(rule.table) || !(rule.comment ?? '').startsWith(COMMENT)) continue;
    await applyNft(`delete rule ${rule.family} ${rule.table} ${rule.chain} handle ${rule.handle}`);
    removed.push(`accept in ${rule.family} ${rule.table} ${rule.chain}`);
  }
  return removed;
}
