/**
 * A guest's round trip and throughput to outside while another guest, of the same or of another network (another
 * process), sends at full speed: a TCP stream, or small frames to the gateway, to broadcast or to that guest. The load
 * lasts for the whole measurement.
 *
 * Limits: guests, load and outside share the machine's cores. With few cores most of the loss is due to scheduling.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { macText } from '../test/contract/guest-tools.ts';
import { compiled } from '../test/world/compile.ts';
import type { Namespace } from '../test/world/world.ts';
import { OurNetwork } from './peers.ts';
import { connects, IPERF_PORT, latency, PROBE_PORT, serveAll, throughput } from './probe.ts';
import { spread, table } from './stats.ts';

const OUTSIDE = '198.51.100.1';
const GATEWAY = ['5a:45:45:00:40:01', '192.168.64.1'] as const;
const EVERYBODY = ['ff:ff:ff:ff:ff:ff', '255.255.255.255'] as const;
/** For the measured guest, as an iperf3 server serves one client at a time. */
const SECOND_IPERF = IPERF_PORT + 1;
const ROUNDS = 3;
const SECONDS = 1;
/** Longer than any measurement under one load, s. */
const LOAD_SECONDS = 600;
/** The card of the guest that only sends frames. */
const FLOOD = 9;
const SMALL = 64;

/** A network with a guest that can load it. */
async function begin(name: string): Promise<OurNetwork> {
  const net = new OurNetwork(name, 1500);
  await net.start();
  await serveAll(net.world.outside);
  await net.addGuest(1);
  return net;
}

/** A load on a network. `begin` returns the function that ends it. */
interface Load {
  name: string;
  net: OurNetwork;
  card: number;
  /** Unit of its rate: thousand frames or Gbit. */
  frames: boolean;
  begin(): () => void;
}

function stream(name: string, net: OurNetwork): Load {
  const begin = (): (() => void) => {
    const client = (net.guests[0] as Namespace).spawn(['iperf3', '-J', '-t', String(LOAD_SECONDS), '-c', OUTSIDE, '-p', String(IPERF_PORT)]);
    client.stdout?.resume();
    return () => client.kill();
  };
  return { name: `${name}: a TCP stream`, net, card: 1, frames: false, begin };
}

function flood(name: string, net: OurNetwork, to: readonly [string, string]): Load {
  const source = [net.socket(FLOOD), `56:45:45:00:00:0${FLOOD}`, '192.168.64.109', '-', ...to];
  const begin = (): (() => void) => {
    const child = net.world.host.spawn([compiled(new URL('frames.c', import.meta.url)), ...source, String(SMALL), String(LOAD_SECONDS)]);
    return () => child.kill();
  };
  return { name, net, card: FLOOD, frames: true, begin };
}

/** The load's rate since `before`. */
async function sentSince({ net, card, frames }: Load, before: { frames: number; bytes: number }, seconds: number): Promise<number> {
  const now = await net.sentBy(card);
  return frames ? (now.frames - before.frames) / 1e3 / seconds : ((now.bytes - before.bytes) * 8) / 1e9 / seconds;
}

/** Prints the table, and returns the figures. */
export async function benchLoad(quick: boolean): Promise<object> {
  const figures: Record<string, { median: number[]; p99: number[]; connect: number[]; out: number[]; in: number[]; load: number[] }> = {};
  const own = await begin('bl-');
  const other = await begin('bo-');
  try {
    const guest = await own.addGuest(2);
    own.world.outside.spawn(['iperf3', '-s', '-p', String(SECOND_IPERF)]);
    const address = /inet (\S+)\//.exec(guest.run('ip -o -4 addr show dev eth0'))?.[1] as string;
    const loads: Load[] = [];
    for (const [where, net] of [
      ['another network', other],
      ['the same network', own],
    ] as const) {
      await net.plug(FLOOD);
      loads.push(stream(where, net));
      loads.push(flood(`${where}: small frames for the gateway`, net, GATEWAY));
      loads.push(flood(`${where}: small frames for everybody`, net, EVERYBODY));
    }
    loads.push(flood('the same network: small frames for this guest', own, [macText(2), address]));
    for (let r = 0; r < (quick ? 1 : ROUNDS); r++) {
      for (const load of [null, ...loads]) {
        const name = load?.name ?? 'nobody else';
        process.stderr.write(`\r\x1b[Kround ${r + 1}: ${name}`);
        figures[name] ??= { median: [], p99: [], connect: [], out: [], in: [], load: [] };
        const f = figures[name];
        const end = load?.begin();
        await sleep(1000);
        const before = await load?.net.sentBy(load.card);
        const from = performance.now();
        const trip = await latency(guest, OUTSIDE, PROBE_PORT, SECONDS);
        f.median.push(trip.median);
        f.p99.push(trip.p99);
        f.connect.push((await connects(guest, OUTSIDE, PROBE_PORT, SECONDS, 1)).median);
        f.out.push(await throughput(guest, OUTSIDE, SECOND_IPERF, SECONDS));
        f.in.push(await throughput(guest, OUTSIDE, SECOND_IPERF, SECONDS, true));
        f.load.push(load && before ? await sentSince(load, before, (performance.now() - from) / 1000) : 0);
        end?.();
      }
    }
    process.stderr.write('\r\x1b[K');
  } finally {
    own.world.close();
    other.world.close();
  }
  const rows = Object.entries(figures).map(([name, f]) => [
    name,
    spread(f.median, 0),
    spread(f.p99, 0),
    spread(f.connect, 0),
    spread(f.out, 2),
    spread(f.in, 2),
    spread(f.load, 1),
  ]);
  console.log(
    `\n${table(['load on the measured guest', 'round trip, µs', 'p99, µs', 'new connection, µs', 'guest → outside, Gbit/s', 'outside → guest, Gbit/s', 'the load: Gbit/s, or thousand frames/s'], rows)}`,
  );
  return figures;
}
