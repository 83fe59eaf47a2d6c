/**
 * Where bridge-type cards are plugged in (B16–B19).
 *
 * Theory of operation: an interface that is a bridge, or in one, lends that bridge: the tap is added to it, and nothing of the host's addresses is touched. Any other Ethernet interface
 * gets a no-touch bridge. An interface that goes (a USB dongle) leaves its segment behind with the VMs in it, and is joined again when it returns.
 * Limits: wireless, loopback and tunnels are refused, as is whatever is no card (B17).
 */
import { classifyInterface, usableInterfaces } from '../../host/ethernet.ts';
import { type Link, listLinks } from '../../host/links.ts';
import type { DesiredNic } from '../engine.ts';
import { segmentNames } from './names.ts';
import { NoTouchBridges } from './no-touch-bridge.ts';

/** Where the taps of one interface's VMs go. */
export interface Uplink {
  bridge: string;
  /** Bytes of IP packet that fit a frame there. */
  mtu: number;
  /** Interfaces that are ours alone; empty for a bridge that the host has. */
  own: string[];
}

/** By the interface that cards ask for. */
export type Uplinks = ReadonlyMap<string, Uplink>;

type Log = { info(o: object, m: string): void; warn(o: object, m: string): void };

export class UplinkKeeper {
  #bridges: NoTouchBridges;

  constructor(runDir: string, log: Log) {
    this.#bridges = new NoTouchBridges(runDir, log);
  }

  /** Why a card cannot be bridged as asked, or null. */
  validate(nic: DesiredNic): string | null {
    const name = nic.bridge ?? '';
    const usable = usableInterfaces();
    const choice = usable.length > 0 ? `these can be used: ${usable.join(', ')}` : 'this host has none that could be used';
    if (name === '') return `no Ethernet interface to bridge to; ${choice}`;
    const c = classifyInterface(name);
    return c.usable ? null : `interface ${name} ${c.why}; ${choice}`;
  }

  /** Makes, keeps and removes what the cards need. What fails is told for each card of the interface. */
  async apply(nics: readonly DesiredNic[], attempt: (object: string, work: () => Promise<unknown>) => Promise<void>): Promise<Uplinks> {
    const links = await listLinks();
    const byUplink = new Map<string, DesiredNic[]>();
    for (const nic of nics) if (nic.type === 'bridge') byUplink.set(nic.bridge ?? '', [...(byUplink.get(nic.bridge ?? '') ?? []), nic]);
    const found = new Map<string, Uplink>();
    const problems = new Map<string, string>();
    for (const [name, cards] of byUplink) {
      try {
        const problem = this.validate(cards[0] as DesiredNic);
        if (problem) this.#keepPlugged(name, links, found);
        if (problem) throw new Error(problem);
        const c = classifyInterface(name);
        const mtu = links.find((l) => l.name === ((c.usable && c.bridge) || name))?.mtu ?? 1500;
        if (c.usable && c.bridge !== null) found.set(name, { bridge: c.bridge, mtu, own: [] });
        else {
          const names = await this.#bridges.makeSegment(name, mtu, links);
          found.set(name, { bridge: names.bridge, mtu, own: Object.values(names) });
          await this.#bridges.join(
            name,
            cards.map((n) => ({ mac: n.outsideMac, parted: n.isolated })),
          );
        }
      } catch (cause) {
        problems.set(name, (cause as Error).message);
      }
    }
    for (const [name, message] of problems)
      for (const nic of byUplink.get(name) ?? []) await attempt(`nic:${nic.id}`, () => Promise.reject(new Error(message)));
    for (const name of this.#bridges.known(links)) {
      if ((found.get(name)?.own.length ?? 0) === 0) await attempt(`uplink:${name}`, () => this.#bridges.remove(name));
    }
    return found;
  }

  /** The interface is gone, its segment is not: the VMs stay in it, and reach each other. */
  #keepPlugged(name: string, links: readonly Link[], found: Map<string, Uplink>): void {
    const names = segmentNames(name);
    const bridge = links.find((l) => l.name === names.bridge);
    if (bridge && !links.some((l) => l.name === name)) found.set(name, { bridge: bridge.name, mtu: bridge.mtu, own: Object.values(names) });
  }

  /** Removes what was made for bridge type. */
  async removeAll(): Promise<string[]> {
    const removed: string[] = [];
    for (const name of this.#bridges.known(await listLinks())) removed.push(`bridge to ${name}`, ...(await this.#bridges.remove(name)));
    return removed;
  }
}
