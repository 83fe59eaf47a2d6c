/**
 * Cases that the contract suite's world cannot have: a host without the right to ping, without addresses, with a
 * default route. It compares everything else with real packets.
 */
import { expect, test } from 'vitest';
import type { ExplainedCard } from './host-state.ts';
import type { Packet } from './packet.ts';
import { byLongestPrefix } from './routing.ts';
import { explainUser, type UserHostState } from './user-engine.ts';

const GW = 0xc0a84001;
const HOST = 0x0a090002;
const INTERNET = 0xc6336401;

const card = (n: number, rest: Partial<ExplainedCard> = {}): ExplainedCard => ({
  id: `card${n}`,
  vmName: `vm${n}`,
  type: 'shared',
  outsideMac: 0x564545000000 + n,
  isolated: false,
  ip: 0xc0a84001 + n,
  addresses: rest.ip === null ? [] : [rest.ip ?? 0xc0a84001 + n],
  virtual: [],
  rules: [],
  ...rest,
});
const vm1 = card(1, { rules: [{ name: 'web', protocol: 'tcp', hostIp: 0, hostPort: 8080, guestPort: 80 }] });

const world = (rest: Partial<UserHostState> = {}): UserHostState => ({
  networks: [{ name: 'shared', subnet: { base: 0xc0a84000, prefix: 24 }, gatewayMac: 0x5a4545004001 }],
  cards: [vm1],
  addresses: [
    { dev: 'en0', address: HOST, prefix: 24 },
    { dev: 'shared', address: GW, prefix: 24 },
  ],
  metadata: false,
  route: byLongestPrefix([{ base: 0, prefix: 0, dev: 'en0' }]),
  primary: HOST,
  mayPing: true,
  ...rest,
});

const packet = (destination: number | string, rest: Partial<Packet> = {}): Packet => ({
  protocol: 'tcp',
  source: null,
  sourcePort: null,
  destination,
  port: 80,
  ...rest,
});

test('B93: without the right to send echo requests, those to outside are dropped; the gateway still answers', () => {
  const s = world({ mayPing: false });
  expect(explainUser(s, vm1, packet(INTERNET, { protocol: 'icmp', port: null }))).toMatchObject({ verdict: 'dropped', rule: 'net.ipv4.ping_group_range' });
  expect(explainUser(s, vm1, packet(GW, { protocol: 'icmp', port: null })).arrives[0]?.at).toBe('gateway');
});

test('B93: the gateway stands for the host’s first address, and for none while there is none', () => {
  expect(explainUser(world(), vm1, packet(GW)).arrives).toEqual([{ at: 'host', source: '10.9.0.2', destination: '10.9.0.2', port: 80 }]);
  expect(explainUser(world({ primary: null }), vm1, packet(GW)).verdict).toBe('refused');
  expect(explainUser(world({ primary: null }), vm1, packet(GW, { protocol: 'udp' })).verdict).toBe('dropped');
  expect(explainUser(world({ primary: null }), vm1, packet(GW, { port: 8080 })).arrives).toEqual([
    { at: 'vm1', source: '192.168.64.1', destination: '192.168.64.2', port: 80 },
  ]);
});

test('B93: the host reaches a guest only by anka ssh and anka nc, the outside only by a rule', () => {
  expect(explainUser(world(), vm1, packet(vm1.ip as number, { source: HOST })).reason).toContain("'anka nc vm1 PORT'");
  expect(explainUser(world(), vm1, packet(vm1.ip as number, { source: INTERNET })).rule).toBe('isolation from outside');
  const x = explainUser(world(), vm1, packet(HOST, { source: INTERNET, port: 8080 }));
  expect(x).toMatchObject({ verdict: 'allowed', rule: "port forwarding 'web' of vm1", translated: true });
  expect(x.arrives).toEqual([{ at: 'vm1', source: '198.51.100.1', destination: '192.168.64.2', port: 80 }]);
});

test('B93: a bridged card is attached to nothing', () => {
  const bridged = card(2, { type: 'bridge', bridge: 'en0' });
  expect(explainUser(world({ cards: [vm1, bridged] }), bridged, packet(INTERNET)).rule).toBe('bridge type');
});

test('B93: another protocol to an address that no gateway forwards to is refused, and to a reserved one dropped', () => {
  expect(explainUser(world(), vm1, packet(0x7f000001, { protocol: 'other', port: null })).verdict).toBe('refused');
  expect(explainUser(world(), vm1, packet(0x7f000001)).verdict).toBe('dropped');
  expect(explainUser(world(), vm1, packet(0xf0000001, { protocol: 'other', port: null })).verdict).toBe('dropped');
});

test('B93: the interface ID of a MAC address is barred to others on its own network only', () => {
  const other = card(2, { type: 'host', outsideMac: 0x564545000009 });
  const s = world({
    cards: [vm1, other],
    networks: [...world().networks, { name: 'host', subnet: { base: 0xc0a88000, prefix: 24 }, gatewayMac: 0x5a4545008001 }],
  });
  const from = (source: string): string => explainUser(s, vm1, packet('fe80::1', { protocol: 'udp', source })).verdict;
  expect(from('fe80::5445:45ff:fe00:9')).toBe('allowed');
  expect(from('fe80::5845:45ff:fe00:4001')).toBe('dropped');
  expect(from('fe80::5845:45ff:fe00:8001')).toBe('allowed');
});
