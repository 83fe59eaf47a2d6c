/**
 * The address of a NIC whose guest may set one by itself (B50): pure.
 *
 * Theory of operation: the host's ARP table has every address with which a guest contacted the gateway or announced
 * itself; the guard's claims have those with which it contacted others. A pair of MAC and address that was not there
 * before is new. The newest pair is the NIC's address, until its guest asks for a lease again. What the first poll
 * finds is older than any lease. The engine makes the kernel forget an address that its guest has given up, so that its
 * return is new.
 *
 * Limits: a guest that never sends ARP on its network is not seen.
 */
import type { Neighbour } from '../../../host/netlink/neighbours.ts';

export interface KnownNic {
  id: string;
  mac: number;
  /** The lease in force, and when the guest last asked for it (milliseconds since 1970). */
  leaseIp: number | null;
  lastDhcp: number | null;
}

export class StaticAddresses {
  /** When a NIC was first seen with an address, by `id/ip`. */
  readonly #firstSeen = new Map<string, number>();
  /** The address that a NIC's guest has set, and when that was seen. */
  readonly #static = new Map<string, { ip: number; since: number }>();

  /**
   * Takes the current ARP table. Returns the address that each NIC's guest has set. `canHave`: the NIC may have the
   * address on its network.
   */
  update(nics: readonly KnownNic[], neighbours: readonly Neighbour[], canHave: (nic: KnownNic, n: Neighbour) => boolean, now: number): Map<string, number> {
    const byMac = new Map(nics.map((n) => [n.mac, n]));
    const present = new Set<string>();
    for (const n of neighbours) {
      const nic = byMac.get(n.mac);
      if (!nic) continue;
      const key = `${nic.id}/${n.ip}`;
      present.add(key);
      if (this.#firstSeen.has(key)) continue;
      this.#firstSeen.set(key, now);
      if (n.ip === nic.leaseIp) this.#static.delete(nic.id);
      else if (canHave(nic, n)) this.#static.set(nic.id, { ip: n.ip, since: now });
    }
    for (const key of this.#firstSeen.keys()) if (!present.has(key)) this.#firstSeen.delete(key);
    const result = new Map<string, number>();
    for (const [id, s] of this.#static) {
      const nic = nics.find((n) => n.id === id);
      // ARP may show a leased address before the service reports the lease
      const leased = nic?.leaseIp === s.ip;
      if (!nic || leased || (nic.lastDhcp ?? 0) > s.since) this.#static.delete(id);
      else result.set(id, s.ip);
    }
    return result;
  }

  /** The guest no longer answers for an address. When it returns, it is new. */
  forgetAddress(id: string, ip: number): void {
    this.#firstSeen.delete(`${id}/${ip}`);
  }

  /** The NIC was detached. */
  forget(id: string): void {
    this.#static.delete(id);
    for (const key of this.#firstSeen.keys()) if (key.startsWith(`${id}/`)) this.#firstSeen.delete(key);
  }
}
