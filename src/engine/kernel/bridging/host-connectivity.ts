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
import { type Link, listAddresses, listLinks } from '../../../host/links.ts';
import { NUD, neighbourState, probeNeighbour } from '../../../host/netlink/neighbours.ts';
import { reasonOf } from '../../../host/netlink/netlink.ts';
import { addRoute, readDefaultRoutes } from '../../../host/netlink/route-messages.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { formatIpv4 } from '../../../wire/address.ts';

interface DefaultRoute {
  /** As the kernel takes it again; two routes with the same message are the same. */
  message: Buffer;
  /** For messages. */
  text: string;
  gateway: number | null;
  dev: string;
}

export interface HostConnectivity {
  dev: string;
  up: boolean;
  addresses: string[];
  routes: DefaultRoute[];
  /** Gateways behind the interface that answered. */
  answering: number[];
}

const DISCARD_PORT = 9;
const POLL_MS = 25;
/** The kernel sends three requests, one a second. */
const ANSWER_MS = 4500;

function defaultRoutes(links: readonly Link[]): DefaultRoute[] {
  const names = new Map(links.map((l) => [l.index, l.name]));
  return readDefaultRoutes().map(({ message, gateway, interfaces, metric }) => {
    const dev = interfaces.map((index) => names.get(index) ?? '').join(' ');
    const words = ['default', ...(gateway === null ? [] : ['via', formatIpv4(gateway)]), 'dev', dev, ...(metric === 0 ? [] : ['metric', metric])];
    return { message, text: words.join(' '), gateway, dev };
  });
}

async function answers(ip: number, dev: string): Promise<boolean> {
  const first = neighbourState(ip, dev);
  if (first === NUD.permanent || first === NUD.noArp) return true;
  if (!probeNeighbour(ip, dev)) {
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => {
      socket.on('error', () => resolve()); // no socket can be opened
      socket.send('', DISCARD_PORT, formatIpv4(ip), () => resolve());
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
export async function observeHost(dev: string, gateways?: readonly number[]): Promise<HostConnectivity> {
  const links = await listLinks();
  const link = links.find((l) => l.name === dev);
  const routes = defaultRoutes(links);
  const probed = gateways ?? [...new Set(routes.flatMap((r) => (r.dev === dev && r.gateway !== null ? [r.gateway] : [])))];
  const answering: number[] = [];
  for (const g of probed) if (link && (await answers(g, dev))) answering.push(g);
  return { dev, up: link?.up ?? false, addresses: (await listAddresses()).get(dev) ?? [], routes, answering };
}

/** The first thing that the host lost, as a clause for a message; null if nothing. */
export function findLoss(before: HostConnectivity, after: HostConnectivity): string | null {
  if (before.up && !after.up) return `${before.dev} is down`;
  const address = before.addresses.find((a) => !after.addresses.includes(a));
  if (address !== undefined) return `${before.dev} lost its address ${address}`;
  const route = before.routes.find((r) => !after.routes.some((a) => a.message.equals(r.message)));
  if (route) return `the host lost its route '${route.text}'`;
  const gateway = before.answering.find((g) => !after.answering.includes(g));
  if (gateway !== undefined) return `the gateway ${formatIpv4(gateway)} no longer answers`;
  return null;
}

/** Adds missing default routes through the interface again. Returns those that could not be added, and why. */
export async function restoreRoutes(before: HostConnectivity): Promise<string[]> {
  const now = defaultRoutes(await listLinks());
  const failed: string[] = [];
  for (const r of before.routes) {
    if (r.dev !== before.dev || now.some((n) => n.message.equals(r.message))) continue;
    try {
      addRoute(r.message);
    } catch (cause) {
      failed.push(`${r.text}: ${reasonOf(cause)}`);
    }
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
