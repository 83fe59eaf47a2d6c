/** What is read by netlink is what `ip` prints. */
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Link, Route } from '../../src/host/links.ts';
import type { LinkCounters } from '../../src/host/netlink/link-messages.ts';
import { NUD } from '../../src/host/netlink/neighbours.ts';
import { formatIpv4 } from '../../src/wire/address.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const SETUP = `
ip link add br0 group 24942 type bridge stp_state 1 forward_delay 400 nf_call_iptables 1
ip link set br0 alias 'Brücke 0'
ip link add plain0 type bridge
ip tuntap add dev tap0 mode tap
ip tuntap add dev tap1 mode tap multi_queue
ip link set tap0 master br0 mtu 1400 up
ip link set br0 up
ip link add mac0 link en0 type macvlan mode private
ip link add v0 type veth peer name v1
ip link set v0 promisc on allmulticast on up
ip addr add 10.1.0.1 peer 10.1.0.2/32 dev v0
ip addr add 10.1.1.1/24 dev v0 label v0:more
ip addr add 10.1.2.1/24 dev v0
ip addr add fd00::1/64 dev v0
ip link set v1 up
ip neigh add 10.1.2.9 dev v0 lladdr 5a:45:45:00:00:09 nud stale
ip route add 10.2.0.0/16 nexthop via 10.1.1.9 dev v0 nexthop via 10.9.0.1 dev en0
ip route add 10.3.0.0/16 dev v0 table 100
ip route add 10.4.0.0/16 dev v0 table 1000
ip route add blackhole 10.5.0.0/16
ip route add default dev v0 metric 500
ping -c 3 -i 0.1 -q 127.0.0.1`;

interface Read {
  links: Link[];
  addresses: Record<string, string[]>;
  main: Route[];
  all: Route[];
  counters: LinkCounters[];
  received: boolean[];
  states: unknown[];
}

interface IpRoute {
  type?: string;
  dst: string;
  dev?: string;
  nexthops?: { dev: string }[];
}

describe.skipIf(why !== null)(`netlink${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let read: Read;
  const ip = (args: string) => JSON.parse(w.host.run(`ip -j ${args}`));

  beforeAll(async () => {
    w = new World('nl-');
    w.host.run(SETUP);
    read = JSON.parse((await w.host.ask(`cd ${ROOT} && ${process.execPath} --import tsx test/world/netlink-process.ts v0 10.1.2.9`)) ?? 'null');
  });
  afterAll(() => w?.close());

  test('links', () => {
    const found = ip('-d link show');
    expect(read.links).toHaveLength(found.length);
    for (const l of found) {
      const { info_kind: kind = '', info_data: data = {}, info_slave_kind: slave, info_slave_data: port } = l.linkinfo ?? {};
      expect(read.links.find((r) => r.name === l.ifname)).toEqual({
        name: l.ifname,
        index: l.ifindex,
        kind,
        master: l.master ?? null,
        parent: l.link ?? null,
        mode: kind === 'macvlan' ? data.mode : '',
        up: l.flags.includes('UP'),
        allMulticast: l.flags.includes('ALLMULTI'),
        promiscuous: l.flags.includes('PROMISC'),
        alias: l.ifalias ?? '',
        mac: l.address,
        mtu: l.mtu,
        group: l.group === 'default' ? 0 : Number(l.group),
        spanningTree: kind === 'bridge' ? { on: data.stp_state !== 0, forwardDelay: 10 * data.forward_delay } : null,
        callsIptables: data.nf_call_iptables === 1,
        tun: kind === 'tun' ? { multiQueue: data.multi_queue, isOpen: false } : null,
        port: slave === 'bridge' ? { state: port.state, timer: expect.any(Number) } : null,
        isContainerCard: kind === 'veth' && 'link_netnsid' in l,
      } satisfies Link);
    }
    expect(read.links.filter((l) => l.isContainerCard).map((l) => l.name)).toEqual(['en0']);
    const of = (name: string) => read.links.find((l) => l.name === name);
    expect(of('br0')).toMatchObject({ alias: 'Brücke 0', group: 24942, spanningTree: { on: true, forwardDelay: 4000 }, callsIptables: true });
    expect(of('tap0')).toMatchObject({ kind: 'tun', master: 'br0', mtu: 1400 });
    expect(of('mac0')).toMatchObject({ parent: 'en0', mode: 'private' });
    expect(of('v0')).toMatchObject({ up: true, allMulticast: true, promiscuous: true });
  });

  test('addresses', () => {
    const found = ip('-4 addr show').filter((l: { ifname?: string }) => l.ifname !== undefined);
    const texts = (l: { addr_info: { local: string; prefixlen: number }[] }) => l.addr_info.map((a) => `${a.local}/${a.prefixlen}`);
    expect(read.addresses).toEqual(Object.fromEntries(found.map((l: { ifname: string }) => [l.ifname, texts(l as never)])));
    expect(read.addresses['v0']).toEqual(['10.1.0.1/32', '10.1.1.1/24', '10.1.2.1/24']);
  });

  test.each(['main', 'all'] as const)('routes of table %s', (table) => {
    const texts = (ip(`-4 route show table ${table}`) as IpRoute[]).flatMap(({ type, dst, dev, nexthops }) =>
      type === undefined
        ? (nexthops?.map((n) => n.dev) ?? [dev]).map((d) => `${dst === 'default' ? '0.0.0.0/0' : dst.includes('/') ? dst : `${dst}/32`} ${d}`)
        : [],
    );
    expect(read[table].map((r) => `${formatIpv4(r.base)}/${r.prefix} ${r.dev}`).sort()).toEqual(texts.sort());
    expect(read[table].filter((r) => r.isDefault).map((r) => r.dev)).toEqual(['en0', 'v0']);
    expect(texts.filter((t) => t.startsWith('10.2.'))).toHaveLength(2);
  });

  test('counters', () => {
    const { rx, tx } = ip('-s link show dev lo')[0].stats64;
    expect(rx.packets).toBeGreaterThanOrEqual(6);
    const counters = { rxPackets: rx.packets, rxBytes: rx.bytes, txPackets: tx.packets, txBytes: tx.bytes };
    expect(read.counters.find((c) => c.name === 'lo')).toEqual({ name: 'lo', ...counters });
  });

  test('addresses that an interface receives are added and removed', () => {
    expect(read.received).toEqual([false, true, false]);
  });

  test('a neighbour is probed if the kernel has resolved it', () => {
    expect(read.states).toEqual([0x04, true, NUD.probe, false, NUD.none]);
  });
});

test.skipIf(why !== null)(
  `changes that the kernel could not report are known to be lost, and later ones are reported${why === null ? '' : ` (${why})`}`,
  () => {
    const program = [process.execPath, '--import', 'tsx', 'test/world/lost-changes-process.ts'];
    expect(JSON.parse(execFileSync('unshare', ['-n', ...program], { cwd: ROOT, encoding: 'utf8' }))).toEqual({
      before: { links: 0, rules: 0, unknown: 0, warnings: 0 },
      ...{ lost: 1, later: 1, again: 0, warnings: 0 },
    });
  },
);
