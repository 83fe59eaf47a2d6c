/**
 * Addresses of NICs of type bridge, which come from the network's own DHCP server or which their guests have set (B52).
 *
 * Theory of operation: the guard records in an nft set every pair of Ethernet and IPv4 address that a bridged guest
 * claims by ARP, and in another set what DHCP servers assign to it. Each use renews the element's timeout, so the pair
 * that expires last is the newest. Both sets are emptied when the rules change. The last known address is therefore
 * kept here, and in a file, until a newer pair is seen.
 *
 * Limits: IPv4. The expiry has a resolution of one second. Of several addresses of a guest, the last used is its main
 * one.
 */
import { JsonRecord } from '../../../host/json-record.ts';
import { readSet } from '../../../host/netlink/sets.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import type { DesiredNic, ObservedAddress } from '../../engine.ts';
import { ADDRESS_SECONDS, ADDRESS_SETS } from '../rules/bridge-table.ts';

/** The last known address of a NIC, valid for this MAC address on this uplink. */
interface KnownAddress {
  mac: number;
  uplink: string;
  ip: number;
}

export class BridgedAddresses {
  /** By NIC id. */
  readonly #known: JsonRecord<KnownAddress>;
  /** Addresses of each NIC in the sets at the last poll: since when, and when they were last used. */
  readonly #seen = new Map<string, Map<number, { since: number; heard: number }>>();

  constructor(runDir: string) {
    this.#known = new JsonRecord(`${runDir}/bridged-addresses.json`);
  }

  addressOf(nic: DesiredNic): number | null {
    const known = this.#known.entries.get(nic.id);
    return known && nic.type === 'bridge' && known.mac === nic.outsideMac && known.uplink === uplinkOf(nic) ? known.ip : null;
  }

  /** All addresses of the NIC, the known one first. */
  addressesOf(nic: DesiredNic): ObservedAddress[] {
    const known = this.addressOf(nic);
    const seen = this.#seen.get(nic.id) ?? new Map<number, { since: number; heard: number }>();
    const now = monotonicMs();
    return [...new Set([...(known === null ? [] : [known]), ...seen.keys()])].map((ip) => {
      const { since, heard } = seen.get(ip) ?? { since: now, heard: null };
      return { ip, source: ip === known ? 'static' : 'virtual', age: now - since, heard: heard === null ? null : now - heard };
    });
  }

  /** Reads the sets. True when an address changed. */
  poll(nics: readonly DesiredNic[]): boolean {
    const known = this.#known.entries;
    let changed = false;
    const bridged = nics.filter((n) => n.type === 'bridge');
    for (const id of known.keys()) {
      if (bridged.some((n) => n.id === id)) continue;
      known.delete(id);
      this.#seen.delete(id);
      changed = true;
    }
    if (bridged.length > 0) {
      const pairs = ADDRESS_SETS.flatMap(readAddressPairs);
      for (const nic of bridged) {
        const ip = this.#newestAddress(nic, pairs);
        if (ip === null || ip === this.addressOf(nic)) continue;
        known.set(nic.id, { mac: nic.outsideMac, uplink: uplinkOf(nic), ip });
        changed = true;
      }
    }
    if (changed || this.#known.unsaved) this.#known.trySave();
    return changed;
  }

  /** Null when the sets have no address of the NIC. */
  #newestAddress(nic: DesiredNic, pairs: readonly { mac: number; ip: number; expires: number }[]): number | null {
    const own = pairs.filter((p) => p.mac === nic.outsideMac && p.ip !== 0);
    if (own.length === 0) return null;
    const known = this.addressOf(nic);
    const latest = Math.max(...own.map((p) => p.expires));
    const before = this.#seen.get(nic.id);
    const now = monotonicMs();
    const use = ({ ip, expires }: { ip: number; expires: number }) => ({
      since: before?.get(ip)?.since ?? now,
      heard: now - (ADDRESS_SECONDS - expires) * 1000,
    });
    this.#seen.set(nic.id, new Map(own.map((p) => [p.ip, use(p)])));
    // several in the same second: prefer one that the last poll did not have, then the known one
    const rank = (ip: number): number => (before && !before.has(ip) ? 0 : ip === known ? 1 : 2);
    return own.filter((p) => p.expires === latest).sort((a, b) => rank(a.ip) - rank(b.ip))[0]?.ip ?? null;
  }
}

/** The interface and VLAN that a NIC is bridged to. */
function uplinkOf(nic: DesiredNic): string {
  return `${nic.bridge ?? ''}/${nic.vlan ?? ''}`;
}

/** Ethernet addresses (padded to eight bytes) and IPv4 addresses of one of the guard's sets. `expires` in seconds. */
function readAddressPairs(set: string): { mac: number; ip: number; expires: number }[] {
  return readSet('bridge', 'anka', set).flatMap(({ key, expires = 0 }) =>
    key.length < 12 ? [] : { mac: key.readUIntBE(0, 6), ip: key.readUInt32BE(8), expires },
  );
}
