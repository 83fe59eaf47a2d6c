/**
 * The kernel engine compared with loopback and with a bridge configured by hand: rounds of each in turn, and medians. A
 * guest is a namespace on a veth, to leave out the speed of QEMU's card.
 */
import { dhcp, guest, nic, rule, state } from '../test/contract/guest-tools.ts';
import { RemoteEngine } from '../test/world/remote-engine.ts';
import { type Namespace, World } from '../test/world/world.ts';
import { connects, IPERF_PORT, latency, PROBE_PORT, serveAll, throughput } from './probe.ts';
import { median, spread, table } from './stats.ts';

/** A network under test. */
interface TestNetwork {
  name: string;
  guest: Namespace;
  outside: Namespace;
  host: Namespace;
  /**
   * Server outside, as the guest reaches it; server in the guest, as outside and the host reach it (`in`, `direct`).
   */
  out: { address: string; iperf: number; probe: number };
  in: { address: string; iperf: number; probe: number };
  direct: string;
}

async function handMade(): Promise<{ network: TestNetwork; close(): void }> {
  const w = new World('bh-');
  const g = w.guest('g1', 'g1', '52:54:00:00:00:01');
  w.host.run(
    `ip link add br0 type bridge; ip addr add 192.168.64.1/24 dev br0; ip link set br0 up; ip link set g1 master br0; ip link set g1 up
     echo 1 >/proc/sys/net/ipv4/ip_forward
     nft -f - <<'N'
table ip hand {
  chain pre { type nat hook prerouting priority dstnat; iifname != "br0" tcp dport 15201 dnat to 192.168.64.2:${IPERF_PORT}; iifname != "br0" tcp dport 17000 dnat to 192.168.64.2:${PROBE_PORT}; }
  chain post { type nat hook postrouting priority srcnat; ip saddr 192.168.64.0/24 oifname "en0" masquerade; }
}
N`,
  );
  g.run('ip addr add 192.168.64.2/24 dev eth0; ip route add default via 192.168.64.1');
  await serveAll(w.outside);
  await serveAll(g);
  return {
    network: {
      name: 'made by hand',
      guest: g,
      outside: w.outside,
      host: w.host,
      out: { address: '198.51.100.1', iperf: IPERF_PORT, probe: PROBE_PORT },
      in: { address: '10.9.0.2', iperf: 15201, probe: 17000 },
      direct: '192.168.64.2',
    },
    close: () => w.close(),
  };
}

async function ours(): Promise<{ network: TestNetwork; close(): Promise<void> }> {
  const w = new World('bo-');
  const g = guest(w, 1);
  const engine = new RemoteEngine(w, 'kernel');
  const others = [2, 3, 4].map((n) => nic(n, n === 4 ? 'host' : 'shared', { rules: [rule(11000 + n, 22)] }));
  for (const n of [2, 3, 4]) guest(w, n);
  const problems = await engine.apply(state(nic(1, 'shared', { rules: [rule(15201, IPERF_PORT), rule(17000, PROBE_PORT)] }), ...others));
  if (problems.length > 0) throw new Error(JSON.stringify(problems));
  const lease = await dhcp(w, g);
  if (!lease) throw new Error('the guest has no address');
  await serveAll(w.outside);
  await serveAll(g);
  return {
    network: {
      name: 'anka, kernel engine',
      guest: g,
      outside: w.outside,
      host: w.host,
      out: { address: '198.51.100.1', iperf: IPERF_PORT, probe: PROBE_PORT },
      in: { address: '10.9.0.2', iperf: 15201, probe: 17000 },
      direct: lease.ip,
    },
    async close() {
      await engine.reset();
      w.close();
    },
  };
}

type Figures = Record<string, number[]>;

async function round(network: TestNetwork, quick: boolean, into: Figures): Promise<void> {
  const seconds = quick ? 1 : 3;
  const note = (what: string, value: number): void => {
    into[what] ??= [];
    into[what].push(value);
  };
  note('guest → outside, Gbit/s', await throughput(network.guest, network.out.address, network.out.iperf, seconds));
  note('outside → guest, forwarded port, Gbit/s', await throughput(network.outside, network.in.address, network.in.iperf, seconds));
  note('host → guest, Gbit/s', await throughput(network.host, network.direct, IPERF_PORT, seconds));
  const l = await latency(network.guest, network.out.address, network.out.probe, quick ? 0.5 : 2);
  note('round trip guest → outside, µs', l.median);
  note('round trip guest → outside, p99, µs', l.p99);
  note('new connections guest → outside, /s', (await connects(network.guest, network.out.address, network.out.probe, quick ? 1 : 3, 8)).rate);
  note('new connections outside → forwarded port, /s', (await connects(network.outside, network.in.address, network.in.probe, quick ? 1 : 3, 8)).rate);
}

/** Prints the table, and returns the figures. */
export async function benchNet(quick: boolean): Promise<object> {
  const hand = await handMade();
  const anka = await ours();
  try {
    const loop: TestNetwork = {
      ...hand.network,
      name: 'loopback',
      guest: hand.network.outside,
      host: hand.network.outside,
      out: { address: '127.0.0.1', iperf: IPERF_PORT, probe: PROBE_PORT },
      in: { address: '127.0.0.1', iperf: IPERF_PORT, probe: PROBE_PORT },
      direct: '127.0.0.1',
    };
    const networks = [loop, hand.network, anka.network];
    const figures = networks.map((): Figures => ({}));
    for (let r = 0; r < (quick ? 2 : 5); r++) {
      for (const [i, network] of networks.entries()) {
        process.stderr.write(`\r\x1b[Kround ${r + 1}: ${network.name}`);
        await round(network, quick, figures[i] as Figures);
      }
    }
    process.stderr.write('\r\x1b[K');
    const [, h, a] = figures as [Figures, Figures, Figures];
    const rows = Object.keys(a).map((what) => {
      const [x, y] = [median(a[what] as number[]), median(h[what] as number[])];
      const ratio = what.endsWith('µs') ? y / x : x / y;
      // other load on the machine only slows rounds down, so the best rounds compare the programs alone
      const best = what.endsWith('µs')
        ? Math.min(...(h[what] as number[])) / Math.min(...(a[what] as number[]))
        : Math.max(...(a[what] as number[])) / Math.max(...(h[what] as number[]));
      const digits = what.endsWith('Gbit/s') ? 2 : 0;
      return [what, ...figures.map((f) => spread(f[what] as number[], digits)), `${ratio.toFixed(2)}${ratio < 0.85 ? ' (below 0.85)' : ''}`, best.toFixed(2)];
    });
    console.log(`\n${table(['', 'loopback', 'made by hand', 'anka', 'anka : by hand', 'best rounds'], rows)}`);
    return Object.fromEntries(networks.map((b, i) => [b.name, figures[i]]));
  } finally {
    await anka.close();
    hand.close();
  }
}
