/**
 * Changes to the host's interfaces for no-touch bridges, and their removal.
 *
 * Theory of operation: the interface must receive frames to the VMs' addresses (or every frame, if its driver has no
 * such list) and to all groups, for IPv6 resolves addresses by group. Each change is recorded in a file before it is
 * made, so that it can be undone after a crash.
 *
 * Limits: an interface is known by its name, so a renamed one counts as another.
 */
import { JsonRecord } from '../../../host/json-record.ts';
import type { Link } from '../../../host/links.ts';
import { changeLinks, type LinkSettings } from '../../../host/netlink/link-requests.ts';
import { ensureClsact, hasClsact, hasFilters, removeClsact } from '../../../host/tc.ts';
import { addFilterAddress, listFilterAddresses, removeFilterAddress } from '../../../host/unicast-filter.ts';

interface Changes {
  /** Interface index: one that was removed and added again has none of our changes. */
  index: number;
  clsact: boolean;
  allMulticast: boolean;
  promiscuous: boolean;
  macs: number[];
}

export class UplinkChanges {
  #record: JsonRecord<Changes>;
  #log: { info(o: object, m: string): void };

  /** `runDir` is emptied by a reboot, which also resets the interfaces. */
  constructor(runDir: string, log: { info(o: object, m: string): void }) {
    this.#record = new JsonRecord(`${runDir}/uplinks.json`);
    this.#log = log;
  }

  /** Interfaces with recorded changes. */
  uplinks(): string[] {
    return [...this.#record.entries.keys()];
  }

  async ensureClsact(uplink: Link): Promise<void> {
    if (await hasClsact(uplink.name)) return;
    this.#of(uplink).clsact = true;
    this.#record.save();
    await ensureClsact(uplink.name);
  }

  /** Makes the interface receive frames to these addresses, and to all groups. */
  async receive(uplink: Link, macs: readonly number[]): Promise<void> {
    const changes = this.#of(uplink);
    const present = listFilterAddresses(uplink.name);
    for (const mac of changes.macs.filter((m) => !macs.includes(m))) {
      if (present.has(mac)) await removeFilterAddress(uplink.name, mac);
      changes.macs = changes.macs.filter((m) => m !== mac);
      this.#record.save();
    }
    const missing = macs.filter((m) => !present.has(m));
    if (missing.length > 0 && !changes.promiscuous) await this.#addAddresses(uplink, changes, missing);
    if (changes.promiscuous && !uplink.promiscuous) changeLinks([{ change: 'set', name: uplink.name, set: { promiscuous: true } }]);
    if (!uplink.allMulticast) {
      changes.allMulticast = true;
      this.#record.save();
      changeLinks([{ change: 'set', name: uplink.name, set: { allMulticast: true } }]);
    }
  }

  async #addAddresses(uplink: Link, changes: Changes, macs: readonly number[]): Promise<void> {
    changes.macs = [...new Set([...changes.macs, ...macs])];
    this.#record.save();
    try {
      for (const mac of macs) await addFilterAddress(uplink.name, mac);
    } catch (cause) {
      if (uplink.promiscuous) return;
      this.#log.info({ uplink: uplink.name, error: (cause as Error).message }, 'the interface cannot filter by several addresses: using promiscuous mode');
      changes.promiscuous = true;
      this.#record.save();
    }
  }

  /** Undoes all changes to an interface; `uplink` is undefined if it does not exist. */
  async undo(name: string, uplink: Link | undefined): Promise<void> {
    const changes = this.#record.entries.get(name);
    if (!changes) return;
    if (changes.index === uplink?.index) {
      if (changes.clsact && !(await hasFilters(name))) await removeClsact(name);
      const present = listFilterAddresses(name);
      for (const mac of changes.macs) if (present.has(mac)) await removeFilterAddress(name, mac);
      const set: LinkSettings = { ...(changes.allMulticast ? { allMulticast: false } : {}), ...(changes.promiscuous ? { promiscuous: false } : {}) };
      if (Object.keys(set).length > 0) changeLinks([{ change: 'set', name, set }]);
    }
    this.#record.entries.delete(name);
    this.#record.save();
  }

  #of(uplink: Link): Changes {
    const known = this.#record.entries.get(uplink.name);
    if (known?.index === uplink.index) return known;
    const none: Changes = { index: uplink.index, clsact: false, allMulticast: false, promiscuous: false, macs: [] };
    this.#record.entries.set(uplink.name, none);
    return none;
  }
}
