import { describe, expect, test } from 'vitest';
import type { Connection } from '../../../host/netlink/connection-messages.ts';
import { parseIpv4 } from '../../../wire/address.ts';
import { IpProtocol } from '../../../wire/ipv4.ts';
import type { DesiredNic, DesiredRule, DesiredState } from '../../engine.ts';
import { type ConnectionFacts, ConnectionPolicy, changesBetween, connectionFacts } from './connection-policy.ts';
import type { RuledNic } from './rule-input.ts';

const ip = (text: string): number => parseIpv4(text) as number;
const [VM1, VM2, ALIAS] = ['192.168.64.5', '192.168.64.6', '192.168.64.200'].map(ip) as [number, number, number];
const [HOST, CLIENT, GATEWAY, METADATA] = ['10.9.0.2', '10.9.0.1', '192.168.64.1', '169.254.169.254'].map(ip) as [number, number, number, number];
const { tcp, udp } = IpProtocol;

const rule = (protocol: 'tcp' | 'udp', hostIp = 0): DesiredRule => ({ name: protocol, protocol, hostIp, hostPort: 10_001, guestPort: 22 });
const nic = (n: number, addresses: number[], rest: Partial<DesiredNic> = {}, live = addresses): RuledNic => ({
  nic: {
    id: `vm${n}`,
    vmName: `vm${n}`,
    type: 'shared',
    outsideMac: n,
    insideMac: n,
    mtu: 1500,
    isolated: false,
    ownerUid: 0,
    queues: 1,
    vhost: false,
    rules: [],
    ...rest,
  },
  ip: addresses[0] ?? null,
  addresses,
  virtual: [],
  live,
});
const NETWORKS: DesiredState['networks'] = [
  { name: 'shared', subnet: { base: ip('192.168.64.0'), prefix: 24 } },
  { name: 'host', subnet: { base: ip('192.168.128.0'), prefix: 24 } },
];
const facts = (nics: RuledNic[], before: ConnectionFacts | null = null, rest: Partial<DesiredState> = {}, absent: number[] = []): ConnectionFacts =>
  connectionFacts({ networks: NETWORKS, nics: nics.map((n) => n.nic), dnsServers: [], ...rest }, nics, absent, before);

/** From port 40000 to `to`, answered by `by`. Translated sources appear as the host. */
const connection = (protocol: number, source: number, to: [number, number], by = to, replyTo = source): Connection => ({
  protocol,
  source,
  sourcePort: 40_000,
  destination: to[0],
  destinationPort: to[1],
  responder: by[0],
  responderPort: by[1],
  replyTo,
});
const isStale = (f: ConnectionFacts, c: Connection): boolean => new ConnectionPolicy(f, new Set([HOST, GATEWAY, 0x7f000001])).isStale(c);

describe('which connections go on', () => {
  const both = [nic(1, [VM1, ALIAS], { rules: [rule('tcp'), rule('udp')] }), nic(2, [VM2])];

  test('B60: through a rule, to the guest and port that it leads to now', () => {
    const through = (protocol: number, by: [number, number]): boolean => isStale(facts(both), connection(protocol, CLIENT, [HOST, 10_001], by));
    expect(through(tcp, [VM1, 22])).toBe(false);
    expect(through(tcp, [ALIAS, 22]), 'another address of the guest').toBe(false);
    expect(through(udp, [ALIAS, 22]), 'datagrams lead to the main address').toBe(true);
    expect(through(tcp, [VM1, 23])).toBe(true);
    expect(through(tcp, [VM2, 22])).toBe(true);
    const silent = [nic(1, [VM1, ALIAS], { rules: [rule('tcp')] }, [VM1])];
    expect(isStale(facts(silent), connection(tcp, CLIENT, [HOST, 10_001], [ALIAS, 22])), 'it does not answer there').toBe(true);
    expect(isStale(facts([nic(1, [VM1])]), connection(tcp, CLIENT, [HOST, 10_001], [VM1, 22])), 'no rule').toBe(true);
  });

  test('B60: a rule for one address comes before one for all', () => {
    const f = facts([nic(1, [VM1], { rules: [rule('tcp')] }), nic(2, [VM2], { rules: [rule('tcp', HOST)] })]);
    expect(isStale(f, connection(tcp, CLIENT, [HOST, 10_001], [VM1, 22]))).toBe(true);
    expect(isStale(f, connection(tcp, CLIENT, [HOST, 10_001], [VM2, 22]))).toBe(false);
  });

  test('B60: datagrams that are older than the rule are translated from now on; TCP to a program of the host goes on', () => {
    const f = facts(both);
    expect(isStale(f, connection(udp, CLIENT, [HOST, 10_001]))).toBe(true);
    expect(isStale(f, connection(udp, HOST, [HOST, 10_001]))).toBe(true);
    expect(isStale(f, { ...connection(udp, HOST, [CLIENT, 40_000]), sourcePort: 10_001 }), 'an answer of the listener').toBe(true);
    expect(isStale(f, connection(tcp, CLIENT, [HOST, 10_001]))).toBe(false);
    expect(isStale(f, connection(udp, 0x7f000001, [0x7f000001, 10_001])), 'loopback: the listener has them').toBe(false);
    expect(isStale(f, connection(udp, VM2, [GATEWAY, 10_001])), 'a VM: likewise').toBe(false);
    expect(isStale(f, connection(udp, CLIENT, [ip('10.9.0.7'), 10_001])), 'another machine’s port').toBe(false);
    expect(isStale(f, connection(udp, CLIENT, [HOST, 10_002]))).toBe(false);
  });

  test('B91: of an isolated NIC, with the outside, DNS, DHCP and the ports of its rules', () => {
    const f = facts([nic(1, [VM1], { isolated: true, rules: [rule('tcp')] }), nic(2, [VM2])]);
    for (const c of [
      connection(tcp, VM1, [CLIENT, 80], undefined, HOST),
      connection(udp, VM1, [GATEWAY, 53], [GATEWAY, 9953]),
      connection(tcp, VM1, [GATEWAY, 53], [GATEWAY, 9953]),
      connection(udp, VM1, [GATEWAY, 9967]),
      connection(udp, GATEWAY, [VM1, 68]),
      connection(tcp, GATEWAY, [VM1, 22]),
      connection(tcp, CLIENT, [HOST, 10_001], [VM1, 22]),
    ])
      expect(isStale(f, c), JSON.stringify(c)).toBe(false);
    for (const c of [
      connection(tcp, VM1, [GATEWAY, 80]),
      connection(tcp, VM1, [HOST, 80]),
      connection(tcp, VM1, [VM2, 22]),
      connection(tcp, VM2, [VM1, 80]),
      connection(tcp, GATEWAY, [VM1, 80]),
      connection(udp, GATEWAY, [VM1, 22]),
    ])
      expect(isStale(f, c), JSON.stringify(c)).toBe(true);
  });

  test('B92: with the metadata service, only while it is open', () => {
    const c = connection(tcp, VM1, [METADATA, 80], undefined, HOST);
    expect(isStale(facts(both), c)).toBe(true);
    expect(isStale(facts(both, null, { metadata: true }), c)).toBe(false);
    expect(isStale(facts(both), connection(tcp, HOST, [METADATA, 80])), 'the host’s own').toBe(false);
  });

  test('B12: of guests to outside, if they are translated', () => {
    expect(isStale(facts(both), connection(udp, VM1, [CLIENT, 53], undefined, HOST))).toBe(false);
    expect(isStale(facts(both), connection(udp, VM1, [CLIENT, 53]))).toBe(true);
    expect(isStale(facts(both), connection(udp, VM1, [HOST, 53]))).toBe(false);
    expect(isStale(facts(both), connection(udp, VM1, [ip('224.0.0.251'), 5353]))).toBe(false);
  });

  test('B22: of addresses that a NIC has, or a VM that is not attached', () => {
    const other = ip('192.168.64.9');
    const c = connection(tcp, other, [CLIENT, 80], undefined, HOST);
    expect(isStale(facts(both), c)).toBe(true);
    expect(isStale(facts(both, null, {}, [other]), c)).toBe(false);
    expect(isStale(facts(both), connection(tcp, CLIENT, [HOST, 443], [ip('172.17.0.2'), 443])), 'a container’s').toBe(false);
  });
});

describe('what a change can have made stale', () => {
  const rules = [rule('udp')];
  const before = facts([nic(1, [VM1], { rules }), nic(2, [VM2])]);
  const filters = (now: ConnectionFacts, old = before) => changesBetween(old, now).filters;
  const ofAddress = (a: number) => [{ source: a }, { responder: a }];

  test('nothing, if a VM is added, renamed, isolated from the start, or gets another address besides', () => {
    expect(filters(facts([nic(1, [VM1, ALIAS], { rules, vmName: 'other' }), nic(2, [VM2]), nic(3, [ip('192.168.64.9')], { isolated: true })], before))).toEqual(
      [],
    );
  });

  test('B60: the port of a rule that is removed, added, or leads elsewhere', () => {
    const port = [
      { protocol: udp, destinationPort: 10_001 },
      { protocol: udp, sourcePort: 10_001 },
    ];
    expect(filters(facts([nic(1, [VM1]), nic(2, [VM2])], before))).toEqual(port);
    expect(filters(facts([nic(1, [VM1]), nic(2, [VM2], { rules })], before))).toEqual(port);
    const none = facts([nic(1, [VM1]), nic(2, [VM2])]);
    expect(filters(facts([nic(1, [VM1], { rules }), nic(2, [VM2])], none), none)).toEqual(port);
  });

  test('B22: an address that the NIC has lost, or that another NIC has now', () => {
    const lost = facts([nic(1, [ALIAS], { rules }), nic(2, [VM2])], before);
    expect(filters(lost)).toEqual(expect.arrayContaining(ofAddress(VM1)));
    const taken = changesBetween(before, facts([nic(1, [VM1], { rules }), nic(3, [VM2])], before));
    expect([...taken.lost]).toEqual([VM2]);
    const moved = changesBetween(before, facts([nic(1, [VM1], { rules }), nic(2, [], { type: 'disconnected' })], before));
    expect([...moved.lost]).toEqual([VM2]);
  });

  test('a VM that is suspended keeps its connections, if it returns to its network', () => {
    const none = facts([], before, { networks: [] });
    expect([...changesBetween(before, none).lost]).toEqual([]);
    expect([...changesBetween(none, facts([nic(1, []), nic(2, [VM2])], none)).lost]).toEqual([]);
    expect([...changesBetween(none, facts([nic(1, [VM1], { type: 'host' }), nic(2, [VM2])], none)).lost]).toEqual([VM1]);
    const renumbered = { networks: [{ name: 'shared' as const, subnet: { base: ip('10.77.0.0'), prefix: 24 } }] };
    expect([...changesBetween(none, facts([nic(1, [])], none, renumbered)).lost]).toEqual([VM1, VM2]);
  });

  test('B91, B92: an isolated NIC’s addresses, and the metadata service', () => {
    const isolated = facts([nic(1, [VM1], { rules }), nic(2, [VM2], { isolated: true })], before);
    expect(filters(isolated)).toEqual(ofAddress(VM2));
    expect(filters(facts([nic(1, [VM1], { rules }), nic(2, [VM2], { isolated: true })], isolated), isolated)).toEqual([]);
    const open = facts([nic(1, [VM1], { rules }), nic(2, [VM2])], null, { metadata: true });
    expect(filters(before, open)).toContainEqual({ destination: METADATA });
  });
});
