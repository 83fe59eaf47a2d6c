/**
 * The interfaces of the desired state on this host: uplinks, taps with their MAC translation and VLAN tags, and
 * bridges.
 *
 * Theory of operation: a tap is created detached. It gets its translation and its tag before it is attached to a
 * bridge, so no frame passes without them; a NIC for which that fails stays detached. Everything else is changed by
 * netlink, object by object (link-plan.ts).
 */
import { type Link, listAddresses, listLinks, listRoutes } from '../../host/links.ts';
import { changeLinks } from '../../host/netlink/link-requests.ts';
import type { DesiredNic, DesiredState } from '../engine.ts';
import { type Attachments, Uplinks } from './bridging/uplinks.ts';
import { MacTranslations } from './ebpf/mac-translation.ts';
import { applyVlanTags } from './ebpf/vlan-tags.ts';
import { isOurs, type LinkStep, masterOf, planLinks, planTaps } from './link-plan.ts';
import { BRIDGES, tapName } from './names.ts';
import type { ProblemList } from './problem-list.ts';
import type { NicTap } from './rules/netdev-table.ts';
import type { Segments } from './rules/rule-input.ts';

export interface HostLinksOptions {
  runDir: string;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

export class HostLinks {
  readonly #log: HostLinksOptions['log'];
  readonly #uplinks: Uplinks;
  readonly #translations: MacTranslations;
  /** The bridge of each bridge-type NIC. */
  #attachments: Attachments = new Map();
  #taps: NicTap[] = [];
  /** The host's own IPv4 addresses: on bridged interfaces, and all of them. */
  #bridgedAddresses: string[] = [];
  #hostAddresses: string[] = [];

  constructor({ runDir, log }: HostLinksOptions) {
    this.#log = log;
    this.#uplinks = new Uplinks(runDir, log);
    this.#translations = new MacTranslations((o, m) => log.warn(o, m));
  }

  /** Where bridge-type NICs were attached by the last `apply`, by id. */
  get attachments(): Attachments {
    return this.#attachments;
  }

  /** Taps that the last `apply` found or created. */
  get taps(): readonly NicTap[] {
    return this.#taps;
  }

  /** The host's own IPv4 addresses, as of the last `apply`. */
  get hostAddresses(): readonly string[] {
    return this.#hostAddresses;
  }

  /** Why a bridge-type NIC cannot be bridged as desired, or null. */
  bridgeProblem(nic: DesiredNic, links: readonly Link[]): string | null {
    return this.#uplinks.validate(nic, links);
  }

  /** Something is to be repaired that no monitor reports. */
  hasDrifted(): boolean {
    return this.#uplinks.hasDrifted();
  }

  /** The host's interfaces that `apply` depends on: those that VMs are bridged to, and their bridges. */
  watched(desired: DesiredState): Set<string> {
    return new Set([...desired.nics.flatMap((n) => (n.bridge ? [n.bridge] : [])), ...[...this.#attachments.values()].map((a) => a.bridge)]);
  }

  /** True if anything differs from the last time, or was repaired. */
  async apply(desired: DesiredState, problems: ProblemList): Promise<boolean> {
    const before = this.#state();
    const failed = problems.problems.length;
    this.#attachments = await this.#uplinks.apply(desired.nics, desired.bridgeMethod ?? 'auto', problems.attempt);
    const taps = planTaps(desired, await listLinks());
    await this.#run(taps, problems);
    const links = await listLinks();
    const detached = new Set<string>();
    const refused = [...(await this.#translations.apply(desired, links)), ...(await applyVlanTags(desired, links))];
    for (const [id, message] of refused) {
      detached.add(id);
      problems.add(`nic:${id}`, message);
    }
    const [addresses, routes] = [await listAddresses(), await listRoutes()];
    const bridged = [...this.#attachments.values()].flatMap((a) => [a.uplink, a.bridge]);
    const addressesAt = (names: readonly string[]): string[] => [
      ...new Set(names.flatMap((name) => (addresses.get(name) ?? []).map((a) => a.replace(/\/.*/, '')))),
    ];
    this.#bridgedAddresses = addressesAt(bridged);
    this.#hostAddresses = addressesAt([...addresses.keys()]).sort();
    const steps = planLinks(desired, { links, addresses, routes, attachments: this.#attachments, detached });
    await this.#run(steps, problems);
    this.#taps = desired.nics.flatMap((nic) =>
      links.some((l) => l.name === tapName(nic.id)) ? [{ tap: tapName(nic.id), attached: masterOf(nic, this.#attachments, detached) !== null }] : [],
    );
    return taps.length + steps.length > 0 || problems.problems.length > failed || this.#state() !== before;
  }

  /** What other parts of the engine depend on. */
  #state(): string {
    return JSON.stringify([[...this.#attachments], this.#taps, this.#bridgedAddresses]);
  }

  async #run(steps: readonly LinkStep[], problems: ProblemList): Promise<void> {
    for (const { object, changes } of steps) {
      this.#log.info({ object, changes }, 'links');
      await problems.attempt(object, async () => changeLinks(changes));
    }
  }

  segments(nics: readonly DesiredNic[]): Segments {
    const inSegment = nics.filter((n) => n.type === 'bridge' && (this.#attachments.get(n.id)?.ownInterfaces.length ?? 0) > 0);
    return { nics: new Set(inSegment.map((n) => n.id)), hostAddresses: this.#bridgedAddresses };
  }

  /** The bridges that anka created for a desired state. */
  bridges(desired: DesiredState): string[] {
    const segments = [...this.#attachments.values()].flatMap((a) => (a.ownInterfaces.length > 0 ? [a.bridge] : []));
    return [...desired.networks.map((n) => BRIDGES[n.name] as string), ...new Set(segments)];
  }

  /** Detaches the uplinks. Returns what was removed, one line each. */
  removeUplinks(): Promise<string[]> {
    return this.#uplinks.removeAll();
  }

  /** Deletes every interface of ours. Returns what was removed, one line each. */
  async removeInterfaces(): Promise<string[]> {
    const removed: string[] = [];
    for (const l of await listLinks()) {
      if (!isOurs(l)) continue;
      changeLinks([{ change: 'delete', name: l.name }]);
      removed.push(`interface ${l.name}`);
    }
    return removed;
  }
}
