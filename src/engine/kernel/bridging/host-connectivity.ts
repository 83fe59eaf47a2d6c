/**
 * Checks that the host keeps its own connectivity while one of its interfaces is changed (B19).
 *
 * Theory of operation: the host is observed before and after a change: its default routes, the interface's addresses
 * and state, and whether the gateways behind the interface answer ARP now (neighbour state PROBE makes the kernel ask
 * again). What was missing before does not count as lost. A change that costs the host anything is undone at once, and
 * not repeated until another change is asked for.
 *
 * Limits: IPv4. A gateway that the kernel has not resolved yet gets a datagram to its discard port.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../../host/exec.ts';
import { ipBatch, listAddresses, listLinks } from '../../../host/links.ts';
import { NUD, neighbourState, probeNeighbour } from '../../../host/netlink/neighbours.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { parseIpv4 } from '../../../wire/address.ts';

interface DefaultRoute {
  /** As `ip route add` takes it. */
  text: string;
  gateway: string | null;
  dev: string;
}

export interface HostConnectivity {
  dev: string;
  up: boolean;
  addresses: string[];
  routes: DefaultRoute[];
  /** Gateways behind the interface that answered. */
  answering: string[];
}

const DISCARD_PORT = 9;
const POLL_MS = 25;
/** The kernel sends three requests, one a second. */
const ANSWER_MS = 4500;

async function defaultRoutes(): Promise<DefaultRoute[]> {
  const text = await run('ip', ['-4', 'route', 'show', 'default']);
  return text
    .split('\n')
    .map((l) => l.replace(/\b(linkdown|dead|onlink)\b/g, '').trim())
    .filter((l) => l !== '')
    .map((l) => ({ text: l.replaceAll(/\s+/g, ' '), gateway: /\bvia (\d\S+)/.exec(l)?.[1] ?? null, dev: /\bdev (\S+)/.exec(l)?.[1] ?? '' }));
}

async function answers(gateway: string, dev: string): Promise<boolean> {
  const ip = parseIpv4(gateway);
  if (ip === null) return false;
  const first = neighbourState(ip, dev);
  if (first === NUD.permanent || first === NUD.noArp) return true;
  if (!probeNeighbour(ip, dev)) {
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => {
      socket.on('error', () => resolve()); // no socket can be opened
      socket.send('', DISCARD_PORT, gateway, () => resolve());
    });
    socket.close();
  }
  for (let waited = 0; waited < ANSWER_MS; waited += POLL_MS) {
    const now = neighbourState(ip, dev);
    if (now === NUD.reachable) return true;
    if (now === NUD.failed) return false;
    await sleep(POLL_MS);
  }
  return false;
}

/** Observes the host now. `gateways`: those to probe; by default all behind the interface. */
export async function observeHost(dev: string, gateways?: readonly string[]): Promise<HostConnectivity> {
  const link = (await listLinks()).find((l) => l.name === dev);
  const routes = await defaultRoutes();
  const probed = gateways ?? [...new Set(routes.flatMap((r) => (r.dev === dev && r.gateway !== null ? [r.gateway] : [])))];
  const answering: string[] = [];
  for (const g of probed) if (link && (await answers(g, dev))) answering.push(g);
  return { dev, up: link?.up ?? false, addresses: (await listAddresses()).get(dev) ?? [], routes, answering };
}

/** The first thing that the host lost, as a clause for a message; null if nothing. */
export function findLoss(before: HostConnectivity, after: HostConnectivity): string | null {
  if (before.up && !after.up) return `${before.dev} is down`;
  const address = before.addresses.find((a) => !after.addresses.includes(a));
  if (address !== undefined) return `${before.dev} lost its address ${address}`;
  const route = before.routes.find((r) => !after.routes.some((a) => a.text === r.text));
  if (route) return `the host lost its route '${route.text}'`;
  const gateway = before.answering.find((g) => !after.answering.includes(g));
  if (gateway !== undefined) return `the gateway ${gateway} no longer answers`;
  return null;
}

/** Adds missing default routes through the interface again. Returns those that could not be added, and why. */
export async function restoreRoutes(before: HostConnectivity): Promise<string[]> {
  const now = await defaultRoutes();
  const failed: string[] = [];
  for (const r of before.routes) {
    if (r.dev !== before.dev || now.some((n) => n.text === r.text)) continue;
    await ipBatch([`route add ${r.text}`]).catch((cause: Error) => failed.push(`${r.text}: ${cause.message}`));
  }
  return failed;
}

export interface GuardedChange {
  uplink: string;
  /** Identifies the change: one that was undone is not repeated. */
  change: string;
  work: () => Promise<void>;
  undo: () => Promise<void>;
}

/** Changes interfaces on condition that the host keeps its connectivity. */
export class HostGuard {
  #log: { warn(o: object, m: string): void };
  /** The last change that was undone, by interface, and why. */
  #undone = new Map<string, { change: string; why: string }>();

  constructor(log: { warn(o: object, m: string): void }) {
    this.#log = log;
  }

  /** Throws if this change was undone before. */
  demandNotUndone(uplink: string, change: string): void {
    const undone = this.#undone.get(uplink);
    if (undone?.change === change) throw new AnkaError('network', undone.why);
    this.#undone.delete(uplink);
  }

  /** Forgets the undone changes of all other interfaces, so that they may be tried again. */
  keepOnly(uplinks: ReadonlySet<string>): void {
    for (const uplink of this.#undone.keys()) if (!uplinks.has(uplink)) this.#undone.delete(uplink);
  }

  /** Makes a change. Undoes it and throws if it fails or costs the host connectivity. */
  async during({ uplink, change, work, undo }: GuardedChange): Promise<void> {
    const before = await observeHost(uplink);
    try {
      await work();
    } catch (cause) {
      await undo();
      throw cause;
    }
    const loss = findLoss(before, await observeHost(uplink, before.answering));
    if (loss === null) return;
    await undo();
    const failed = await restoreRoutes(before);
    const remaining = findLoss(before, await observeHost(uplink, before.answering));
    const outcome = remaining === null ? 'the host recovered' : `still ${remaining}`;
    const why = `after ${uplink} was bridged, ${loss}; the bridge was removed, and ${outcome}; change the network card or restart the VM to try again`;
    this.#log.warn({ uplink, loss, remaining, failed }, 'the bridge cost the host connectivity and was removed');
    this.#undone.set(uplink, { change, why });
    throw new AnkaError('network', why);
  }
}
