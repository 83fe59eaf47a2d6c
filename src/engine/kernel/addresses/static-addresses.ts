/**
 * Which address a card has, when its guest may set one by itself (B50): pure.
 *
 * Theory of operation: the host's ARP table shows every address under which a guest spoke to the gateway or announced
 * itself, and the guard's claims those under which it asked for others. A pair of MAC and address that was not there
 * before is news; the newest news is the card's address, until its guest asks for a lease again. What was there at the
 * first look is older than any lease. The engine makes the kernel forget an address that its guest has left, so that
 * its return is news. Limits: a guest that never sends ARP for anything on its network is not seen.
 */
import type { Neighbour } from '../../../host/netlink/neighbours.ts';

export interface KnownNic {
  id: string;
  mac: number;
  /** Lease in force, and when the guest last asked for it (milliseconds since 1970). */
  leaseIp: number | null;
  lastDhcp: number | null;
}

export class StaticAddresses {
  #seen = new Map<string, number>();
  #static = new Map<string, { ip: number; since: number }>();

  /**
   * Takes the ARP table of now, and gives every card's self-set address. `allowed` tells which addresses of a card's
   * network may be claimed.
   */
  update(nics: readonly KnownNic[], neighbours: readonly Neighbour[], allowed: (nic: KnownNic, n: Neighbour) => boolean, now: number): Map<string, number> {
    const byMac = new Map(nics.map((n) => [n.mac, n]));
    const present = new Set<string>();
    for (const n of neighbours) {
      const nic = byMac.get(n.mac);
      if (!nic) continue;
      const key = `${nic.id}/${n.ip}`;
      present.add(key);
      if (this.#seen.has(key)) continue;
      this.#seen.set(key, now);
      if (n.ip === nic.leaseIp) this.#static.delete(nic.id);
      else if (allowed(nic, n)) this.#static.set(nic.id, { ip: n.ip, since: now });
    }
    for (const key of this.#seen.keys()) if (!present.has(key)) this.#seen.delete(key);
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

  /** The guest does not answer for an address any more: if it comes back, that is news. */
  left(id: string, ip: number): void {
    this.#seen.delete(`${id}/${ip}`);
  }

  /** The card was pulled out: what was learned of it is over. */
  forget(id: string): void {
    this.#static.delete(id);
    for (const key of this.#seen.keys()) if (key.startsWith(`${id}/`)) this.#seen.delete(key);
  }
}
