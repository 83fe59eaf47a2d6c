/**
 * B93 for type bridge, by the no-touch bridge and by macvlan: `explain` says of each packet what then happens to it
 * (packet-table.ts). VLANs have a table of their own, as the outside is in one VLAN at a time.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DesiredState } from '../../src/engine/engine.ts';
import { linkLocalOf } from '../../src/wire/address6.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { putInVlan } from '../world/vlan.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, macText, nic, rule, state } from './guest-tools.ts';
import { PacketTable, type TestPacket } from './packet-table.ts';

const why = missing('root', 'netns');

const INTERNET = '198.51.100.1';
const OUT = '10.9.0.1';
const HOST = '10.9.0.2';
const GW = '192.168.64.1';

/**
 * vm1, vm2: on the bridge. vm3: on it, isolated. vm4: in VLAN 42. vm5: shared, with a rule. vm6: host. vm7: shared,
 * isolated. Where the bridge methods differ: no-touch/macvlan.
 */
const ROWS: TestPacket[] = [
  // to the outside network, and beyond it
  [1, 'vm1', 'tcp', '-', OUT, 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', OUT, 5000, 'allowed'],
  [1, 'vm1', 'icmp', '-', OUT, 0, 'allowed'],
  [1, 'vm1', 'other', '-', OUT, 0, 'allowed'],
  [1, 'vm1', 'udp', '-', INTERNET, 5000, 'allowed'],
  [3, 'vm3', 'tcp', '-', OUT, 8080, 'allowed'],
  [3, 'vm3', 'icmp', '-', INTERNET, 0, 'allowed'],
  // a cloud's metadata service
  [1, 'vm1', 'tcp', '-', '169.254.169.254', 80, 'dropped'],
  [3, 'vm3', 'icmp', '-', '169.254.169.254', 0, 'dropped'],
  // from there
  [1, 'outside', 'tcp', OUT, 'ip1', 8080, 'allowed'],
  [1, 'outside', 'udp', OUT, 'ip1', 5000, 'allowed'],
  [1, 'outside', 'icmp', OUT, 'ip1', 0, 'allowed'],
  [3, 'outside', 'udp', OUT, 'ip3', 5000, 'allowed'],
  // the host
  [1, 'vm1', 'tcp', '-', HOST, 8080, 'allowed/dropped'],
  [1, 'vm1', 'udp', '-', HOST, 5000, 'allowed/dropped'],
  [1, 'vm1', 'icmp', '-', HOST, 0, 'allowed/dropped'],
  [3, 'vm3', 'udp', '-', HOST, 5000, 'dropped'],
  [3, 'vm3', 'icmp', '-', HOST, 0, 'dropped'],
  [3, 'vm3', 'udp', '-', HOST, 67, 'dropped', 68],
  [1, 'vm1', 'udp', '-', HOST, 67, 'allowed/dropped', 68],
  [1, 'vm1', 'udp', '-', OUT, 546, 'allowed', 547],
  [1, 'host', 'tcp', HOST, 'ip1', 8080, 'allowed/dropped'],
  [1, 'host', 'icmp', HOST, 'ip1', 0, 'allowed/dropped'],
  [3, 'host', 'udp', HOST, 'ip3', 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', '127.0.0.1', 5000, 'dropped'],
  // VMs on the bridge
  [1, 'vm1', 'tcp', '-', 'ip2', 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', 'ip2', 5000, 'allowed'],
  [2, 'vm2', 'icmp', '-', 'ip1', 0, 'allowed'],
  [1, 'vm2', 'other', 'ip2', 'ip1', 0, 'allowed'],
  [1, 'vm1', 'udp', '-', 'ip3', 5000, 'dropped'],
  [3, 'vm3', 'tcp', '-', 'ip1', 8080, 'dropped'],
  [1, 'vm1', 'udp', '-', 'ip4', 5000, 'dropped'],
  [1, 'vm1', 'icmp', '-', 'ip1', 0, 'allowed'],
  [1, 'vm1', 'udp', '-', 'll2', 5000, 'allowed'],
  // VMs of other types: the host stands between
  [1, 'vm1', 'tcp', '-', 'ip5', 8080, 'dropped'],
  [1, 'vm1', 'icmp', '-', GW, 0, 'dropped'],
  [1, 'vm1', 'udp', '-', 'ip6', 5000, 'dropped'],
  [1, 'vm1', 'tcp', '-', HOST, 10001, 'allowed/dropped'],
  [5, 'vm1', 'udp', 'ip1', HOST, 10001, 'allowed/dropped'],
  [5, 'vm3', 'tcp', 'ip3', HOST, 10001, 'dropped'],
  [5, 'vm5', 'tcp', '-', 'ip1', 8080, 'allowed/dropped'],
  [5, 'vm5', 'icmp', '-', 'ip1', 0, 'allowed/dropped'],
  [5, 'vm5', 'udp', '-', 'ip3', 5000, 'dropped'],
  [7, 'vm7', 'udp', '-', 'ip1', 5000, 'allowed/dropped'],
  [6, 'vm6', 'udp', '-', 'ip1', 5000, 'dropped'],
  // other sources
  [1, 'vm1', 'udp', HOST, OUT, 5000, 'dropped'],
  [1, 'vm1', 'udp', '203.0.113.9', OUT, 5000, 'allowed'],
  [1, 'vm1', 'udp', '-', '255.255.255.255', 68, 'dropped', 67],
  // to many
  [1, 'vm1', 'udp', '-', '255.255.255.255', 5000, 'allowed'],
  [1, 'vm1', 'udp', '-', '10.9.0.255', 5000, 'allowed'],
  [1, 'vm1', 'udp', '-', '239.1.2.3', 5000, 'allowed'],
  [3, 'vm3', 'udp', '-', '10.9.0.255', 5000, 'allowed'],
];

/** With the outside in VLAN 42, and vm2 in it, too. */
const VLAN_ROWS: TestPacket[] = [
  [4, 'vm4', 'udp', '-', OUT, 5000, 'allowed'],
  [4, 'vm4', 'tcp', '-', OUT, 8080, 'allowed'],
  [4, 'outside', 'udp', OUT, 'ip4', 5000, 'allowed'],
  [4, 'vm4', 'udp', '-', 'ip2', 5000, 'allowed'],
  [4, 'vm4', 'udp', '-', 'ip1', 5000, 'dropped'],
  [4, 'vm4', 'icmp', '-', HOST, 0, 'dropped'],
  [4, 'host', 'udp', HOST, 'ip4', 5000, 'dropped'],
  [5, 'vm5', 'udp', '-', 'ip4', 5000, 'dropped'],
  [4, 'vm4', 'udp', '-', '10.9.0.255', 5000, 'allowed'],
];

describe.skipIf(why !== null).each(['ebpf', 'macvlan'] as const)(`explain, bridge by %s${why ? ` (${why})` : ''}`, (bridgeMethod) => {
  let w: World;
  let e: RemoteEngine;
  const rows = ROWS.map((r): TestPacket => {
    const row: TestPacket = [...r];
    row[6] = r[6].split('/').at(bridgeMethod === 'macvlan' ? -1 : 0) as string;
    return row;
  });
  const table = new PacketTable([...rows, ...VLAN_ROWS]);
  const bridged = (n: number, rest: object = {}) => nic(n, 'bridge', { bridge: 'en0', ...rest });
  const cards = (second: object): DesiredState =>
    ({
      ...state(
        bridged(1),
        bridged(2, second),
        bridged(3, { isolated: true }),
        bridged(4, { vlan: 42 }),
        nic(5, 'shared', { rules: [rule(10001, 8080), rule(10001, 8080, 'udp')] }),
        nic(6, 'host'),
        nic(7, 'shared', { isolated: true }),
      ),
      bridgeMethod,
    }) as DesiredState;

  beforeAll(async () => {
    w = new World('eb-');
    for (const n of [1, 2, 3, 4, 5, 6, 7]) table.namespaces.set(`vm${n}`, guest(w, n));
    e = new RemoteEngine(w, 'kernel');
    expect(await e.apply(cards({}))).toEqual([]);
    for (const n of [1, 2, 3, 4]) {
      table.addresses.set(`ip${n}`, `10.9.0.${n + 10}`);
      const ns = table.namespaces.get(`vm${n}`) as Namespace;
      ns.run(`ip addr add 10.9.0.${n + 10}/24 brd + dev eth0; ip route add default via ${OUT}`);
      if (n !== 4) await ns.reaches(OUT);
      else ns.attempt(`ping -c1 -W1 ${OUT}`); // nobody is in its VLAN yet
      // so that the host sends the packets at once, instead of reporting after a while that ARP was not answered
      w.host.run(`ip neigh replace 10.9.0.${n + 10} lladdr ${macText(n)} dev en0`);
    }
    for (const n of [5, 6, 7]) table.addresses.set(`ip${n}`, (await dhcp(w, table.namespaces.get(`vm${n}`) as Namespace))?.ip ?? '');
    for (const n of [1, 2]) table.addresses.set(`ll${n}`, linkLocalOf(0x564545000000 + n));
    for (const [n, ns] of table.namespaces) await until(`${n}'s IPv6 address is its own`, () => !ns.run('ip -6 addr show dev eth0').includes('tentative'));
    await until('all addresses are reported', async () => (await e.observe()).nics.every((n) => n.ip !== null));
    w.outside.run('ip addr add 169.254.169.254/32 dev lo');
    await table.watch(w, (name) => [table.addresses.get(`ip${name.slice(2)}`) as string], { outside: [OUT], host: [HOST, GW] });
    await table.explainAndSend(e, {}, 0, rows.length);
    expect(await e.apply(cards({ vlan: 42 }))).toEqual([]);
    putInVlan(w, w.outside, 'ext0', 42);
    for (const name of ['vm2', 'vm4']) {
      const ns = table.namespaces.get(name) as Namespace;
      // no link went down, after which a guest would send ARP requests again
      ns.run('ip neigh flush all');
      await ns.reaches(OUT);
    }
    await until('the addresses in the VLAN are reported', async () => (await e.observe()).nics.every((n) => n.ip !== null));
    await table.explainAndSend(e, {}, rows.length);
  }, 600_000);

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test.each(table.names())('B93, B16: %s', (_name, i) => table.check(i));
});
