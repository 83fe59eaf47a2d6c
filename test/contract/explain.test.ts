/** B93: `explain` says of each packet what then happens to it on a real network, on both engines (packet-table.ts). */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { PacketProtocol } from '../../src/net/explain/packet.ts';
import { parseIpv4 } from '../../src/wire/address.ts';
import { linkLocalOf } from '../../src/wire/address6.ts';
import { onBothEngines } from '../world/engines.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { shimmedGuest } from '../world/shim.ts';
import { type Namespace, until, World } from '../world/world.ts';
import { dhcp, guest, macText, nic, rule, state, vmId } from './guest-tools.ts';
import { PacketTable, type TestPacket } from './packet-table.ts';

const INTERNET = '198.51.100.1';
const OUT = '10.9.0.1';
const HOST = '10.9.0.2';
const GW = '192.168.64.1';
const GW_HOST = '192.168.128.1';

/** An address of the host that is beyond the link for guests. */
const HOST6 = '2001:db8:1::2';

/**
 * vm1: shared, with rules. vm2: shared. vm3: host, with a rule. vm4: host. vm5: shared, isolated, with a rule. vm6:
 * disconnected. vm7: shared, without an address. Source `-`: the sender's own.
 */
const ROWS: TestPacket[] = [
  // to outside
  [1, 'vm1', 'tcp', '-', INTERNET, 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', INTERNET, 5000, 'allowed'],
  [1, 'vm1', 'icmp', '-', INTERNET, 0, 'allowed'],
  [1, 'vm1', 'other', '-', INTERNET, 0, 'allowed/refused'],
  [1, 'vm1', 'tcp', '-', OUT, 8080, 'allowed'],
  [5, 'vm5', 'tcp', '-', INTERNET, 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', '203.0.113.7', 5000, 'refused'],
  [1, 'vm1', 'tcp', '-', '203.0.113.7', 8080, 'refused'],
  [3, 'vm3', 'tcp', '-', INTERNET, 8080, 'dropped'],
  [3, 'vm3', 'udp', '-', OUT, 5000, 'dropped'],
  [3, 'vm3', 'icmp', '-', INTERNET, 0, 'dropped'],
  [3, 'vm3', 'other', '-', INTERNET, 0, 'dropped/refused'],
  [6, 'vm6', 'udp', '-', INTERNET, 5000, 'dropped'],
  // a cloud's metadata service, and link-local addresses
  [1, 'vm1', 'tcp', '-', '169.254.169.254', 80, 'dropped'],
  [1, 'vm1', 'icmp', '-', '169.254.169.254', 0, 'dropped'],
  [1, 'vm1', 'other', '-', '169.254.169.254', 0, 'dropped/refused'],
  [3, 'vm3', 'udp', '-', '169.254.169.254', 80, 'dropped'],
  [5, 'vm5', 'udp', '-', '168.63.129.16', 80, 'dropped'],
  [1, 'vm1', 'udp', '-', '169.254.7.7', 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', 'fd00:ec2::254', 80, 'dropped'],
  // to the host
  [1, 'vm1', 'tcp', '-', GW, 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', GW, 5000, 'allowed'],
  [1, 'vm1', 'icmp', '-', GW, 0, 'allowed'],
  [1, 'vm1', 'tcp', '-', HOST, 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', GW_HOST, 5000, 'allowed/dropped'],
  [3, 'vm3', 'tcp', '-', GW_HOST, 8080, 'allowed'],
  [3, 'vm3', 'udp', '-', GW, 5000, 'dropped'],
  [3, 'vm3', 'udp', '-', HOST, 5000, 'allowed'],
  [5, 'vm5', 'tcp', '-', GW, 8080, 'dropped'],
  [5, 'vm5', 'icmp', '-', GW, 0, 'dropped'],
  [5, 'vm5', 'udp', '-', HOST, 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', '10.9.0.255', 5000, 'allowed/refused'],
  [1, 'vm1', 'icmp', '-', '10.9.0.255', 0, 'allowed/refused'],
  [1, 'vm1', 'tcp', '-', '10.9.0.255', 8080, '-/refused'],
  [5, 'vm5', 'other', '-', HOST, 0, 'dropped/refused'],
  // DNS and DHCP
  [1, 'vm1', 'udp', '-', GW, 53, 'allowed'],
  [1, 'vm1', 'tcp', '-', GW, 53, 'allowed'],
  [3, 'vm3', 'udp', '-', GW_HOST, 53, 'allowed'],
  [5, 'vm5', 'udp', '-', GW, 53, 'allowed'],
  [7, 'vm7', 'udp', '0.0.0.0', '255.255.255.255', 67, 'allowed', 68],
  [1, 'vm1', 'udp', '-', GW, 67, 'allowed', 68],
  [5, 'vm5', 'udp', '-', GW, 67, 'allowed', 68],
  [5, 'vm5', 'tcp', '-', GW, 53, 'allowed'],
  [3, 'vm3', 'udp', '-', HOST, 53, 'allowed'],
  [3, 'vm3', 'tcp', '-', HOST, 53, 'allowed'],
  [5, 'vm5', 'udp', '-', HOST, 53, 'dropped'],
  // only what a client sends to the gateway, or to everybody, is for the DHCP server
  [1, 'vm1', 'udp', '-', INTERNET, 67, 'allowed', 68],
  [1, 'vm1', 'udp', '-', HOST, 67, 'allowed', 68],
  [5, 'vm5', 'udp', '-', HOST, 67, 'dropped', 68],
  [1, 'vm1', 'udp', '-', GW, 67, 'allowed', 5000],
  [5, 'vm5', 'udp', '-', GW, 67, 'allowed/dropped', 5000],
  [1, 'vm1', 'udp', '-', '255.255.255.255', 67, 'allowed', 5000],
  [7, 'vm7', 'udp', '0.0.0.0', '255.255.255.255', 67, 'dropped', 5000],
  // where the kernel engine's DNS forwarder and DHCP server listen
  [5, 'vm5', 'udp', '-', GW, 9953, 'allowed/dropped'],
  [5, 'vm5', 'tcp', '-', GW, 9953, 'allowed/dropped'],
  [1, 'vm1', 'udp', '-', '255.255.255.255', 68, 'dropped', 67],
  // VM to VM
  [1, 'vm1', 'tcp', '-', 'ip2', 8080, 'allowed'],
  [1, 'vm1', 'udp', '-', 'ip2', 53, 'allowed'],
  [1, 'vm1', 'icmp', '-', 'ip2', 0, 'allowed'],
  [2, 'vm2', 'other', '-', 'ip1', 0, 'allowed'],
  [1, 'vm2', 'udp', 'ip2', 'ip1', 5000, 'allowed'],
  [3, 'vm3', 'icmp', '-', 'ip4', 0, 'allowed'],
  [1, 'vm1', 'udp', '-', 'ip3', 5000, 'dropped'],
  [1, 'vm1', 'tcp', '-', 'ip3', 8080, 'dropped'],
  [3, 'vm3', 'udp', '-', 'ip1', 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', 'ip5', 5000, 'dropped'],
  [5, 'vm5', 'udp', '-', 'ip2', 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', '192.168.64.200', 5000, 'dropped'],
  [1, 'vm1', 'icmp', '-', 'ip1', 0, 'allowed'],
  // spoofed sources
  [1, 'vm1', 'udp', 'ip2', GW, 5000, 'dropped'],
  [1, 'vm1', 'icmp', GW, 'ip2', 0, 'dropped'],
  [1, 'vm1', 'tcp', '203.0.113.9', INTERNET, 8080, 'dropped'],
  [1, 'vm1', 'udp', GW_HOST, INTERNET, 5000, 'dropped'],
  [3, 'vm3', 'udp', 'ip1', INTERNET, 5000, 'dropped'],
  [1, 'vm1', 'icmp', '-', '127.0.0.1', 0, 'dropped'],
  [1, 'vm1', 'other', '-', '127.0.0.1', 0, 'dropped/refused'],
  // reserved (RFC 1112), and without a route
  [1, 'vm1', 'udp', '-', '240.0.0.1', 5000, 'refused/dropped'],
  [1, 'vm1', 'other', '-', '240.0.0.1', 0, 'refused/dropped'],
  // to many
  [1, 'vm1', 'udp', '-', '255.255.255.255', 5000, 'allowed'],
  [1, 'vm1', 'udp', '-', '192.168.64.255', 5000, 'allowed'],
  [3, 'vm3', 'udp', '-', '192.168.128.255', 5000, 'allowed'],
  [5, 'vm5', 'udp', '-', '192.168.64.255', 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', '239.1.2.3', 5000, 'allowed'],
  [5, 'vm5', 'udp', '-', '239.1.2.3', 5000, 'dropped'],
  // from outside
  [1, 'outside', 'tcp', OUT, `${HOST}`, 10001, 'allowed'],
  [1, 'outside', 'udp', OUT, `${HOST}`, 10001, 'allowed'],
  [1, 'outside', 'tcp', OUT, `${HOST}`, 10002, 'allowed'],
  [3, 'outside', 'tcp', OUT, `${HOST}`, 10005, 'allowed'],
  [5, 'outside', 'tcp', OUT, `${HOST}`, 10006, 'allowed'],
  [7, 'outside', 'tcp', OUT, `${HOST}`, 10007, 'refused'],
  [1, 'outside', 'udp', OUT, `${HOST}`, 10009, 'allowed'],
  [1, 'outside', 'icmp', OUT, `${HOST}`, 0, 'allowed'],
  [1, 'outside', 'tcp', OUT, 'ip1', 8080, 'dropped'],
  [1, 'outside', 'udp', OUT, 'ip1', 5000, 'dropped'],
  [3, 'outside', 'icmp', OUT, 'ip3', 0, 'dropped'],
  // from the host
  [1, 'host', 'tcp', GW, 'ip1', 8080, 'allowed/-'],
  [1, 'host', 'tcp', HOST, 'ip1', 8080, '-/refused'],
  [1, 'host', 'icmp', GW, 'ip1', 0, 'allowed/-'],
  [5, 'host', 'udp', GW, 'ip5', 5000, 'dropped/-'],
  [5, 'host', 'tcp', GW, 'ip5', 8080, 'allowed/-'],
  [1, 'host', 'tcp', HOST, HOST, 10001, 'allowed'],
  [1, 'host', 'tcp', '127.0.0.1', '127.0.0.1', 10001, 'allowed'],
  [1, 'host', 'udp', '127.0.0.1', '127.0.0.1', 10001, 'allowed'],
  // to a forwarded port, from VMs
  [1, 'vm2', 'tcp', 'ip2', HOST, 10001, 'allowed'],
  [1, 'vm2', 'udp', 'ip2', GW, 10001, 'allowed'],
  [1, 'vm1', 'tcp', '-', HOST, 10001, 'allowed'],
  [3, 'vm1', 'tcp', 'ip1', HOST, 10005, 'allowed'],
  [1, 'vm5', 'tcp', 'ip5', HOST, 10001, 'dropped'],
  // IPv6
  [1, 'vm1', 'udp', '-', 'll2', 5000, 'allowed'],
  [1, 'vm1', 'udp', '-', 'llgw', 5000, 'allowed/dropped'],
  [1, 'vm1', 'udp', '-', HOST6, 5000, 'allowed/dropped'],
  [3, 'vm3', 'udp', '-', HOST6, 5000, 'allowed/dropped'],
  [3, 'vm3', 'udp', '-', HOST6, 53, 'dropped'],
  [5, 'vm5', 'udp', '-', HOST6, 5000, 'dropped'],
  [1, 'vm1', 'udp', '-', '2001:db8::1', 5000, 'dropped'],
  [3, 'vm3', 'udp', '-', '2001:db8::1', 5000, 'dropped'],
];

/** The rows for one engine. */
function rowsOf(kind: 'kernel' | 'user'): TestPacket[] {
  return ROWS.flatMap((r): TestPacket[] => {
    const [kernel, user] = r[6].split('/') as [string, string?];
    const verdict = kind === 'user' ? (user ?? kernel) : kernel;
    return verdict === '-'
      ? []
      : [[...(r.slice(0, 6) as [number, string, PacketProtocol, string, string, number]), verdict, ...(r[7] ? [r[7]] : [])] as TestPacket];
  });
}

const SUITES = onBothEngines('explain, ');

describe.each(SUITES)('%s', (_suite, { kind, why }) => {
  const rows = rowsOf(kind);
  let w: World;
  let e: RemoteEngine;
  const table = new PacketTable(rows);
  const { namespaces, addresses } = table;

  beforeEach((test) => test.skip(why !== null));

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('ex-');
    if (kind === 'kernel') for (const n of [1, 2, 3, 4, 5, 6, 7, 8]) namespaces.set(`vm${n}`, guest(w, n));
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    // no default route, so that a missing route can be tried
    w.host.run(`ip route del default; ip route add ${INTERNET}/32 via ${OUT}; ip route add 2001:db8::/32 dev en0; sysctl -qw net.ipv6.conf.all.forwarding=1`);
    w.host.run(`ip route add 169.254.0.0/16 via ${OUT}; ip route add 168.63.129.16/32 via ${OUT}`);
    w.outside.run('ip addr add 169.254.169.254/32 dev lo; ip addr add 169.254.7.7/32 dev lo; ip addr add 168.63.129.16/32 dev lo');
    w.host.run(`ip -6 addr add ${HOST6}/128 dev en0 nodad`);
    e = new RemoteEngine(w, kind);
    const problems = await e.apply(
      state(
        nic(1, 'shared', { rules: [rule(10001, 8080), rule(10001, 8080, 'udp'), rule(10002, 8080, 'tcp', parseIpv4(HOST) as number)] }),
        nic(2),
        nic(3, 'host', { rules: [rule(10005, 8080)] }),
        nic(4, 'host'),
        nic(5, 'shared', { isolated: true, rules: [rule(10006, 8080)] }),
        nic(6, 'disconnected'),
        nic(7, 'shared', { rules: [rule(10007, 8080)] }),
        nic(8, 'shared', { isolated: true }),
      ),
    );
    expect(problems).toEqual([]);
    if (kind === 'user')
      for (const n of [1, 2, 3, 4, 5, 6, 7, 8]) namespaces.set(`vm${n}`, await shimmedGuest(w, `g${n}`, macText(n), (await e.openNic(vmId(n))).path));
    for (const n of [1, 2, 3, 4, 5, 8]) addresses.set(`ip${n}`, (await dhcp(w, namespaces.get(`vm${n}`) as Namespace))?.ip ?? '');
    await until('all leases are reported', async () => (await e.observe()).nics.filter((n) => n.ip !== null).length === 6);
    namespaces.get('vm6')?.run(`ip addr add 192.168.64.60/24 dev eth0; ip route add default via ${GW}`);
    for (const n of [1, 2]) addresses.set(`ll${n}`, linkLocalOf(0x564545000000 + n));
    addresses.set('llgw', linkLocalOf(0x5a4545004001));
    for (const n of [1, 3, 5])
      for (const to of ['2001:db8::/32', 'fd00::/8'])
        namespaces.get(`vm${n}`)?.run(`ip -6 route add ${to} via ${linkLocalOf(n === 3 ? 0x5a4545008001 : 0x5a4545004001)} dev eth0`);
    namespaces.get('vm1')?.run('sysctl -qw net.ipv4.conf.eth0.accept_local=1');
    for (const [n, ns] of namespaces)
      if (n !== 'vm6') await until(`${n}'s IPv6 address is its own`, () => !ns.run('ip -6 addr show dev eth0').includes('tentative'));
    await until('the host is ready for IPv6', () => !w.host.run('ip -6 addr').includes('tentative'));
    await table.watch(w, (name) => (/^vm[67]$/.test(name) ? [] : [addresses.get(`ip${name.slice(2)}`) as string]), {
      outside: [OUT],
      host: [GW, GW_HOST, HOST],
    });
    await table.explainAndSend(e, { vm6: '192.168.64.60' });
  }, 600_000);

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test('the table is long enough, and has every verdict', () => {
    expect(rows.length).toBeGreaterThanOrEqual(40);
    expect(new Set(rows.map((r) => r[6]))).toEqual(new Set(['allowed', 'dropped', 'refused']));
  });

  test.each(table.names())('B93: %s', (_name, i) => table.check(i));

  test('B93, B50: an isolated VM claims a free address, and sends from it', async () => {
    const source = '192.168.64.99';
    const packet = { protocol: 'tcp' as const, source: parseIpv4(source), sourcePort: null, destination: parseIpv4(INTERNET) as number, port: 8080 };
    const x = await e.explain(vmId(8), packet);
    expect(x.verdict).toBe('allowed');
    expect(x.steps[0]?.rule).toBe('guard: claim');
    const vm8 = namespaces.get('vm8') as Namespace;
    vm8.run(`ip addr flush dev eth0 scope global; ip addr add ${source}/24 dev eth0; ip route replace default via ${GW}`);
    await vm8.reaches(INTERNET);
  });
});
