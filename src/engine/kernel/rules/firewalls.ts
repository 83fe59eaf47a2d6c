/**
 * Other firewalls on the host.
 *
 * Theory of operation: an accept of ours does not outweigh another table's drop. So every filter chain in the forward
 * or input hook that drops by policy, or by a last rule for all that is left (firewalld, and the rules that some
 * distributions put into iptables), is found, and gets one accept for our bridges, labelled `anka:v1`, at its top:
 * docker's in the chain that docker leaves to users. Tables that belong to iptables are changed and read with iptables,
 * which could not read nft's rules, as nft does not tell iptables' comments. Removed again by `reset`. Limits: a
 * firewall that reloads drops our accept with the rest; the next check puts it back. A table that its owner has locked
 * (firewalld from 2.1 on, by NftablesTableOwner) takes no rule of ours: that is told as a problem, and the interfaces
 * have to be put into its trusted zone. What a chain rejects before its end is the user's own wish.
 */
import { run } from '../../../host/exec.ts';
import { applyNft } from '../../../host/nft.ts';

const COMMENT = 'anka:v1';
/** Waits for another iptables that has its lock, seconds. */
const PATIENT = ['-w', '10'];

export interface ForeignChain {
  family: string;
  table: string;
  chain: string;
  hook: 'forward' | 'input';
  /** Who it belongs to, as far as its names tell. */
  owner: 'docker' | 'ufw' | 'firewalld' | 'iptables' | 'nftables';
  /** Our accept is in it. */
  allowed: boolean;
  /** What our accepts are for: the direction and the interface, as in `-i anka-shared`. */
  accepts: readonly string[];
}

interface NftObject {
  chain?: { family: string; table: string; name: string; hook?: string; policy?: string; type?: string };
  rule?: { family: string; table: string; chain: string; comment?: string; handle: number; expr?: NftExpression[] };
}

type NftExpression = { match?: { left?: { meta?: { key?: string } }; right?: unknown }; drop?: null; reject?: unknown; counter?: unknown };

/** A rule that lets nothing pass it. */
const endsAll = (expressions: readonly NftExpression[]): boolean => {
  const words = expressions.flatMap((e) => Object.keys(e)).filter((w) => w !== 'counter');
  return words.length === 1 && (words[0] === 'drop' || words[0] === 'reject');
};

/** An accept of ours among those of iptables. */
interface XtablesAccept {
  chain: string;
  direction: '-i' | '-o';
  device: string;
}

/** Rules of iptables, as it writes them. */
async function xtablesRules(): Promise<string[]> {
  // no iptables, no rules of it
  return (await run('iptables', [...PATIENT, '-S']).catch(() => '')).split('\n').filter((l) => l.startsWith('-A '));
}

function xtablesAccepts(rules: readonly string[]): XtablesAccept[] {
  return rules.flatMap((line) => {
    const [, chain, direction, device] = /^-A (\S+) (-[io]) (\S+) .*--comment "?anka:v1"? /.exec(line) ?? [];
    return chain && direction && device ? [{ chain, direction: direction as '-i' | '-o', device }] : [];
  });
}

/** The words of a rule of iptables that accepts what comes from, or goes to, an interface. */
const xtablesRule = (a: XtablesAccept): string[] => [a.chain, a.direction, a.device, '-m', 'comment', '--comment', COMMENT, '-j', 'ACCEPT'];

async function listAll(): Promise<NftObject[]> {
  const text = await run('nft', ['-j', '-a', 'list', 'ruleset']);
  return (JSON.parse(text) as { nftables: NftObject[] }).nftables;
}

/** Chains of others that drop, in the end, what our networks need. */
export async function findFirewalls(): Promise<ForeignChain[]> {
  const objects = await listAll().catch(() => [] as NftObject[]);
  const xtables = await xtablesRules();
  const xtablesOurs = xtablesAccepts(xtables);
  const chains = objects.flatMap((o) => (o.chain ? [o.chain] : []));
  const rules = objects.flatMap((o) => (o.rule ? [o.rule] : []));
  const lastEnds = (c: { family: string; table: string; name: string }): boolean => {
    const last = rules.filter((r) => r.family === c.family && r.table === c.table && r.chain === c.name).at(-1);
    return (
      endsAll(last?.expr ?? []) ||
      (c.table === 'filter' && /^-A \S+ -j (DROP|REJECT)\b/.test(xtables.filter((l) => l.startsWith(`-A ${c.name} `)).at(-1) ?? ''))
    );
  };
  const docker = chains.some((c) => c.name === 'DOCKER-USER');
  const ufw = chains.some((c) => c.name.startsWith('ufw-'));
  return chains.flatMap((c): ForeignChain[] => {
    if (
      c.table === 'anka' ||
      (c.policy !== 'drop' && !lastEnds(c)) ||
      (c.hook !== 'forward' && c.hook !== 'input') ||
      c.family === 'ip6' ||
      c.family === 'bridge' ||
      c.family === 'netdev'
    )
      return [];
    const byXtables = c.table === 'filter' && /^[A-Z]/.test(c.name);
    const chain = byXtables && docker && c.hook === 'forward' ? 'DOCKER-USER' : c.name;
    const owner = c.table === 'firewalld' ? 'firewalld' : byXtables ? (ufw ? 'ufw' : docker && c.hook === 'forward' ? 'docker' : 'iptables') : 'nftables';
    const ours = rules.filter((r) => r.family === c.family && r.table === c.table && r.chain === chain && (r.comment ?? '').startsWith(COMMENT));
    const accepts = byXtables
      ? xtablesOurs.filter((a) => a.chain === chain).map((a) => `${a.direction} ${a.device}`)
      : ours.flatMap((r) => acceptOf(r.expr ?? []));
    return [{ family: c.family, table: c.table, chain, hook: c.hook, owner, allowed: accepts.length > 0, accepts }];
  });
}

function acceptOf(expressions: readonly NftExpression[]): string[] {
  return expressions.flatMap(({ match }) => {
    const key = match?.left?.meta?.key;
    return key === 'iifname' || key === 'oifname' ? [`${key === 'iifname' ? '-i' : '-o'} ${String(match?.right)}`] : [];
  });
}

/**
 * Puts our accepts where they are missing. What was found may be out of date by then, as a firewall may load anew at
 * any moment: the next check sees to that, so nothing is kept as done.
 */
export async function allowThroughFirewalls(found: readonly ForeignChain[], bridges: readonly string[]): Promise<void> {
  for (const f of found) {
    const wanted = bridges.flatMap((device) =>
      (f.hook === 'forward' ? (['-i', '-o'] as const) : (['-i'] as const)).map((direction) => ({ direction, device })),
    );
    const missing = wanted.filter((a) => !f.accepts.includes(`${a.direction} ${a.device}`));
    if (f.table === 'filter' && f.owner !== 'nftables') {
      for (const a of missing) await run('iptables', [...PATIENT, '-I', ...xtablesRule({ chain: f.chain, ...a })]);
    } else if (missing.length > 0) {
      const at = `${f.family} ${f.table} ${f.chain}`;
      const name = { '-i': 'iifname', '-o': 'oifname' };
      await applyNft(missing.map((a) => `insert rule ${at} ${name[a.direction]} "${a.device}" accept comment "${COMMENT}"`).join('\n'));
    }
  }
}

/** Takes every accept of ours out again; says which. */
export async function removeFirewallAllowances(): Promise<string[]> {
  const removed: string[] = [];
  for (const a of xtablesAccepts(await xtablesRules())) {
    await run('iptables', [...PATIENT, '-D', ...xtablesRule(a)]);
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
