import { describe, expect, test } from 'vitest';
import type { HookedPacket } from '../../../net/explain/hook-path.ts';
import { type FilterChain, type FilterRule, follow, mayDrop, nftRule, parseXtables } from './foreign-rules.ts';

const ip = (text: string): number => text.split('.').reduce((a, b) => a * 256 + Number(b), 0);
const OUT: HookedPacket = {
  ...{ iif: 'anka-shared', oif: 'en0', source: ip('192.168.64.2'), destination: ip('203.0.113.1') },
  ...{ protocol: 'tcp', port: 443, state: 'new' },
};

const HEAD = ['-P INPUT ACCEPT', '-P FORWARD ACCEPT', '-P OUTPUT ACCEPT', '-N SIEVE'];
const drops = (lines: readonly string[], p: Partial<HookedPacket> = {}): string | undefined => {
  const end = follow(parseXtables([...HEAD, ...lines]), 'FORWARD', { ...OUT, ...p });
  return end === null || end === 'accepted' ? undefined : end.text;
};

describe('B93: rules of iptables', () => {
  test.each([
    ['-A FORWARD -j DROP', true],
    ['-A FORWARD -j REJECT --reject-with icmp-port-unreachable', true],
    ['-A FORWARD -s 192.168.64.0/24 -j DROP', true],
    ['-A FORWARD ! -s 192.168.64.0/24 -j DROP', false],
    ['-A FORWARD -s 192.168.65.0/24 -j DROP', false],
    ['-A FORWARD -d 203.0.113.1/32 -j DROP', true],
    ['-A FORWARD -i anka+ -o en0 -j DROP', true],
    ['-A FORWARD -i docker0 ! -o docker0 -j DROP', false],
    ['-A FORWARD ! -o en0 -j DROP', false],
    ['-A FORWARD -p tcp -m tcp --dport 443 -j DROP', true],
    ['-A FORWARD -p tcp -m tcp --dport 400:499 -m comment --comment "no web -j ACCEPT" -j DROP', true],
    ['-A FORWARD -p udp -m udp --dport 443 -j DROP', false],
    ['-A FORWARD -m conntrack --ctstate INVALID -j DROP', false],
    ['-A FORWARD -m state --state NEW -j DROP', true],
    ['-A FORWARD -j LOG --log-prefix "x "', false],
    ['-A FORWARD -m physdev --physdev-is-bridged -j DROP', false],
    ['-A INPUT -j DROP', false],
  ])('%s: %s', (line, expected) => {
    expect(drops([line]) === line).toBe(expected);
  });

  test('the first rule decides; chains are followed, and returned from', () => {
    expect(drops(['-A FORWARD -i anka-shared -j ACCEPT', '-A FORWARD -j DROP'])).toBeUndefined();
    expect(drops(['-A FORWARD -j SIEVE', '-A SIEVE -p tcp -j DROP', '-A FORWARD -j ACCEPT'])).toBe('-A SIEVE -p tcp -j DROP');
    expect(drops(['-A FORWARD -j SIEVE', '-A SIEVE -j RETURN', '-A SIEVE -j DROP', '-A FORWARD -j ACCEPT'])).toBeUndefined();
    expect(drops(['-A FORWARD -g SIEVE', '-A FORWARD -j DROP'])).toBeUndefined();
    expect(drops(['-A FORWARD -j SIEVE', '-A SIEVE -j SIEVE', '-A FORWARD -j DROP']), 'no endless loop').toBeUndefined();
    const established = ['-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT', '-A FORWARD -j DROP'];
    expect(drops(established)).toBe('-A FORWARD -j DROP');
    expect(drops(established, { state: 'established' })).toBeUndefined();
  });
});

describe('B93: what is not understood', () => {
  const doubts = (...lines: string[]): string[] => {
    const found: FilterRule[] = [];
    follow(parseXtables([...HEAD, ...lines]), 'FORWARD', OUT, { doubts: found });
    return found.map((r) => r.text);
  };

  test.each([
    ['-A FORWARD -m set --match-set friends src -j ACCEPT', true],
    ['-A FORWARD -i eth7 -m set --match-set friends src -j ACCEPT', false],
    ['-A FORWARD -m set --match-set foes src -j DROP', false],
    ['-A FORWARD -m socket --transparent -j ACCEPT', true],
    ['-A FORWARD -m socket --transparent -j DROP', false],
    ['-A FORWARD -m limit --limit 5/sec -j SIEVE', true],
    ['-A FORWARD -j NFQUEUE --queue-num 0', true],
    ['-A FORWARD -j LOG', false],
  ])('%s may spare the packet: %s', (line, expected) => {
    expect(doubts(line)).toEqual(expected ? [line] : []);
  });

  test.each([
    [['-A FORWARD -m set --match-set foes src -j DROP'], true],
    [['-A FORWARD -p udp -j DROP'], true],
    [['-A FORWARD -i eth7 -m set --match-set foes src -j DROP'], false],
    [['-A FORWARD -m set --match-set foes src -j SIEVE', '-A SIEVE -j REJECT'], true],
    [['-A FORWARD -i eth7 -j SIEVE', '-A SIEVE -j DROP'], false],
    [['-A FORWARD -j SIEVE', '-A SIEVE -i anka+ -j ACCEPT', '-A FORWARD -j DROP'], false],
    [['-A FORWARD -p tcp -j ACCEPT', '-A FORWARD -j DROP'], true],
    [['-A FORWARD -j NFQUEUE'], true],
    [['-A FORWARD -j LOG', '-A FORWARD -j ACCEPT'], false],
  ])('%j may drop something: %s', (lines, expected) => {
    expect(mayDrop(parseXtables([...HEAD, ...lines]), 'FORWARD', OUT)).toBe(expected);
  });
});

describe('B93: rules of nft', () => {
  const meta = (key: string, right: unknown, op = '==') => ({ match: { op, left: { meta: { key } }, right } });
  const payload = (protocol: string, field: string, right: unknown, op = '==') => ({ match: { op, left: { payload: { protocol, field } }, right } });
  const end = (...statements: Record<string, unknown>[]): string => {
    const chains = new Map<string, FilterChain>([['base', { policy: 'accept', rules: [nftRule('it', statements)] }]]);
    const found = follow(chains, 'base', OUT);
    return found === null ? 'passes' : found === 'accepted' ? found : 'drops';
  };

  test.each([
    ['drop', [{ counter: {} }, { drop: null }], 'drops'],
    ['reject', [{ reject: {} }], 'drops'],
    ['accept by interface', [meta('iifname', 'anka-shared'), { accept: null }], 'accepted'],
    ['another interface', [meta('oifname', 'en1'), { drop: null }], 'passes'],
    ['interfaces by prefix and set', [meta('iifname', { set: ['lo', 'anka*'] }), { drop: null }], 'drops'],
    ['not an interface', [meta('oifname', 'en0', '!='), { drop: null }], 'passes'],
    ['a subnet', [payload('ip', 'saddr', { prefix: { addr: '192.168.0.0', len: 16 } }), { drop: null }], 'drops'],
    ['addresses', [payload('ip', 'daddr', { set: ['10.0.0.1', '203.0.113.1'] }), { drop: null }], 'drops'],
    ['a port', [payload('tcp', 'dport', 443), { drop: null }], 'drops'],
    ['ports', [payload('tcp', 'dport', { set: [22, { range: [400, 499] }] }), { drop: null }], 'drops'],
    ['another protocol', [payload('udp', 'dport', 443), { drop: null }], 'passes'],
    ['a protocol', [meta('l4proto', { set: ['tcp', 'udp'] }), { drop: null }], 'drops'],
    ['connection states', [{ match: { op: 'in', left: { ct: { key: 'state' } }, right: ['established', 'related'] } }, { accept: null }], 'passes'],
    ['a set by name is not understood', [payload('ip', 'saddr', '@blocked'), { drop: null }], 'passes'],
    ['a limit is not understood', [{ limit: { rate: 1 } }, { drop: null }], 'passes'],
    ['what NAT translates is not dropped later', [{ masquerade: null }], 'accepted'],
    ['a map of verdicts is not understood', [{ vmap: {} }], 'passes'],
    ['an IPv6 address', [payload('ip6', 'saddr', 'fe80::1'), { drop: null }], 'passes'],
  ] as const)('%s', (_title, statements, expected) => {
    expect(end(...(statements as readonly Record<string, unknown>[]))).toBe(expected);
  });
});
