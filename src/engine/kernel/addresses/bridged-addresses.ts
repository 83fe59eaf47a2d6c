/**
 * Addresses of bridge-type cards, which another's DHCP server gave, or their guests have set (B52).
 *
 * Theory of operation: the guard notes, in a set of nft with a timeout, every pair of Ethernet and IPv4 address that a
 * bridged guest claims by ARP, and in another set what DHCP servers give to it. Each use renews the timeout, so the
 * pair with the longest time to go is the newest. Sets are emptied when rules change; what was known is kept here, and
 * in a file, until a newer pair is seen. Limits: the time is known by the second. A guest with several addresses is
 * shown with the one that it used last. IPv4.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { readAddressPairs } from '../../../host/nft.ts';
import type { DesiredNic } from '../../engine.ts';
import { ADDRESS_SETS } from '../rules/ruleset.ts';

export class BridgedAddresses {
  #path: string;
  /** By card, with the uplink that it was seen on. */
  #known: Record<string, { mac: number; uplink: string; ip: number }> | null = null;

  /** Addresses of a card at the last look. */
  #seen = new Map<string, ReadonlySet<number>>();

  constructor(runDir: string) {
    this.#path = `${runDir}/bridged-addresses.json`;
  }

  addressOf(nic: DesiredNic): number | null {
    const k = this.#load()[nic.id];
    return k && nic.type === 'bridge' && k.mac === nic.outsideMac && k.uplink === this.#place(nic) ? k.ip : null;
  }

  /** Looks; true when an address changed. */
  async look(nics: readonly DesiredNic[]): Promise<boolean> {
    const all = this.#load();
    let changed = false;
    const bridged = nics.filter((n) => n.type === 'bridge');
    for (const id of Object.keys(all)) {
      if (bridged.some((n) => n.id === id)) continue;
      delete all[id];
      this.#seen.delete(id);
      changed = true;
    }
    if (bridged.length > 0) {
      const pairs = (await Promise.all(ADDRESS_SETS.map((s) => readAddressPairs('bridge', 'anka', s)))).flat();
      for (const nic of bridged) {
        const mine = pairs.filter((p) => p.mac === nic.outsideMac && p.ip !== 0);
        if (mine.length === 0) continue;
        const known = this.addressOf(nic);
        const newest = Math.max(...mine.map((p) => p.expires));
        const before = this.#seen.get(nic.id);
        this.#seen.set(nic.id, new Set(mine.map((p) => p.ip)));
        // of several in the same second the one that is news, else the one that we have
        const rank = (ip: number): number => (before && !before.has(ip) ? 0 : ip === known ? 1 : 2);
        const best = mine.filter((p) => p.expires === newest).sort((a, b) => rank(a.ip) - rank(b.ip))[0];
        if (!best || best.ip === known) continue;
        all[nic.id] = { mac: nic.outsideMac, uplink: this.#place(nic), ip: best.ip };
        changed = true;
      }
    }
    if (changed) this.#save();
    return changed;
  }

  #place(nic: DesiredNic): string {
    return `${nic.bridge ?? ''}/${nic.vlan ?? ''}`;
  }

  #save(): void {
    writeFileSync(`${this.#path}.part`, JSON.stringify(this.#load()), { mode: 0o600 });
    renameSync(`${this.#path}.part`, this.#path);
  }

  #load(): Record<string, { mac: number; uplink: string; ip: number }> {
    if (this.#known) return this.#known;
    let text = '{}';
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch {
      // nothing was seen yet
    }
    this.#known = JSON.parse(text) as Record<string, { mac: number; uplink: string; ip: number }>;
    return this.#known;
  }
}
