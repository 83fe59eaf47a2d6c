/**
 * Cases that the contract suite's world cannot have: other firewalls, forwarding that is off, a bridge of the host's
 * own. It compares everything else with real packets.
 */
import { describe, expect, test } from 'vitest';
import { linkLocalOf } from '../../wire/address6.ts';
import { HOOKS, type HookedPacket } from './hook-path.ts';
import type { BridgedSegment, ExplainedCard } from './host-state.ts';
import { explainKernel as explain, type KernelHostState } from './kernel-engine.ts';
import type { Packet } from './packet.ts';
import { byLongestPrefix } from './routing.ts';

const ip = (a: number, b: number, c: number, d: number): number => a * 2 ** 24 + b * 2 ** 16 + c * 256 + d;
const GW = ip(192, 168, 64, 1);
const HOST = ip(10, 9, 0, 2);
const INTERNET = ip(198, 51, 100, 1);

const ROUTES = [
  { base: 0, prefix: 0, dev: 'en0' },
  { base: ip(192, 168, 64, 0), prefix: 24, dev: 'anka-shared' },
  { base: ip(172, 16, 0, 0), prefix: 12, dev: 'tun0' },
];

const card = (n: number, rest: Partial<ExplainedCard> = {}): ExplainedCard => ({
  id: `card${n}`,
  vmName: `vm${n}`,
  type: 'shared',
  outsideMac: 0x564545000000 + n,
  isolated: false,
  ip: ip(192, 168, 64, n + 1),
  addresses: rest.ip === null ? [] : [rest.ip ?? ip(192, 168, 64, n + 1)],
  virtual: [],
  rules: [],
  ...rest,
});

function world(cards: ExplainedCard[], rest: Partial<KernelHostState> = {}): KernelHostState {
  return {
    networks: [{ name: 'shared', subnet: { base: ip(192, 168, 64, 0), prefix: 24 }, interface: 'anka-shared', gatewayMac: 0x5a4545004001 }],
    cards,
    addresses: [
      { dev: 'en0', address: HOST, prefix: 24 },
      { dev: 'anka-shared', address: GW, prefix: 24 },
    ],
    metadata: false,
    route: byLongestPrefix(ROUTES),
    addresses6: ['2001:db8:1::2'],
    redirectPorts: { dhcp: { shared: 9967, host: 9968 }, dns: 9953 },
    atConnectionLimit: [],
    forwardingOff: [],
    firewalls: [],
    foreignDrop: () => null,
    ...rest,
  };
}

const packet = (destination: number | string, rest: Partial<Packet> = {}): Packet => ({
  protocol: 'tcp',
  source: null,
  sourcePort: null,
  destination,
  port: 80,
  ...rest,
});

describe('B93: explain, kernel engine', () => {
  const vm1 = card(1, { rules: [{ name: 'web', protocol: 'tcp', hostIp: 0, hostPort: 8080, guestPort: 80 }] });
  const firewall = (hook: 'forward' | 'input', allowed: boolean) => ({ firewalls: [{ name: `docker: chain ip filter ${hook}`, hook, allowed }] });

  /** A rule of another firewall: what it drops at a hook. */
  const dropsAt = (hook: string, matches: (p: HookedPacket) => boolean): Partial<KernelHostState> => ({
    foreignDrop: (path) => (path.some((s) => s.hook === hook && matches(s.packet)) ? { firewall: `wall ${hook}`, rule: 'drop' } : null),
  });

  test('requests of guests have the port to which they are redirected when they reach the input hook', () => {
    const discover = packet(ip(255, 255, 255, 255), { source: 0, protocol: 'udp', port: 67 });
    const renewal = packet(GW, { protocol: 'udp', port: 67 });
    const query = packet(GW, { protocol: 'udp', port: 53 });
    for (const [p, before, after] of [
      [discover, 67, 9967],
      [renewal, 67, 9967],
      [query, 53, 9953],
    ] as const) {
      expect(
        explain(
          world(
            [vm1],
            dropsAt('input', ({ port }) => port === before),
          ),
          vm1,
          p,
        ).verdict,
      ).toBe('allowed');
      expect(
        explain(
          world(
            [vm1],
            dropsAt('input', ({ port }) => port === after),
          ),
          vm1,
          p,
        ),
      ).toMatchObject({ verdict: 'dropped', rule: 'wall input' });
      expect(
        explain(
          world(
            [vm1],
            dropsAt('prerouting', ({ port }) => port === before),
          ),
          vm1,
          p,
        ),
      ).toMatchObject({ verdict: 'dropped', rule: 'wall prerouting' });
    }
  });

  test('another firewall may drop at every hook of the path', () => {
    const any = () => true;
    const verdict = (hook: string, p: Packet) => explain(world([vm1], dropsAt(hook, any)), vm1, p).verdict;
    const dropping = (p: Packet) => HOOKS.filter((hook) => verdict(hook, p) === 'dropped');
    expect(dropping(packet(INTERNET))).toEqual(['ingress', 'prerouting', 'forward', 'postrouting']);
    expect(dropping(packet(GW, { port: 22 }))).toEqual(['ingress', 'prerouting', 'input']);
    expect(dropping(packet(HOST, { source: INTERNET, port: 8080 }))).toEqual(['ingress', 'prerouting', 'forward', 'postrouting']);
    expect(dropping(packet(ip(192, 168, 64, 2), { source: GW, port: 22 }))).toEqual(['output', 'postrouting']);
  });

  test("another firewall decides, unless anka's accept is in its chain", () => {
    expect(explain(world([vm1], firewall('forward', false)), vm1, packet(INTERNET))).toMatchObject({
      verdict: 'dropped',
      rule: 'docker: chain ip filter forward',
    });
    expect(explain(world([vm1], firewall('forward', true)), vm1, packet(INTERNET))).toMatchObject({ verdict: 'allowed', rule: 'masquerade' });
    expect(explain(world([vm1], firewall('input', false)), vm1, packet(GW, { port: 53 })).verdict).toBe('dropped');
    const discover = packet(0xffffffff, { protocol: 'udp', source: 0, port: 67 });
    expect(explain(world([vm1], firewall('input', false)), vm1, discover)).toMatchObject({ verdict: 'dropped', rule: 'docker: chain ip filter input' });
    expect(explain(world([vm1, card(2)], firewall('input', false)), vm1, discover).arrives.map((a) => a.at)).toEqual(['vm2']);
    expect(explain(world([vm1, card(2)], firewall('input', true)), vm1, discover).arrives.map((a) => a.at)).toEqual(['host', 'vm2']);
    expect(explain(world([vm1], firewall('forward', false)), vm1, packet(HOST, { source: INTERNET, port: 8080 })).verdict).toBe('dropped');
  });

  test('a guest at its limit of connections may be refused another one, but not DNS, nor a client', () => {
    const full = world([vm1], { atConnectionLimit: ['card1'] });
    const rules = (p: Packet): string[] => explain(full, vm1, p).steps.map((s) => s.rule);
    for (const to of [INTERNET, HOST]) expect(rules(packet(to))).toContain('connection_limit');
    expect(rules(packet(GW, { protocol: 'udp', port: 53 }))).not.toContain('connection_limit');
    expect(rules(packet(HOST, { source: INTERNET, port: 8080 }))).not.toContain('connection_limit');
  });

  test('forwarding that is off is reported with the interface', () => {
    expect(explain(world([vm1], { forwardingOff: ['anka-shared'] }), vm1, packet(INTERNET)).rule).toBe('forwarding off on anka-shared');
    expect(explain(world([vm1], { forwardingOff: ['en0'] }), vm1, packet(INTERNET)).reason).toContain('answers are lost');
    expect(explain(world([vm1], { forwardingOff: ['en0'] }), vm1, packet(HOST, { source: INTERNET, port: 8080 })).rule).toBe('forwarding off on en0');
  });

  test('the longest prefix decides the interface', () => {
    expect(explain(world([vm1]), vm1, packet(ip(172, 16, 3, 4))).steps.map((s) => s.does)).toContain('routed out of tun0');
  });

  test('a forwarding rule translates, and is named', () => {
    const x = explain(world([vm1]), vm1, packet(HOST, { source: INTERNET, port: 8080 }));
    expect(x).toMatchObject({ packet: 'tcp 198.51.100.1 → 10.9.0.2:8080', verdict: 'allowed', rule: "port forwarding 'web' of vm1", translated: true });
    expect(x.arrives).toEqual([{ at: 'vm1', source: '198.51.100.1', destination: '192.168.64.2', port: 80 }]);
  });

  test('a free address may be claimed, a reserved one may not', () => {
    const other = card(2, { ip: null, reservedIp: ip(192, 168, 64, 50) });
    expect(explain(world([vm1, other]), vm1, packet(INTERNET, { source: ip(192, 168, 64, 77) })).verdict).toBe('allowed');
    expect(explain(world([vm1, other]), vm1, packet(INTERNET, { source: ip(192, 168, 64, 50) }))).toMatchObject({
      rule: 'guard: ip_spoof',
      reason: '192.168.64.50 belongs to vm2, not to vm1',
    });
  });

  test('an isolated card may claim a free address, too', () => {
    const isolated = card(2, { isolated: true });
    expect(explain(world([isolated]), isolated, packet(INTERNET, { source: ip(192, 168, 64, 77) })).verdict).toBe('allowed');
  });

  const segment: BridgedSegment = { name: 'en0', hostInterfaces: ['en0', 'anka-br00000000'], hostUnreachable: false, isHostBridge: false };
  const bridged = card(3, { type: 'bridge', bridge: 'en0', vlan: 7, ip: ip(10, 9, 0, 33), segment });
  const isolated = card(4, { type: 'bridge', bridge: 'en0', isolated: true, ip: ip(10, 9, 0, 34), segment });

  test('on a bridge the outside network decides; isolated VMs stay isolated', () => {
    const s = world([bridged, isolated]);
    expect(explain(s, bridged, packet(INTERNET))).toMatchObject({ verdict: 'allowed', rule: 'bridge', translated: false });
    expect(explain(s, bridged, packet(INTERNET)).reason).toContain('VLAN 7');
    expect(explain(s, bridged, packet(isolated.ip as number)).rule).toBe('VLAN 7');
    expect(explain(s, isolated, packet(HOST)).rule).toBe('--no-local');
    expect(explain(s, bridged, packet(bridged.ip as number, { source: INTERNET })).arrives[0]?.at).toBe('vm3');
    const unattached = card(5, { type: 'bridge', bridge: 'en1', ip: null });
    expect(explain(world([unattached]), unattached, packet(INTERNET)).rule).toBe('not attached');
  });

  test("an isolated VM on a bridge of the host's own reaches the host's DHCP server there, and nothing else of it", () => {
    const own = { ...isolated, segment: { ...segment, isHostBridge: true } };
    const dhcp = packet(HOST, { protocol: 'udp', port: 67 });
    expect(explain(world([own]), own, dhcp)).toMatchObject({ verdict: 'allowed', arrives: [{ at: 'host' }] });
    expect(explain(world([isolated]), isolated, dhcp).rule).toBe('--no-local');
    expect(explain(world([own]), own, packet(HOST, { protocol: 'udp', port: 53 })).rule).toBe('--no-local');
  });

  test("no bridged VM may use the host's address on any bridged interface", () => {
    const other = card(5, { type: 'bridge', bridge: 'en1', ip: null, segment: { ...segment, name: 'en1', hostInterfaces: ['en1'] } });
    const s = world([bridged, other], { addresses: [{ dev: 'en1', address: HOST, prefix: 24 }] });
    expect(explain(s, bridged, packet(INTERNET, { source: HOST })).rule).toBe('guard: ip_spoof');
  });

  test("IPv6 sources: none that another's MAC address names, on any network, and none that is forbidden", () => {
    const s = world([vm1, card(2, { type: 'host' }), bridged]);
    const to = linkLocalOf(0x5a4545004001);
    const from = (source: string, sender = vm1): string => explain(s, sender, packet(to, { protocol: 'udp', source })).rule;
    expect(from(linkLocalOf(vm1.outsideMac))).toBe('shared network');
    expect(from('fe80::1')).toBe('shared network');
    for (const source of ['::', '::1', '::ffff:a00:1', 'ff02::1', linkLocalOf(0x564545000002), linkLocalOf(0x5a4545004001), '2001:db8::5445:45ff:fe00:2'])
      expect(from(source), source).toBe('guard: ip_spoof');
    expect(from(linkLocalOf(vm1.outsideMac), bridged)).toBe('guard: ip_spoof');
    expect(explain(s, bridged, packet('fe80::1', { protocol: 'udp', sourcePort: 547, port: 546 })).rule).toBe('guard: rogue_dhcp');
    expect(explain(s, bridged, packet(INTERNET, { protocol: 'udp', sourcePort: 547, port: 546 })).verdict).toBe('allowed');
  });
});
