/** The servers and clients in the benchmarks' namespaces: iperf3 and the probe (probe.c). */
import { setTimeout as sleep } from 'node:timers/promises';
import { compiled } from '../test/world/compile.ts';
import type { Namespace } from '../test/world/world.ts';

export const IPERF_PORT = 5201;
export const PROBE_PORT = 7000;

const program = (): string => compiled(new URL('probe.c', import.meta.url));

/** Starts both servers on every address of a namespace; resolves when they listen. */
export async function serveAll(ns: Namespace): Promise<void> {
  ns.spawn(['iperf3', '-s', '-p', String(IPERF_PORT)]);
  const probe = ns.spawn([program(), 'serve', String(PROBE_PORT)]);
  await new Promise((resolve) => probe.stdout?.once('data', resolve));
}

/** Gbit/s of one TCP stream. `reverse`: the server sends. */
export async function throughput(from: Namespace, address: string, port: number, seconds: number, reverse = false): Promise<number> {
  for (let tries = 0; ; tries++) {
    const text = await from.ask(`iperf3 -J -t ${seconds} -O 0.5 --connect-timeout 5000 ${reverse ? '-R' : ''} -c ${address} -p ${port}; true`);
    const { end, error } = JSON.parse(text || '{}') as { end?: { sum_received?: { bits_per_second: number } }; error?: string };
    if (end?.sum_received && error === undefined) return end.sum_received.bits_per_second / 1e9;
    // the server listens again only after a moment when a test has ended
    if (tries === 20 || !error?.includes('Connection refused')) throw new Error(`iperf3 to ${address}:${port}: ${error}`);
    await sleep(100);
  }
}

export interface ProbeResult {
  /** Per second. */
  rate: number;
  /** Microseconds. */
  median: number;
  p99: number;
  failed: number;
}

async function probe(from: Namespace, ...args: (string | number)[]): Promise<ProbeResult> {
  const text = await from.ask(`${program()} ${args.join(' ')}`);
  if (text === null) throw new Error(`probe ${args.join(' ')} failed`);
  return JSON.parse(text) as ProbeResult;
}

/** Round trips of 64 bytes over one open connection. */
export function latency(from: Namespace, address: string, port: number, seconds: number): Promise<ProbeResult> {
  return probe(from, 'latency', address, port, seconds);
}

/** Connections, `width` concurrently: connect, one byte each way, reset. */
export function connects(from: Namespace, address: string, port: number, seconds: number, width: number): Promise<ProbeResult> {
  return probe(from, 'connects', address, port, seconds, width);
}
