/** B93: what drops a packet at the hooks on its path. */
import { describe, expect, test } from 'vitest';
import { fromHostOut, fromOutsideIn, type HookedPacket, type HookStage, towardsHost, towardsOutside } from '../../../net/explain/hook-path.ts';
import { chainDevices, type ListedRules, type NftObject, type XtablesTable } from './firewalls.ts';
import { doubtfulFilters, filterName, foreignDrop, foreignFilters, unfollowedChains } from './foreign-filters.ts';

const ip = (text: string): number => text.split('.').reduce((a, b) => a * 256 + Number(b), 0);
const GUEST = ip('192.168.64.2');
const GATEWAY = ip('192.168.64.1');
const OUTSIDE = ip('203.0.113.1');
const HOST = ip('198.51.100.2');
const sent: HookedPacket = { iif: 'anka-shared', oif: 'en0', source: GUEST, destination: OUTSIDE, protocol: 'tcp', port: 443, state: 'new' };
const toHost = { ...sent, oif: '', destination: GATEWAY, protocol: 'udp' };

const OUT = towardsOutside(sent, HOST);
const BACK = fromOutsideIn(
  { destination: HOST, port: null },
  { ...sent, iif: 'en0', oif: 'anka-shared', source: OUTSIDE, destination: GUEST, port: null, state: 'established' },
);
const DHCP = towardsHost({ ...toHost, source: 0, destination: ip('255.255.255.255'), port: 67 }, { port: 9967, by: 'raw' });
const DNS = towardsHost({ ...toHost, port: 53 }, { port: 9953, by: 'nat' });
const SSH = fromHostOut({ ...sent, iif: '', oif: 'anka-shared', source: GATEWAY, destination: GUEST, port: 22 });

type Chain = Partial<NonNullable<NftObject['chain']>> & { hook: string };
type Expression = Record<string, unknown>;
const DROP = { drop: null };
const by = (key: string, right: unknown, op = '==') => ({ match: { op, left: { meta: { key } }, right } });
const port = (right: unknown, protocol = 'udp') => ({ match: { op: '==', left: { payload: { protocol, field: 'dport' } }, right } });
const state = (...right: string[]) => ({ match: { op: 'in', left: { ct: { key: 'state' } }, right } });
const UNKNOWN = { match: { op: '==', left: { payload: { protocol: 'ip', field: 'saddr' } }, right: '@friends' } };

function nft(chain: Chain, ...rules: Expression[][]): ListedRules {
  const base = { family: 'inet', table: 'wall', name: 'walled', prio: 0, type: 'filter', policy: 'accept', ...chain };
  const place = { family: base.family, table: base.table, chain: base.name };
  return { nft: [{ chain: base }, ...rules.map((expr, i) => ({ rule: { ...place, handle: i + 2, expr: expr as never } }))], xtables: [], legacy: null };
}
const NONE: ListedRules = { nft: [], xtables: [], legacy: null };
const POLICIES = ['-P PREROUTING ACCEPT', '-P INPUT ACCEPT', '-P FORWARD ACCEPT', '-P OUTPUT ACCEPT', '-P POSTROUTING ACCEPT'];
const legacy = (table: XtablesTable['table'], ...lines: string[]): XtablesTable[] => [
  { by: 'iptables-legacy', table, lines: [...POLICIES.filter((p) => !lines.some((l) => l.startsWith(p.split(' ').slice(0, 2).join(' ')))), ...lines] },
];
const drop = (path: readonly HookStage[], rules: ListedRules, tables: XtablesTable[] = []): string | null => {
  const found = foreignDrop(foreignFilters(rules, tables), path);
  return found && `${filterName(found.filter)}: ${found.rule}`;
};

describe('B93: chains of nft at each hook', () => {
  const at = (hook: string, prio: number, policy = 'drop', rest: Partial<Chain> = {}): Chain => ({ hook, prio, policy, ...rest });

  test.each<[string, Chain, HookStage[][], HookStage[][]]>([
    ['prerouting', at('prerouting', -150), [OUT, BACK, DHCP, DNS], [SSH]],
    ['output', at('output', 0), [SSH], [OUT, BACK, DHCP, DNS]],
    ['postrouting', at('postrouting', 200), [SSH, OUT, BACK], [DHCP, DNS]],
    ['ingress of a network', at('ingress', 0, 'drop', { family: 'netdev', dev: 'anka-shared' }), [OUT, DHCP, DNS], [BACK, SSH]],
    ['ingress of several', at('ingress', 0, 'drop', { family: 'inet', dev: ['en0', 'lo'] }), [BACK], [OUT, DHCP, DNS, SSH]],
    ['the policy of forward and input is a finding of its own', at('forward', 0), [], [OUT, BACK]],
    ['IPv6', at('prerouting', 0, 'drop', { family: 'ip6' }), [], [OUT, DHCP]],
    ["anka's own table", at('prerouting', 0, 'drop', { family: 'ip', table: 'anka' }), [], [OUT]],
  ])('%s: by default', (_title, chain, dropped, passed) => {
    for (const path of dropped) expect(drop(path, nft(chain))).toBe(`chain ${chain.family ?? 'inet'} wall walled: policy drop of chain walled`);
    for (const path of passed) expect(drop(path, nft(chain))).toBeNull();
    const open = { ...chain, policy: 'accept' };
    for (const path of [...dropped, ...passed]) expect(drop(path, nft(open))).toBeNull();
    for (const path of dropped) expect(drop(path, nft(open, [DROP]))).toMatch(/: rule 2 of chain/);
    for (const path of dropped) expect(drop(path, nft(chain, [by('iifname', ['anka-shared', 'en0', 'lo', '']), { accept: null }]))).toBeNull();
  });

  test('ports and addresses are those at the hook', () => {
    const rule = (hook: string, prio: number, ...match: Expression[]) => nft({ hook, prio }, [...match, DROP]);
    // DHCP is redirected at priority -300, DNS at -100; at that priority the order of chains is not known
    for (const [path, prio, before, after] of [
      [DHCP, -300, 67, 9967],
      [DNS, -100, 53, 9953],
    ] as const) {
      expect(drop(path, rule('prerouting', prio - 1, port(before)))).not.toBeNull();
      expect(drop(path, rule('prerouting', prio - 1, port(after)))).toBeNull();
      expect(drop(path, rule('prerouting', prio + 1, port(before)))).toBeNull();
      expect(drop(path, rule('prerouting', prio + 1, port(after)))).not.toBeNull();
      expect(drop(path, rule('prerouting', prio, port(before)))).toBeNull();
      expect(drop(path, rule('prerouting', prio, port({ set: [before, after] })))).not.toBeNull();
      expect(drop(path, rule('input', 0, port(before)))).toBeNull();
      expect(drop(path, rule('input', 0, port(after)))).not.toBeNull();
    }
    const from = (address: string) => ({ match: { op: '==', left: { payload: { protocol: 'ip', field: 'saddr' } }, right: address } });
    const to = (address: string) => ({ match: { op: '==', left: { payload: { protocol: 'ip', field: 'daddr' } }, right: address } });
    expect(drop(OUT, rule('postrouting', 99, from('192.168.64.2')))).not.toBeNull();
    expect(drop(OUT, rule('postrouting', 101, from('192.168.64.2')))).toBeNull();
    expect(drop(OUT, rule('postrouting', 101, from('198.51.100.2')))).not.toBeNull();
    expect(drop(BACK, rule('prerouting', -150, to('198.51.100.2')))).not.toBeNull();
    expect(drop(BACK, rule('prerouting', 0, to('198.51.100.2')))).toBeNull();
    expect(drop(BACK, rule('prerouting', 0, to('192.168.64.2')))).not.toBeNull();
  });

  test('before connection tracking no packet has a state', () => {
    const established = (hook: string, prio: number) => nft({ hook, prio, policy: 'drop' }, [state('established'), { accept: null }]);
    expect(drop(BACK, established('prerouting', -150))).toBeNull();
    expect(drop(BACK, established('prerouting', -250))).not.toBeNull();
    expect(drop(OUT, nft({ hook: 'prerouting', prio: -150 }, [state('invalid'), DROP]))).toBeNull();
  });

  test('only the first packet of a connection passes chains of type nat', () => {
    const chain = { hook: 'prerouting', prio: -150, type: 'nat', policy: 'drop' };
    expect([drop(OUT, nft(chain)) === null, drop(BACK, nft(chain)) === null]).toEqual([false, true]);
  });

  test('a drop after a rule that is not understood, and may spare the packet, is not for sure', () => {
    const doubtful = nft({ hook: 'prerouting', prio: -150, policy: 'drop' }, [UNKNOWN, { accept: null }]);
    expect(drop(OUT, doubtful)).toBeNull();
    expect(doubtfulFilters(foreignFilters(doubtful, []), OUT).map(filterName)).toEqual(['chain inet wall walled']);
    const sure = nft({ hook: 'prerouting', prio: -150, policy: 'drop' }, [UNKNOWN, DROP]);
    expect(drop(OUT, sure)).not.toBeNull();
    expect(doubtfulFilters(foreignFilters(sure, []), OUT)).toEqual([]);
  });
});

describe('B93: tables of iptables', () => {
  test.each<[XtablesTable['table'], string, HookStage[]]>([
    ['raw', '-A PREROUTING -i anka-shared -j DROP', OUT],
    ['raw', '-A OUTPUT -o anka-shared -j DROP', SSH],
    ['mangle', '-A PREROUTING -p udp -m udp --dport 9967 -j DROP', DHCP],
    ['mangle', '-A PREROUTING -p udp -m udp --dport 53 -j DROP', DNS],
    ['mangle', '-A INPUT -p udp -m udp --dport 9953 -j DROP', DNS],
    ['mangle', '-A FORWARD -i anka-shared -j DROP', OUT],
    ['mangle', '-A OUTPUT -p tcp -m tcp --dport 22 -j DROP', SSH],
    ['mangle', '-A POSTROUTING -s 192.168.64.0/24 -j DROP', OUT],
    ['security', '-A FORWARD -o anka-shared -j DROP', BACK],
  ])('iptables-legacy -t %s %s', (table, line, path) => {
    const chain = line.split(' ')[1];
    expect(drop(path, NONE, legacy(table, line))).toBe(`iptables-legacy: chain ${table} ${chain}: ${line}`);
    expect(drop(path, NONE, legacy(table, `-P ${chain} DROP`))).toBe(`iptables-legacy: chain ${table} ${chain}: policy drop of chain ${chain}`);
    expect(drop(path, NONE, legacy(table, `-A ${chain} -j ACCEPT`, line))).toBeNull();
  });

  test('tables of iptables-nft are followed as iptables prints them', () => {
    const line = '-A PREROUTING -i anka-shared -m comment --comment "no guests" -j DROP';
    const rules = nft({ family: 'ip', table: 'raw', name: 'PREROUTING', hook: 'prerouting', prio: -300 }, [{ xt: null }, DROP]);
    expect(drop(OUT, rules, [{ by: 'iptables-nft', table: 'raw', lines: [...POLICIES, line] }])).toBe(`chain ip raw PREROUTING: ${line}`);
  });

  test("docker's and firewalld's rules at these hooks drop nothing of ours", () => {
    const docker = legacy(
      'raw',
      '-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP',
      '-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 80 -j DROP',
    );
    const fib = { match: { op: '==', left: { fib: { result: 'oif', flags: ['saddr', 'iif'] } }, right: false } };
    const ipv6 = { match: { op: '==', left: { meta: { key: 'nfproto' } }, right: 'ipv6' } };
    const firewalld = nft({ table: 'firewalld', name: 'filter_PREROUTING', hook: 'prerouting', prio: 10 }, [ipv6, fib, DROP]);
    for (const path of [OUT, BACK, DHCP, DNS, SSH]) {
      expect(drop(path, firewalld, docker)).toBeNull();
      expect(doubtfulFilters(foreignFilters(firewalld, docker), path)).toEqual([]);
    }
  });
});

describe('B93: chains that are not followed', () => {
  const found = (rules: ListedRules) => unfollowedChains(rules, ['anka-shared', 'en0'], 'anka12345678').map((c) => `${c.family} ${c.hook}`);

  test.each<[string, Chain, Expression[][], boolean]>([
    ['a rule', { family: 'bridge', hook: 'prerouting' }, [[UNKNOWN, DROP]], true],
    ['a policy', { family: 'bridge', hook: 'output', policy: 'drop' }, [], true],
    ['a policy that is reported by itself', { family: 'bridge', hook: 'forward', policy: 'drop' }, [], false],
    ['a queue', { family: 'arp', hook: 'input' }, [[{ queue: null }]], true],
    ['a map of verdicts', { family: 'bridge', hook: 'input' }, [[{ vmap: {} }]], true],
    ['egress of the uplink', { family: 'netdev', hook: 'egress', dev: 'en0', policy: 'drop' }, [], true],
    ['egress of another interface', { family: 'netdev', hook: 'egress', dev: 'en7', policy: 'drop' }, [], false],
    ["another program's port, as libvirt's filters", { family: 'bridge', hook: 'prerouting' }, [[by('iifname', 'vnet0'), DROP]], false],
    ['nothing is dropped', { family: 'bridge', hook: 'prerouting' }, [[{ counter: {} }], [{ accept: null }]], false],
    ['accepted before', { family: 'bridge', hook: 'forward' }, [[by('iifname', 'anka*'), { accept: null }], [DROP]], false],
    ['a chain that is followed', { family: 'inet', hook: 'prerouting', policy: 'drop' }, [[DROP]], false],
    ['a chain of anka', { family: 'bridge', table: 'anka', hook: 'prerouting' }, [[DROP]], false],
  ])('%s', (_title, chain, rules, expected) => {
    expect(found(nft(chain, ...rules))).toEqual(expected ? [`${chain.family} ${chain.hook}`] : []);
  });
});

test.each([
  ['type filter hook ingress device "en0" priority filter; policy drop;', ['en0']],
  ['type filter hook ingress devices = { "en0", lo } priority 0; policy accept;', ['en0', 'lo']],
  ['type filter hook input priority filter; policy drop;', []],
])('interfaces of a chain: %s', (line, expected) => {
  expect(chainDevices(`table netdev wall {\n\tchain walled {\n\t\t${line}\n\t}\n}\n`)).toEqual(expected);
});
