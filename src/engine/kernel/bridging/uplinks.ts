/**
 * Where bridge-type cards are plugged in (B16–B19).
 *
 * Theory of operation: an interface that is a bridge, or in one, lends that bridge: the tap is added to it, and nothing
 * of the host's addresses is touched. Any other Ethernet interface gets a no-touch bridge; where this kernel takes no
 * eBPF, each card gets a macvlan, with the limit told (`auto`). Whether it does is found out by the attempt, once in
 * the life of this process. An interface that goes (a USB dongle) leaves its segment behind with the VMs in it, and is
 * joined again when it returns. Limits: wireless, loopback and tunnels are refused, as is whatever is no card (B17).
 */
import { classifyInterface, usableInterfaces } from '../../../host/ethernet.ts';
import { type Link, listLinks } from '../../../host/links.ts';
import type { BridgeMethod, DesiredNic } from '../../engine.ts';
import { cardBridgeNames, segmentNames } from '../names.ts';
import { HostGuard } from './host-connectivity.ts';
import { MacvlanBridges } from './macvlan-bridge.ts';
import { cannotBridge, NoTouchBridges } from './no-touch-bridge.ts';

/** Where the tap of one card goes. */
export interface Plug {
  uplink: string;
  bridge: string;
  /** Bytes of IP packet that fit a frame there. */
  mtu: number;
  /** Interfaces that are ours alone; empty for a bridge that the host has. */
  own: string[];
  /** What does not work this way, in one sentence; empty when nothing. */
  limit: string;
}

/** By card. */
export type Plugs = ReadonlyMap<string, Plug>;

type Log = { info(o: object, m: string): void; warn(o: object, m: string): void };
type Attempt = (object: string, work: () => Promise<unknown>) => Promise<void>;

export class UplinkKeeper {
  #log: Log;
  #guard: HostGuard;
  #bridges: NoTouchBridges;
  #macvlans: MacvlanBridges;
  /** Why there is no eBPF, once that is known. */
  #noEbpf: string | null = null;

  constructor(runDir: string, log: Log) {
    this.#log = log;
    this.#guard = new HostGuard(log);
    this.#bridges = new NoTouchBridges(runDir, log, this.#guard);
    this.#macvlans = new MacvlanBridges(log, this.#guard);
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
  async apply(nics: readonly DesiredNic[], method: BridgeMethod, attempt: Attempt): Promise<Plugs> {
    const links = await listLinks();
    const byUplink = new Map<string, DesiredNic[]>();
    for (const nic of nics) if (nic.type === 'bridge') byUplink.set(nic.bridge ?? '', [...(byUplink.get(nic.bridge ?? '') ?? []), nic]);
    this.#guard.keepOnly(new Set(byUplink.keys()));
    const plugs = new Map<string, Plug>();
    const noTouch = new Set<string>();
    for (const [name, cards] of byUplink) {
      try {
        await this.#plugIn(name, cards, method, links, plugs, noTouch);
      } catch (cause) {
        for (const nic of cards) await attempt(`nic:${nic.id}`, () => Promise.reject(cause));
      }
    }
    for (const name of this.#bridges.known(await listLinks())) if (!noTouch.has(name)) await attempt(`uplink:${name}`, () => this.#bridges.remove(name));
    return plugs;
  }

  /**
   * The cards of one interface. Notes in `plugs` where they go, and in `noTouch` that the interface has a no-touch
   * bridge, also when it fails.
   */
  async #plugIn(
    uplink: string,
    cards: readonly DesiredNic[],
    method: BridgeMethod,
    links: readonly Link[],
    plugs: Map<string, Plug>,
    noTouch: Set<string>,
  ): Promise<void> {
    const problem = this.validate(cards[0] as DesiredNic);
    if (problem) {
      if (await this.#keepPlugged(uplink, cards, plugs)) noTouch.add(uplink);
      throw new Error(problem);
    }
    const c = classifyInterface(uplink);
    const lent = c.usable ? c.bridge : null;
    const mtu = links.find((l) => l.name === (lent ?? uplink))?.mtu ?? 1500;
    if (lent !== null) {
      for (const { id } of cards) plugs.set(id, { uplink, bridge: lent, mtu, own: [], limit: '' });
      return;
    }
    if (method === 'ebpf' || (method === 'auto' && this.#noEbpf === null)) {
      const names = await this.#bridges.makeSegment(uplink, mtu, links);
      noTouch.add(uplink);
      for (const { id } of cards) plugs.set(id, { uplink, bridge: names.bridge, mtu, own: Object.values(names), limit: '' });
      const refusal = await this.#bridges.join(
        uplink,
        cards.map((n) => ({ mac: n.outsideMac, parted: n.isolated })),
      );
      if (refusal === null) return;
      if (method === 'ebpf') throw new Error(cannotBridge(uplink, refusal));
      noTouch.delete(uplink);
      this.#noEbpf = refusal;
      this.#log.warn({ uplink, error: refusal }, 'no eBPF at tc: VMs are bridged by macvlan, and cannot talk with the host');
    }
    const limit = `bridged to ${uplink} by macvlan${method === 'macvlan' ? '' : ', as eBPF is not available'}: it and this host cannot reach each other`;
    for (const { id } of cards) {
      const names = cardBridgeNames(id);
      plugs.set(id, { uplink, bridge: names.bridge, mtu, own: Object.values(names), limit });
    }
    await this.#macvlans.apply(uplink, mtu, cards, links);
  }

  /**
   * The interface is gone, what was made for it is not: the VMs stay in it. True when they are in a no-touch segment,
   * where they reach each other.
   */
  async #keepPlugged(name: string, cards: readonly DesiredNic[], plugs: Map<string, Plug>): Promise<boolean> {
    // looked at again: it may have gone since the look before
    const links = await listLinks();
    if (links.some((l) => l.name === name)) return false;
    const names = segmentNames(name);
    const bridge = links.find((l) => l.name === names.bridge);
    for (const { id } of cards) {
      const own = cardBridgeNames(id);
      const alone = links.find((l) => l.name === own.bridge);
      const kept = bridge ?? alone;
      if (kept) plugs.set(id, { uplink: name, bridge: kept.name, mtu: kept.mtu, own: Object.values(bridge ? names : own), limit: '' });
    }
    return bridge !== undefined;
  }

  /** Whether there is something to mend that no monitor tells. */
  isDisturbed(): boolean {
    return this.#bridges.isDisturbed();
  }

  /** Removes what was made for bridge type. */
  async removeAll(): Promise<string[]> {
    const removed: string[] = [];
    for (const name of this.#bridges.known(await listLinks())) removed.push(`bridge to ${name}`, ...(await this.#bridges.remove(name)));
    return removed;
  }
}
