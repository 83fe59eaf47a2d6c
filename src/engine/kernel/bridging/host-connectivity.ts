/**
 * Whether the host still has its own network, before and after a change to one of its interfaces (B19).
 *
 * Theory of operation: compared are the default routes, the interface's addresses and state, and whether the gateways
 * behind the interface answer ARP now: the kernel is made to ask again (neighbour state PROBE). What was not there
 * before is not missed afterwards. What costs the host something is undone at once, and not tried again until the wish
 * changes. Limits: IPv4; a gateway that never was asked is asked by a datagram to its discard port.
 */
import { createSocket } from 'node:dgram';
import { setTimeout as sleep } from 'node:timers/promises';
import { run } from '../../../host/exec.ts';
import { ipBatch, listAddresses, listLinks } from '../../../host/links.ts';
import { AnkaError } from '../../../lib/errors.ts';

/** A default route as `ip route` takes it again. */
interface DefaultRoute {
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

const POLL_MS = 25;
/** The kernel asks three times, a second apart. */
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
  const state = async (): Promise<string> => {
    const found = JSON.parse((await run('ip', ['-j', '-4', 'neigh', 'show', 'to', gateway, 'dev', dev])) || '[]') as { state?: string[] }[];
    return found[0]?.state?.[0] ?? 'NONE';
  };
  const first = await state();
  if (first === 'PERMANENT' || first === 'NOARP') return true;
  const asked = await run('ip', ['neigh', 'change', gateway, 'dev', dev, 'nud', 'probe']).then(
    () => true,
    () => false, // the kernel does not know its address yet
  );
  if (!asked) {
    const socket = createSocket('udp4');
    await new Promise<void>((resolve) => socket.send('', 9, gateway, () => resolve()));
    socket.close();
  }
  for (let waited = 0; waited < ANSWER_MS; waited += POLL_MS) {
    const now = await state();
    if (now === 'REACHABLE') return true;
    if (now === 'FAILED') return false;
    await sleep(POLL_MS);
  }
  return false;
}

/** Looks. Of the gateways only those in `ask` are asked, where given. */
export async function lookAtHost(dev: string, ask?: readonly string[]): Promise<HostConnectivity> {
  const link = (await listLinks()).find((l) => l.name === dev);
  const routes = await defaultRoutes();
  const gateways = ask ?? [...new Set(routes.flatMap((r) => (r.dev === dev && r.gateway !== null ? [r.gateway] : [])))];
  const answering: string[] = [];
  for (const g of gateways) if (link && (await answers(g, dev))) answering.push(g);
  return { dev, up: link?.up ?? false, addresses: (await listAddresses()).get(dev) ?? [], routes, answering };
}

/** What the host has lost, in words; null when nothing. */
export function lostSince(before: HostConnectivity, after: HostConnectivity): string | null {
  if (before.up && !after.up) return `${before.dev} is down`;
  const address = before.addresses.find((a) => !after.addresses.includes(a));
  if (address !== undefined) return `${before.dev} lost its address ${address}`;
  const route = before.routes.find((r) => !after.routes.some((a) => a.text === r.text));
  if (route) return `the host lost its route '${route.text}'`;
  const gateway = before.answering.find((g) => !after.answering.includes(g));
  if (gateway !== undefined) return `the gateway ${gateway} does not answer any more`;
  return null;
}

/** Puts default routes through the interface back that are missing. Tells which could not be. */
export async function restoreRoutes(before: HostConnectivity): Promise<string[]> {
  const now = await defaultRoutes();
  const failed: string[] = [];
  for (const r of before.routes) {
    if (r.dev !== before.dev || now.some((n) => n.text === r.text)) continue;
    await ipBatch([`route add ${r.text}`]).catch((cause: Error) => failed.push(`${r.text}: ${cause.message}`));
  }
  return failed;
}

/** Makes changes to interfaces under the condition that the host keeps what it has. */
export class HostGuard {
  #log: { warn(o: object, m: string): void };
  /** Interfaces on which a change was undone, by what was wished then, and why. */
  #undone = new Map<string, { wish: string; why: string }>();

  constructor(log: { warn(o: object, m: string): void }) {
    this.#log = log;
  }

  /** Throws when this wish has cost the host something before. */
  demandUntried(dev: string, wish: string): void {
    const undone = this.#undone.get(dev);
    if (undone?.wish === wish) throw new AnkaError('network', undone.why);
    this.#undone.delete(dev);
  }

  /** Interfaces to which nothing is bridged any more may be tried again. */
  keepOnly(devices: ReadonlySet<string>): void {
    for (const dev of this.#undone.keys()) if (!devices.has(dev)) this.#undone.delete(dev);
  }

  /** Does `work` between two looks at the host, and `undo` when it fails or costs the host something. Throws then. */
  async during(dev: string, wish: string, work: () => Promise<void>, undo: () => Promise<void>): Promise<void> {
    const before = await lookAtHost(dev);
    try {
      await work();
    } catch (cause) {
      await undo();
      throw cause;
    }
    const lost = lostSince(before, await lookAtHost(dev, before.answering));
    if (lost === null) return;
    await undo();
    const failed = await restoreRoutes(before);
    const still = lostSince(before, await lookAtHost(dev, before.answering));
    const why = `${dev} was bridged, and then ${lost}; the bridge was undone${still === null ? ' and the host has it back' : `, but ${still}`}; change the card, or start the VM anew, to try again`;
    this.#log.warn({ uplink: dev, lost, still, failed }, 'the bridge was undone');
    this.#undone.set(dev, { wish, why });
    throw new AnkaError('network', why);
  }
}
