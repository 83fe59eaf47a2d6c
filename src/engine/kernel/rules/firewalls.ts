/**
 * Other programs' firewalls on the host.
 *
 * Theory of operation: an accept in our tables does not override a drop in another table. Every other filter chain of
 * the forward or input hook is found that drops by its policy, or by a last rule that matches everything (firewalld,
 * and the iptables rules of some distributions). It gets an accept for our bridges at its top, labelled `anka:v1`; of
 * docker's, the chain that docker leaves to users. Tables that belong to iptables are read and changed with iptables:
 * it cannot parse nft's rules, and nft does not print iptables' comments. `reset` removes the accepts.
 *
 * Limits: a firewall that reloads drops our accept with its other rules, until the next check adds it again. A table
 * that its owner has locked (firewalld 2.1 and later, NftablesTableOwner) refuses our rule. That is reported as a
 * problem, and the user has to add the interfaces to a trusted zone. What a chain rejects before its end is what the
 * user configured.
 */
import { run } from '../../../host/exec.ts';
import { applyNft } from '../../../host/nft.ts';

const COMMENT = 'anka:v1';
/** Wait for the lock of another iptables, up to 10 s. */
const WAIT = ['-w', '10'];

export interface ForeignChain {
  family: string;
  table: string;
  chain: string;
  hook: 'forward' | 'input';
  /** The program that it belongs to, guessed from its name. */
  owner: 'docker' | 'ufw' | 'firewalld' | 'iptables' | 'nftables';
  /** It has an accept of ours. */
  allowed: boolean;
  /** Direction and interface of each accept of ours, as in `-i anka-shared`. */
  accepts: readonly string[];
}

interface NftObject {
  chain?: { family: string; table: string; name: string; hook?: string; policy?: string; type?: string };
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

/** iptables' rules, as `iptables -S` prints them. */
async function xtablesRules(): Promise<string[]> {
  // without iptables there are none
  return (await run('iptables', [...WAIT, '-S']).catch(() => '')).split('\n').filter((l) => l.startsWith('-A '));
}

function xtablesAccepts(rules: readonly string[]): XtablesAccept[] {
  return rules.flatMap((line) => {
    const [, chain, direction, device] = /^-A (\S+) (-[io]) (\S+) .*--comment "?anka:v1"? /.exec(line) ?? [];
    return chain && direction && device ? [{ chain, direction: direction as '-i' | '-o', device }] : [];
  });
}

/** Arguments of an iptables rule that accepts what enters or leaves by an interface. */
const xtablesRule = (a: XtablesAccept): string[] => [a.chain, a.direction, a.device, '-m', 'comment', '--comment', COMMENT, '-j', 'ACCEPT'];

async function listAll(): Promise<NftObject[]> {
  const text = await run('nft', ['-j', '-a', 'list', 'ruleset']);
  return (JSON.parse(text) as { nftables: NftObject[] }).nftables;
}

type Chain = NonNullable<NftObject['chain']>;
type Rule = NonNullable<NftObject['rule']>;

const isIn = (rule: Rule, chain: { family: string; table: string; name: string }): boolean =>
  rule.family === chain.family && rule.table === chain.table && rule.chain === chain.name;

/** A chain whose drops concern our networks' IPv4 packets. */
function isOnOurPath(c: Chain): boolean {
  return c.table !== 'anka' && (c.hook === 'forward' || c.hook === 'input') && !['ip6', 'bridge', 'netdev'].includes(c.family);
}

/** Whether what no rule of the chain accepts is dropped. */
function dropsTheRest(c: Chain, rules: readonly Rule[], xtables: readonly string[]): boolean {
  if (c.policy === 'drop' || dropsEverything(rules.filter((r) => isIn(r, c)).at(-1)?.expr ?? [])) return true;
  return c.table === 'filter' && /^-A \S+ -j (DROP|REJECT)\b/.test(xtables.filter((l) => l.startsWith(`-A ${c.name} `)).at(-1) ?? '');
}

/** Chains of other programs that drop what our networks need, unless they have our accept. */
export async function findFirewalls(): Promise<ForeignChain[]> {
  const objects = await listAll().catch(() => [] as NftObject[]);
  const xtables = await xtablesRules();
  const xtablesOurs = xtablesAccepts(xtables);
  const chains = objects.flatMap((o) => (o.chain ? [o.chain] : []));
  const rules = objects.flatMap((o) => (o.rule ? [o.rule] : []));
  const docker = chains.some((c) => c.name === 'DOCKER-USER');
  const ufw = chains.some((c) => c.name.startsWith('ufw-'));
  return chains
    .filter((c) => isOnOurPath(c) && dropsTheRest(c, rules, xtables))
    .map((c): ForeignChain => {
      const byXtables = c.table === 'filter' && /^[A-Z]/.test(c.name);
      const ofDocker = byXtables && docker && c.hook === 'forward';
      const chain = ofDocker ? 'DOCKER-USER' : c.name;
      const owner = c.table === 'firewalld' ? 'firewalld' : byXtables ? (ufw ? 'ufw' : ofDocker ? 'docker' : 'iptables') : 'nftables';
      const ours = rules.filter((r) => isIn(r, { ...c, name: chain }) && (r.comment ?? '').startsWith(COMMENT));
      const accepts = byXtables
        ? xtablesOurs.filter((a) => a.chain === chain).map((a) => `${a.direction} ${a.device}`)
        : ours.flatMap((r) => acceptOf(r.expr ?? []));
      return { family: c.family, table: c.table, chain, hook: c.hook as 'forward' | 'input', owner, allowed: accepts.length > 0, accepts };
    });
}

/** Direction and interface of an accept of ours. */
function acceptOf(expressions: readonly NftExpression[]): string[] {
  return expressions.flatMap(({ match }) => {
    const key = match?.left?.meta?.key;
    return key === 'iifname' || key === 'oifname' ? [`${key === 'iifname' ? '-i' : '-o'} ${String(match?.right)}`] : [];
  });
}

/**
 * Adds our accepts where they are missing. A firewall may reload between `findFirewalls` and this, so nothing is
 * recorded as done: the next check looks again.
 */
export async function allowThroughFirewalls(found: readonly ForeignChain[], bridges: readonly string[]): Promise<void> {
  for (const f of found) {
    const wanted = bridges.flatMap((device) =>
      (f.hook === 'forward' ? (['-i', '-o'] as const) : (['-i'] as const)).map((direction) => ({ direction, device })),
    );
    const missing = wanted.filter((a) => !f.accepts.includes(`${a.direction} ${a.device}`));
    if (f.table === 'filter' && f.owner !== 'nftables') {
      for (const a of missing) await run('iptables', [...WAIT, '-I', ...xtablesRule({ chain: f.chain, ...a })]);
    } else if (missing.length > 0) {
      const at = `${f.family} ${f.table} ${f.chain}`;
      const name = { '-i': 'iifname', '-o': 'oifname' };
      await applyNft(missing.map((a) => `insert rule ${at} ${name[a.direction]} "${a.device}" accept comment "${COMMENT}"`).join('\n'));
    }
  }
}

/** Removes every accept of ours. Returns them, one line each. */
export async function removeFirewallAllowances(): Promise<string[]> {
  const removed: string[] = [];
  for (const a of xtablesAccepts(await xtablesRules())) {
    await run('iptables', [...WAIT, '-D', ...xtablesRule(a)]);
    removed.push(`accept in ip filter ${a.chain}`);
  }
  const objects = await listAll().catch(() => [] as NftObject[]);
  for (const { rule } of objects) {
    if (!rule || rule.table === 'anka' || !(rule.comment ?? '').startsWith(COMMENT)) continue;
    await applyNft(`delete rule ${rule.family} ${rule.table} ${rule.chain} handle ${rule.handle}`);
    removed.push(`accept in ${rule.family} ${rule.table} ${rule.chain}`);
  }
  return removed;
}
