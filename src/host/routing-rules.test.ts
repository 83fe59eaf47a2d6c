import { describe, expect, test } from 'vitest';
import { decide, decisionText, type IpRoute, type IpRule, ruleText } from './routing-rules.ts';

const ip = (text: string): number => text.split('.').reduce((a, b) => a * 256 + Number(b), 0);
const GUEST = ip('192.168.64.2');
const OUTSIDE = ip('203.0.113.1');

/** As `ip -j` prints those of a host with Tailscale, its own local table left out. */
const RULES: IpRule[] = [
  { priority: 5210, src: 'all', fwmark: '0x80000', fwmask: '0xff0000', table: 'main' },
  { priority: 5250, src: 'all', fwmark: '0x80000', fwmask: '0xff0000', action: 'unreachable' },
  { priority: 5270, src: 'all', table: '52' },
  { priority: 32766, src: 'all', table: 'main' },
  { priority: 32767, src: 'all', table: 'default' },
];
const ROUTES: IpRoute[] = [
  { dst: '192.168.0.0/16', dev: 'tailscale0', table: '52' },
  { type: 'throw', dst: '192.168.64.128/25', table: '52' },
  { dst: 'default', dev: 'en0' },
  { dst: '192.168.64.0/24', dev: 'anka-shared' },
  { type: 'prohibit', dst: '203.0.113.0/24' },
];

const text = (rules: readonly IpRule[], routes: readonly IpRoute[], packet: Parameters<typeof decide>[2]): string => {
  const found = decide(rules, routes, packet);
  return found === null ? 'nothing' : decisionText(found);
};

describe('B93: the rule and route that decide', () => {
  test('a rule before the main table, if its table has a route; `throw` goes on; marks do not match', () => {
    expect(text(RULES, ROUTES, { to: GUEST })).toBe('rule 5270 (from all lookup 52)');
    expect(decide(RULES, ROUTES, { to: GUEST })?.route?.dev).toBe('tailscale0');
    expect(decide(RULES, ROUTES, { to: ip('192.168.64.130') })?.route?.dev).toBe('anka-shared');
    expect(text(RULES, ROUTES, { to: ip('8.8.8.8') }), 'an ordinary route').toBe('');
    expect(text(RULES, ROUTES, { to: OUTSIDE })).toBe("route 'prohibit 203.0.113.0/24'");
    expect(text(RULES.slice(0, 3), ROUTES, { to: OUTSIDE })).toBe('nothing');
  });

  const verdict = (rule: Partial<IpRule>): IpRule[] => [{ priority: 100, src: 'all', action: 'prohibit', ...rule }, ...RULES];
  test.each([
    ['from a subnet', { src: '192.168.64.0', srclen: 24 }, { to: OUTSIDE, from: GUEST }, { to: OUTSIDE, from: ip('10.9.0.2') }],
    ['not from a subnet', { src: '192.168.64.0', srclen: 24, not: null }, { to: OUTSIDE, from: ip('10.9.0.2') }, { to: OUTSIDE, from: GUEST }],
    ['to a subnet', { dst: '203.0.113.0', dstlen: 24 }, { to: OUTSIDE }, { to: GUEST }],
    ['to one address', { dst: '203.0.113.1' }, { to: OUTSIDE }, { to: OUTSIDE + 1 }],
    ['by an interface', { iif: 'anka-shared' }, { to: OUTSIDE, iif: 'anka-shared' }, { to: OUTSIDE }],
    ['sent by the host', { iif: 'lo' }, { to: OUTSIDE }, { to: OUTSIDE, iif: 'anka-shared' }],
    ['of a user', { uid_start: 1000, uid_end: 1001 }, { to: OUTSIDE, uid: 1001 }, { to: OUTSIDE, uid: 999 }],
    ['of a protocol and port', { ipproto: 'tcp', dport: 443 }, { to: OUTSIDE, protocol: 'tcp', port: 443 }, { to: OUTSIDE, protocol: 'udp', port: 443 }],
  ] as const)('a selector: %s', (_title, rule, match, miss) => {
    expect(decide(verdict(rule), ROUTES, match)?.rule.priority).toBe(100);
    expect(decide(verdict(rule), ROUTES, miss)?.rule.priority).not.toBe(100);
  });

  test('goto skips rules, nop and a suppressed default route decide nothing', () => {
    const jump: IpRule[] = [{ priority: 10, src: 'all', goto: 32_766 }, ...RULES];
    expect(decide(jump, ROUTES, { to: GUEST })?.rule.priority).toBe(32_766);
    expect(decide([{ priority: 10, src: 'all', action: 'nop' }, ...RULES], ROUTES, { to: GUEST })?.rule.priority).toBe(5270);
    const suppress: IpRule[] = [{ priority: 10, src: 'all', table: 'main', suppress_prefixlen: 0 }, ...RULES];
    expect(decide(suppress, ROUTES, { to: ip('8.8.8.8') })?.rule.priority).toBe(32_766);
    expect(decide(suppress, ROUTES, { to: GUEST })?.rule.priority).toBe(10);
  });

  test('rules read as ip-rule(8) takes them', () => {
    expect(ruleText({ priority: 8, not: null, src: '10.0.0.0', srclen: 8, dst: '1.2.3.4', action: 'blackhole' })).toBe(
      'not from 10.0.0.0/8 to 1.2.3.4 blackhole',
    );
    expect(ruleText({ priority: 9, src: 'all', iif: 'lo', uid_start: 5, uid_end: 6, table: '100' })).toBe('from all iif lo uidrange 5-6 lookup 100');
  });
});
