/**
 * Other firewalls on the host.
 *
 * Theory of operation: an accept of ours does not outweigh another table's drop. So every filter chain that drops by policy in the forward or input hook
 * is found, and gets one accept for our bridges, labelled `anka:v1`, at its top: docker's in the chain that docker leaves to users. Tables that belong to iptables
 * are changed with iptables, which could not read nft's rules. Removed again by `reset`.
 * Limits: a firewall that reloads drops our accept with the rest; the next check puts it back. firewalld zones are set at run time only.
 */
import { run } from '../../host/exec.ts';
import { applyNft } from '../../host/nft.ts';

const COMMENT = 'anka:v1';

export interface ForeignChain {
  family: string;
  table: string;
  chain: string;
  hook: 'forward' | 'input';
  /** Who it belongs to, as far as its names tell. */
  owner: 'docker' | 'ufw' | 'firewalld' | 'iptables' | 'nftables';
  /** Our accept is in it. */
  allowed: boolean;
}

interface NftObject {
  chain?: { family: string; table: string; name: string; hook?: string; policy?: string; type?: string };
  rule?: { family: string; table: string; chain: string; comment?: string; handle: number };
}

async function listAll(): Promise<NftObject[]> {
  const text = await run('nft', ['-j', '-a', 'list', 'ruleset']);
  return (JSON.parse(text) as { nftables: NftObject[] }).nftables;
}

/** Chains of others that drop by policy what our networks need. */
export async function findFirewalls(): Promise<ForeignChain[]> {
  const objects = await listAll().catch(() => [] as NftObject[]);
  const chains = objects.flatMap((o) => (o.chain ? [o.chain] : []));
  const rules = objects.flatMap((o) => (o.rule ? [o.rule] : []));
  const docker = chains.some((c) => c.name === 'DOCKER-USER');
  const ufw = chains.some((c) => c.name.startsWith('ufw-'));
  return chains.flatMap((c): ForeignChain[] => {
    if (
      c.table === 'anka' ||
      c.policy !== 'drop' ||
      (c.hook !== 'forward' && c.hook !== 'input') ||
      c.family === 'ip6' ||
      c.family === 'bridge' ||
      c.family === 'netdev'
    )
      return [];
    const xtables = c.table === 'filter' && /^[A-Z]/.test(c.name);
    const chain = xtables && docker && c.hook === 'forward' ? 'DOCKER-USER' : c.name;
    const owner = c.table === 'firewalld' ? 'firewalld' : xtables ? (ufw ? 'ufw' : docker && c.hook === 'forward' ? 'docker' : 'iptables') : 'nftables';
    const allowed = rules.some((r) => r.family === c.family && r.table === c.table && r.chain === chain && (r.comment ?? '').startsWith(COMMENT));
    return [{ family: c.family, table: c.table, chain, hook: c.hook, owner, allowed }];
  });
}

/** Puts our accepts where they are missing. */
export async function allowThroughFirewalls(found: readonly ForeignChain[], bridges: readonly string[]): Promise<void> {
  for (const f of found) {
    if (f.allowed) continue;
    for (const b of bridges) {
      if (f.table === 'filter' && f.owner !== 'nftables') {
        await run('iptables', ['-I', f.chain, '-i', b, '-m', 'comment', '--comment', COMMENT, '-j', 'ACCEPT']);
        if (f.hook === 'forward') await run('iptables', ['-I', f.chain, '-o', b, '-m', 'comment', '--comment', COMMENT, '-j', 'ACCEPT']);
      } else {
        const at = `${f.family} ${f.table} ${f.chain}`;
        await applyNft(
          [
            `insert rule ${at} iifname "${b}" accept comment "${COMMENT}"`,
            ...(f.hook === 'forward' ? [`insert rule ${at} oifname "${b}" accept comment "${COMMENT}"`] : []),
          ].join('\n'),
        );
      }
    }
  }
}

/** Takes every accept of ours out again; says which. */
export async function removeFirewallAllowances(): Promise<string[]> {
  const removed: string[] = [];
  const objects = await listAll().catch(() => [] as NftObject[]);
  for (const { rule } of objects) {
    if (!rule || rule.table === 'anka' || !(rule.comment ?? '').startsWith(COMMENT)) continue;
    await applyNft(`delete rule ${rule.family} ${rule.table} ${rule.chain} handle ${rule.handle}`);
    removed.push(`accept in ${rule.family} ${rule.table} ${rule.chain}`);
  }
  return removed;
}
