/**
 * The bridges that NICs of type bridge are attached to (B16–B19).
 *
 * Theory of operation: if the interface is a bridge, or in one, the tap is added to that bridge, and the host's
 * addresses stay as they are. Any other Ethernet interface gets a no-touch bridge. If eBPF is not available, each NIC
 * gets a macvlan, and its `limit` says what that costs (method `auto`). The first attempt finds out, once in the life
 * of this process. An interface that is removed (a USB adapter) leaves its segment with the VMs in it, and is connected
 * again when it returns.
 *
 * Limits: wireless, loopback, tunnels and whatever is no Ethernet card are refused (B17).
 */
import { classifyInterface, usableInterfaces } from '../../../host/ethernet.ts';
import { containerCards, type Link, listLinks } from '../../../host/links.ts';
import type { BridgeMethod, DesiredNic } from '../../engine.ts';
import { cardBridgeNames, segmentNames } from '../names.ts';
import { HostGuard } from './host-connectivity.ts';
import { MacvlanBridges } from './macvlan-bridge.ts';
import { cannotBridge, NoTouchBridges } from './no-touch-bridge.ts';
import { ensureSegment } from './segment.ts';

/** The bridge that a NIC's tap is added to. */
export interface Attachment {
  uplink: string;
  bridge: string;
  /** Bytes of an IP packet that fit a frame there. */
  mtu: number;
  /** The interfaces that we created for it; empty for a bridge of the host. */
  ownInterfaces: string[];
  /** What does not work with this attachment, in one sentence; empty if everything does. */
  limit: string;
}

/** By NIC id. */
export type Attachments = ReadonlyMap<string, Attachment>;

/** One `apply`, as it proceeds. */
interface Progress {
  method: BridgeMethod;
  links: readonly Link[];
  attachments: Map<string, Attachment>;
  /** Interfaces that keep their no-touch bridge. */
  noTouch: Set<string>;
}

type Log = { info(o: object, m: string): void; warn(o: object, m: string): void };
type Attempt = (object: string, work: () => Promise<unknown>) => Promise<void>;

const ETHERNET_MTU = 1500;

export class Uplinks {
  #log: Log;
  #guard: HostGuard;
  #bridges: NoTouchBridges;
  #macvlans: MacvlanBridges;
  /** Why eBPF is not available, once that is known. */
  #ebpfRefusal: string | null = null;

  constructor(runDir: string, log: Log) {
    this.#log = log;
    this.#guard = new HostGuard(log);
    this.#bridges = new NoTouchBridges(runDir, log, this.#guard);
    this.#macvlans = new MacvlanBridges(log, this.#guard);
  }

  /** Why a NIC cannot be bridged as asked, or null. */
  validate(nic: DesiredNic, links: readonly Link[]): string | null {
    const name = nic.bridge ?? '';
    const cards = containerCards(links);
    const usable = usableInterfaces(cards);
    const choice = usable.length > 0 ? `these can be used: ${usable.join(', ')}` : 'this host has none that could be used';
    if (name === '') return `no Ethernet interface to bridge to; ${choice}`;
    const c = classifyInterface(name, cards);
    return c.usable ? null : `interface ${name} ${c.why}; ${choice}`;
  }

  /** Creates, repairs and removes what the NICs need. A failure is reported for each NIC of the interface. */
  async apply(nics: readonly DesiredNic[], method: BridgeMethod, attempt: Attempt): Promise<Attachments> {
    const byUplink = new Map<string, DesiredNic[]>();
    for (const nic of nics) if (nic.type === 'bridge') byUplink.set(nic.bridge ?? '', [...(byUplink.get(nic.bridge ?? '') ?? []), nic]);
    this.#guard.keepOnly(new Set(byUplink.keys()));
    const progress: Progress = { method, links: await listLinks(), attachments: new Map(), noTouch: new Set() };
    for (const [name, cards] of byUplink) {
      try {
        await this.#attach(name, cards, progress);
      } catch (cause) {
        for (const nic of cards) await attempt(`nic:${nic.id}`, () => Promise.reject(cause));
      }
    }
    for (const name of this.#bridges.uplinks(await listLinks()))
      if (!progress.noTouch.has(name)) await attempt(`uplink:${name}`, () => this.#bridges.remove(name));
    return progress.attachments;
  }

  /** Attaches the NICs of one interface. On failure `progress` keeps what was created before. */
  async #attach(uplink: string, nics: readonly DesiredNic[], progress: Progress): Promise<void> {
    const { method, links, attachments } = progress;
    const problem = this.validate(nics[0] as DesiredNic, links);
    if (problem) {
      if (await keepAttached(uplink, nics, progress.attachments)) progress.noTouch.add(uplink);
      throw new Error(problem);
    }
    const c = classifyInterface(uplink, containerCards(links));
    const hostBridge = c.usable ? c.bridge : null;
    const mtu = links.find((l) => l.name === (hostBridge ?? uplink))?.mtu ?? ETHERNET_MTU;
    if (hostBridge !== null) {
      for (const { id } of nics) attachments.set(id, { uplink, bridge: hostBridge, mtu, ownInterfaces: [], limit: '' });
      return;
    }
    if (method === 'ebpf' || (method === 'auto' && this.#ebpfRefusal === null)) {
      if (await this.#attachByEbpf(uplink, mtu, nics, progress)) return;
    }
    const reason = method === 'macvlan' ? '' : ', as eBPF is not available';
    const limit = `bridged to ${uplink} by macvlan${reason}: it and this host cannot reach each other`;
    for (const { id } of nics) {
      const names = cardBridgeNames(id);
      attachments.set(id, { uplink, bridge: names.bridge, mtu, ownInterfaces: Object.values(names), limit });
    }
    await this.#macvlans.apply(uplink, mtu, nics, links);
  }

  /** False if eBPF is not available, and macvlan may be used instead. */
  async #attachByEbpf(uplink: string, mtu: number, nics: readonly DesiredNic[], progress: Progress): Promise<boolean> {
    const names = await ensureSegment(uplink, mtu, progress.links);
    progress.noTouch.add(uplink);
    for (const { id } of nics) progress.attachments.set(id, { uplink, bridge: names.bridge, mtu, ownInterfaces: Object.values(names), limit: '' });
    const refusal = await this.#bridges.join(
      uplink,
      nics.map((n) => ({ mac: n.outsideMac, isolated: n.isolated })),
    );
    if (refusal === null) return true;
    if (progress.method === 'ebpf') throw new Error(cannotBridge(uplink, refusal));
    progress.noTouch.delete(uplink);
    this.#ebpfRefusal = refusal;
    this.#log.warn({ uplink, error: refusal }, 'eBPF is not available at tc: VMs are bridged by macvlan, so they and the host cannot reach each other');
    return false;
  }

  /** Whether there is something to repair of which the kernel sends no notification. */
  hasDrifted(): boolean {
    return this.#bridges.hasDrifted();
  }

  /** Removes everything that was created for type bridge. Returns what was removed. */
  async removeAll(): Promise<string[]> {
    const removed: string[] = [];
    for (const name of this.#bridges.uplinks(await listLinks())) removed.push(`bridge to ${name}`, ...(await this.#bridges.remove(name)));
    return removed;
  }
}

/**
 * Keeps VMs attached to the bridges that we created for an interface that was removed. True if that is a no-touch
 * segment, in which they reach each other.
 */
async function keepAttached(uplink: string, nics: readonly DesiredNic[], attachments: Map<string, Attachment>): Promise<boolean> {
  // listed again: the interface may have been removed since
  const links = await listLinks();
  if (links.some((l) => l.name === uplink)) return false;
  const names = segmentNames(uplink);
  const segment = links.find((l) => l.name === names.bridge);
  for (const { id } of nics) {
    const own = cardBridgeNames(id);
    const bridge = segment ?? links.find((l) => l.name === own.bridge);
    if (bridge) attachments.set(id, { uplink, bridge: bridge.name, mtu: bridge.mtu, ownInterfaces: Object.values(segment ? names : own), limit: '' });
  }
  return segment !== undefined;
}
