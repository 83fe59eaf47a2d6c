/**
 * What the contract suite cannot have in its world: other firewalls, forwarding that is off, cards on bridges. The rest
 * is proven there against reality.
 */
import { describe, expect, test } from 'vitest';
import { explainKernel as explain, type KernelSurroundings as Surroundings } from './kernel.ts';
import type { ExplainedCard, Packet } from './packet.ts';

const ip = (a: number, b: number, c: number, d: number): number => a * 2 ** 24 + b * 2 ** 16 + c * 256 + d;
const GW = ip(192, 168, 64, 1);
const HOST = ip(10, 9, 0, 2);
const INTERNET = ip(198, 51, 100, 1);

const card = (n: number, rest: Partial<ExplainedCard> = {}): ExplainedCard => ({
  id: `card${n}`,
  vmName: `vm${n}`,
  type: 'shared',
  outsideMac: 0x564545000000 + n,
  isolated: false,
  ip: ip(192, 168, 64, n + 1),
  rules: [],
  ...rest,
});

function world(cards: ExplainedCard[], rest: Partial<Surroundings> = {}): Surroundings {
  return {
    networks: [{ name: 'shared', subnet: { base: ip(192, 168, 64, 0), prefix: 24 }, interface: 'anka-shared', gatewayMac: 0x5a4545004001 }],
    cards,
    addresses: [
      { dev: 'en0', address: HOST, prefix: 24 },
      { dev: 'anka-shared', address: GW, prefix: 24 },
    ],
    routes: [
      { base: 0, prefix: 0, dev: 'en0' },
      { base: ip(172, 16, 0, 0), prefix: 12, dev: 'tun0' },
    ],
    forwardingOff: [],
    firewalls: [],
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
  const wall = (hook: 'forward' | 'input', allowed: boolean) => ({ firewalls: [{ name: `docker: chain ip filter ${hook}`, hook, allowed }] });

  test('another firewall decides, unless our accept is in it', () => {
    expect(explain(world([vm1], wall('forward', false)), vm1, packet(INTERNET))).toMatchObject({ verdict: 'dropped', rule: 'docker: chain ip filter forward' });
    expect(explain(world([vm1], wall('forward', true)), vm1, packet(INTERNET))).toMatchObject({ verdict: 'allowed', rule: 'masquerade' });
    expect(explain(world([vm1], wall('input', false)), vm1, packet(GW, { port: 53 })).verdict).toBe('dropped');
    expect(explain(world([vm1], wall('forward', false)), vm1, packet(HOST, { source: INTERNET, port: 8080 })).verdict).toBe('dropped');
  });

  test('forwarding that is off is told with the interface', () => {
    expect(explain(world([vm1], { forwardingOff: ['anka-shared'] }), vm1, packet(INTERNET)).rule).toBe('forwarding off on anka-shared');
    expect(explain(world([vm1], { forwardingOff: ['en0'] }), vm1, packet(INTERNET)).reason).toContain('its answers are lost');
    expect(explain(world([vm1], { forwardingOff: ['en0'] }), vm1, packet(HOST, { source: INTERNET, port: 8080 })).rule).toBe('forwarding off on en0');
  });

  test('the longest route says by which interface', () => {
    expect(explain(world([vm1]), vm1, packet(ip(172, 16, 3, 4))).steps.map((s) => s.does)).toContain('routed by tun0');
  });

  test('a rule in words: translated, with its name', () => {
    const x = explain(world([vm1]), vm1, packet(HOST, { source: INTERNET, port: 8080 }));
    expect(x).toMatchObject({ packet: 'tcp 198.51.100.1 → 10.9.0.2:8080', verdict: 'allowed', rule: "port forwarding 'web' of vm1", translated: true });
    expect(x.arrives).toEqual([{ at: 'vm1', source: '198.51.100.1', destination: '192.168.64.2', port: 80 }]);
  });

  test('an address that nobody owns may be taken, a reserved one not', () => {
    const other = card(2, { ip: null, reservedIp: ip(192, 168, 64, 50) });
    expect(explain(world([vm1, other]), vm1, packet(INTERNET, { source: ip(192, 168, 64, 77) })).verdict).toBe('allowed');
    expect(explain(world([vm1, other]), vm1, packet(INTERNET, { source: ip(192, 168, 64, 50) }))).toMatchObject({
      rule: 'guard: ip_spoof',
      reason: '192.168.64.50 belongs to vm2, not to vm1',
    });
  });

  test('on a bridge the outside network decides; parted VMs stay parted', () => {
    const segment = { name: 'en0', hostInterfaces: ['en0', 'anka-br00000000'], hostApart: false };
    const bridged = card(3, { type: 'bridge', bridge: 'en0', vlan: 7, ip: ip(10, 9, 0, 33), segment });
    const lone = card(4, { type: 'bridge', bridge: 'en0', isolated: true, ip: ip(10, 9, 0, 34), segment });
    const s = world([bridged, lone]);
    expect(explain(s, bridged, packet(INTERNET))).toMatchObject({ verdict: 'allowed', rule: 'bridge', translated: false });
    expect(explain(s, bridged, packet(INTERNET)).reason).toContain('VLAN 7');
    expect(explain(s, bridged, packet(lone.ip as number)).rule).toBe('VLAN 7');
    expect(explain(s, lone, packet(HOST)).rule).toBe('--no-local');
    expect(explain(s, bridged, packet(bridged.ip as number, { source: INTERNET })).arrives[0]?.at).toBe('vm3');
    const loose = card(5, { type: 'bridge', bridge: 'en1', ip: null });
    expect(explain(world([loose]), loose, packet(INTERNET)).rule).toBe('not plugged in');
  });
});
