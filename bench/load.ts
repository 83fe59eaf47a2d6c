/**
 * What a guest at full speed does to others: to those of another network (another process), and to those of its own. One guest's round trip and throughput to the outside, by
 * itself and while another sends all it can: a TCP stream, or small frames for the gateway, for everybody, or for that one guest.
 *
 * Limits: all of it shares the machine's cores, the load and the outside too; on few of them most of what a guest loses, it loses to the kernel's scheduling, whatever the network does.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { macText } from '../test/contract/guest-tools.ts';
import { compiled } from '../test/world/compile.ts';
import { OurNetwork } from './peers.ts';
import { IPERF_PORT, latency, PROBE_PORT, serveAll, throughput } from './probe.ts';
import { spread, table } from './stats.ts';

const OUTSIDE = '198.51.100.1';
const GATEWAY = ['5a:45:45:00:40:01', '192.168.64.1'] as const;
const EVERYBODY = ['ff:ff:ff:ff:ff:ff', '255.255.255.255'] as const;
/** A server of iperf3 serves one client at a time: this one is for the guest that is measured. */
const SECOND_IPERF = IPERF_PORT + 1;
const ROUNDS = 3;
const SECONDS = 1;
/** What is measured takes this long, s, with what iperf3 adds before and after. */
const LENGTH = 3 * SECONDS + 3.5;
/** The card of the guest that is nothing but a source of frames. */
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

/** Sends small frames from a card of `net` for `LENGTH`; how many thousands it got rid of per second. */
async function flood(net: OurNetwork, to: readonly [string, string]): Promise<number> {
  const ends = [net.socket(FLOOD), `56:45:45:00:00:0${FLOOD}`, '192.168.64.109', '-', ...to];
  const run = net.world.host.ask([compiled(new URL('frames.c', import.meta.url)), ...ends, SMALL, LENGTH].join(' '));
  await net.plug(FLOOD);
  const sent = await run;
  if (sent === null) throw new Error('the source of frames failed');
  return (JSON.parse(sent) as { frames: number }).frames / 1000;
}

/** Runs it, prints the table, and returns the figures. */
export async function benchLoad(quick: boolean): Promise<object> {
  const figures: Record<string, { median: number[]; p99: number[]; out: number[]; in: number[]; load: number[] }> = {};
  const own = await begin('bl-');
  const other = await begin('bo-');
  try {
    const guest = await own.addGuest(2);
    own.world.outside.spawn(['iperf3', '-s', '-p', String(SECOND_IPERF)]);
    const address = /inet (\S+)\//.exec(guest.run('ip -o -4 addr show dev eth0'))?.[1] as string;
    const stream = (net: OurNetwork) => () => throughput(net.guests[0] as (typeof net.guests)[0], OUTSIDE, IPERF_PORT, LENGTH);
    const loads: [string, () => Promise<number>][] = [['nobody else', async () => 0]];
    for (const [where, net] of [
      ['another network', other],
      ['the same network', own],
    ] as const) {
      loads.push([`${where}: a TCP stream`, stream(net)]);
      loads.push([`${where}: small frames for the gateway`, () => flood(net, GATEWAY)]);
      loads.push([`${where}: small frames for everybody`, () => flood(net, EVERYBODY)]);
    }
    loads.push(['the same network: small frames for this guest', () => flood(own, [macText(2), address])]);
    await sleep(1000);
    for (let r = 0; r < (quick ? 1 : ROUNDS); r++) {
      for (const [name, load] of loads) {
        process.stderr.write(`\r\x1b[Kround ${r + 1}: ${name}`);
        figures[name] ??= { median: [], p99: [], out: [], in: [], load: [] };
        const under = load();
        await sleep(1000);
        const trip = await latency(guest, OUTSIDE, PROBE_PORT, SECONDS);
        figures[name].median.push(trip.median);
        figures[name].p99.push(trip.p99);
        figures[name].out.push(await throughput(guest, OUTSIDE, SECOND_IPERF, SECONDS));
        figures[name].in.push(await throughput(guest, OUTSIDE, SECOND_IPERF, SECONDS, true));
        figures[name].load.push(await under);
      }
    }
    process.stderr.write('\r\x1b[K');
  } finally {
    own.world.close();
    other.world.close();
  }
  const rows = Object.entries(figures).map(([name, f]) => [name, spread(f.median, 0), spread(f.p99, 0), spread(f.out, 2), spread(f.in, 2), spread(f.load, 1)]);
  console.log(
    `\n${table(['a guest, while there is at full speed', 'round trip, µs', 'p99, µs', 'guest → outside, Gbit/s', 'outside → guest, Gbit/s', 'the load: Gbit/s, or thousand frames/s'], rows)}`,
  );
  return figures;
}
