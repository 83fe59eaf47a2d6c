/**
 * The user engine compared with passt, libslirp in QEMU, slirp4netns and gvproxy: rounds of each in turn, and medians.
 * A guest is a namespace whose tap is attached to the program's stream socket (test/world/shim.c). Then the switch
 * alone, and the cost of an idle network.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { compiled } from '../test/world/compile.ts';
import { cpu, resident } from './cost.ts';
import { HOST_IPERF, HOST_PROBE, OurNetwork, PEERS, type Peer } from './peers.ts';
import { connects, IPERF_PORT, latency, PROBE_PORT, serveAll, throughput } from './probe.ts';
import { median, spread, table } from './stats.ts';

const OUTSIDE = '198.51.100.1';
const HOST = '10.9.0.2';
const IDLE_VMS = 16;
const ROUNDS = 5;
/** New guests send router solicitations and group reports for some seconds. */
const SETTLE_MS = 15_000;

type Figures = Record<string, number[]>;

async function round(peer: Peer, quick: boolean, into: Figures): Promise<void> {
  const seconds = quick ? 1 : 2;
  const note = (what: string, value: number): void => {
    into[what] ??= [];
    into[what].push(value);
  };
  const moved = async (what: string, run: () => Promise<number>): Promise<void> => {
    const [before, beforeShim] = [cpu(peer.pids()), cpu(peer.shim())];
    const gbps = await run();
    // iperf3 omits the first half second (-O 0.5)
    const all = seconds + 0.5;
    const used = cpu(peer.pids()) - before;
    note(`${what}, Gbit/s`, gbps);
    note(`${what}, CPU s per GB`, used / ((gbps * all) / 8));
    note(`${what}, busy, %`, (used / all) * 100);
    note(`${what}, shim busy, %`, ((cpu(peer.shim()) - beforeShim) / all) * 100);
  };
  await moved('guest → outside', () => throughput(peer.guest, OUTSIDE, IPERF_PORT, seconds));
  await moved('outside → guest', () => throughput(peer.guest, OUTSIDE, IPERF_PORT, seconds, true));
  await moved('outside → forwarded port', () => throughput(peer.world.outside, HOST, HOST_IPERF, seconds));
  const out = await latency(peer.guest, OUTSIDE, PROBE_PORT, 1);
  note('round trip guest → outside, µs', out.median);
  note('round trip guest → outside, p99, µs', out.p99);
  note('round trip outside → forwarded port, µs', (await latency(peer.world.outside, HOST, HOST_PROBE, 1)).median);
  note('new connections guest → outside, /s', (await connects(peer.guest, OUTSIDE, PROBE_PORT, seconds, 8)).rate);
  note('new connections outside → forwarded port, /s', (await connects(peer.world.outside, HOST, HOST_PROBE, seconds, 8)).rate);
}

async function compare(mtu: number, quick: boolean): Promise<Record<string, Figures>> {
  const figures: Record<string, Figures> = {};
  const peers: [string, Peer][] = [];
  try {
    for (const kind of PEERS) {
      if (!kind.mtus.includes(mtu)) continue;
      if (!kind.present()) {
        console.log(`${kind.name}: skipped, as it is not installed`);
        continue;
      }
      const peer = await kind.start(mtu);
      peers.push([kind.name, peer]);
      await serveAll(peer.world.outside);
      await serveAll(peer.guest);
      figures[kind.name] = {};
    }
    await sleep(1000);
    const idle = peers.map(([, p]) => resident(p.pids()));
    for (let r = 0; r < (quick ? 1 : ROUNDS); r++) {
      for (const [name, peer] of peers) {
        process.stderr.write(`\r\x1b[KMTU ${mtu}, round ${r + 1}: ${name}`);
        await round(peer, quick, figures[name] as Figures);
      }
    }
    process.stderr.write('\r\x1b[K');
    for (const [i, [name, p]] of peers.entries()) {
      (figures[name] as Figures)['memory at first, MiB'] = [idle[i] as number];
      (figures[name] as Figures)['memory at the end, MiB'] = [resident(p.pids())];
    }
  } finally {
    for (const [, p] of peers) p.world.close();
  }
  const names = Object.keys(figures);
  const rows = Object.keys(figures['anka'] as Figures).map((what) => {
    const digits = what.endsWith('Gbit/s') || what.endsWith('GB') ? 2 : 0;
    return [what, ...names.map((n) => spread((figures[n] as Figures)[what] as number[], digits))];
  });
  console.log(`\nMTU ${mtu}\n\n${table(['', ...names], rows)}`);
  return figures;
}

/** Frames per second and Gbit/s from one card to another through the switch alone. */
async function throughSwitch(net: OurNetwork, n: number, seconds: number): Promise<{ frames: number; gbps: number }> {
  const mac = (k: number): string => `56:45:45:00:00:${k.toString(16)}`;
  const [a, b] = [n, n + 1];
  const ends = [net.socket(a), mac(a), `192.168.64.${100 + a}`, net.socket(b), mac(b), `192.168.64.${100 + b}`];
  const run = net.world.host.ask([compiled(new URL('frames.c', import.meta.url)), ...ends, 1514, seconds].join(' '));
  await net.plug(a);
  await net.plug(b);
  return JSON.parse((await run) ?? '{}') as { frames: number; gbps: number };
}

/** Traffic between VMs, and the cost of an idle network. */
async function alone(quick: boolean): Promise<Figures> {
  const figures: Figures = { 'two cards, Gbit/s': [], 'two cards, with 16 idle VMs, Gbit/s': [] };
  const seconds = quick ? 1 : 2;
  const few = new OurNetwork('b2-', 1500);
  const many = new OurNetwork('bm-', 1500);
  try {
    await few.start();
    await many.start();
    for (let n = 1; n <= IDLE_VMS; n++) await many.addGuest(n);
    await sleep(quick ? 3000 : SETTLE_MS);
    const [before, began] = [cpu(many.pids()), performance.now()];
    await sleep(quick ? 5000 : 30_000);
    figures['idle with 16 VMs, CPU %'] = [((cpu(many.pids()) - before) / (performance.now() - began)) * 1e5];
    figures['idle with 16 VMs, memory MiB'] = [resident(many.pids())];
    for (let r = 0; r < (quick ? 1 : ROUNDS); r++) {
      figures['two cards, Gbit/s']?.push((await throughSwitch(few, 100 + 2 * r, seconds)).gbps);
      figures['two cards, with 16 idle VMs, Gbit/s']?.push((await throughSwitch(many, 100 + 2 * r, seconds)).gbps);
    }
    const [one, two] = [await few.addGuest(1), await few.addGuest(2)];
    await serveAll(two);
    const address = /inet (\S+)\//.exec(two.run('ip -o -4 addr show dev eth0'))?.[1] as string;
    figures['two guests, one TCP stream, Gbit/s'] = [await throughput(one, address, IPERF_PORT, seconds)];
    figures['two guests, round trip, µs'] = [(await latency(one, address, PROBE_PORT, seconds)).median];
  } finally {
    few.world.close();
    many.world.close();
  }
  const rows = Object.entries(figures).map(([what, values]) => [what, spread(values, what.endsWith('µs') || what.endsWith('MiB') ? 0 : 2)]);
  console.log(`\n${table(['anka alone, MTU 1500', ''], rows)}`);
  return figures;
}

/** Targets and results, as ratios of medians. */
function wanted(small: Record<string, Figures>, large: Record<string, Figures>, own: Figures): string {
  const value = (f: Record<string, Figures>, who: string, what: string): number => (f[who]?.[what] ? median(f[who][what]) : Number.NaN);
  const best = (f: Record<string, Figures>, whos: string[], what: string): number =>
    Math.max(...whos.map((w) => value(f, w, what)).filter((v) => !Number.isNaN(v)));
  const rows: string[][] = [];
  const row = (what: string, want: string, got: number, ok: boolean): void => void rows.push([what, want, got.toFixed(2), ok ? 'yes' : 'no']);
  const ratio = (what: string, f: Record<string, Figures>, whos: string[], figure: string, least: number): void => {
    const r = value(f, 'anka', figure) / best(f, whos, figure);
    row(what, `at least ${least}`, r, r >= least);
  };
  for (const way of ['guest → outside', 'outside → guest']) {
    ratio(`MTU 1500, ${way}: of the better of libslirp and gvproxy`, small, ['libslirp (QEMU)', 'gvproxy'], `${way}, Gbit/s`, 2);
    ratio(`MTU 1500, ${way}: of passt`, small, ['passt'], `${way}, Gbit/s`, 1);
    ratio(`MTU 65520, ${way}: of passt`, large, ['passt'], `${way}, Gbit/s`, 0.85);
    ratio(`MTU 65520, ${way}: of the better of slirp4netns and gvproxy`, large, ['slirp4netns', 'gvproxy'], `${way}, Gbit/s`, 1);
  }
  const trip = 'round trip guest → outside, µs';
  const r = value(small, 'anka', trip) / value(small, 'passt', trip);
  row('round trip over an open connection: of passt', 'at most 1.15', r, r <= 1.15);
  ratio('new connections per second: of libslirp', small, ['libslirp (QEMU)'], 'new connections guest → outside, /s', 1);
  const [two, crowd] = ['two cards, Gbit/s', 'two cards, with 16 idle VMs, Gbit/s'].map((w) => median(own[w] as number[])) as [number, number];
  row('VM to VM, MTU 1500, Gbit/s', 'at least 4', two, two >= 4);
  row('the same with 16 idle VMs: of that', 'at least 0.9', crowd / two, crowd / two >= 0.9);
  const idle = own['idle with 16 VMs, CPU %']?.[0] ?? Number.NaN;
  const memory = own['idle with 16 VMs, memory MiB']?.[0] ?? Number.NaN;
  row('idle with 16 VMs, CPU %', 'below 0.5', idle, idle < 0.5);
  row('memory with 16 VMs, MB', 'below 120', memory * 1.048576, memory * 1.048576 < 120);
  return table(['ratio of medians', 'wanted', 'found', 'met'], rows);
}

/** Prints the tables, and returns the figures. */
export async function benchUser(quick: boolean): Promise<object> {
  const versions = Object.fromEntries(PEERS.flatMap((p) => (p.present() ? [[p.name, p.version()]] : [])));
  console.log(`\n${table(['program', 'version'], Object.entries(versions))}`);
  const small = await compare(1500, quick);
  const large = await compare(65_520, quick);
  const own = await alone(quick);
  console.log(`\n${wanted(small, large, own)}`);
  return { versions, 1500: small, 65520: large, alone: own };
}
