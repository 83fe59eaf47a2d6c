/**
 * The addresses of one subnet, and who has them.
 *
 * Theory of operation: a lease belongs to a NIC, by the VM's id, never to a client identifier, which clones share
 * (B23). The same NIC gets the same address again while nobody else has it; a new NIC gets the address that was free
 * for the longest time, fresh ones first. An address may also be reserved (`--ip`), claimed by a guest that set it by
 * itself (static), or in quarantine after a guest declined it. Pure: time is an argument.
 *
 * Limits: one address per NIC; subnets of /16 to /29. The gateway (.1), network and broadcast address are never given
 * out.
 */
import { broadcastOf, gatewayOf, type SubnetLike } from '../../wire/address.ts';

export interface Lease {
  id: string;
  ip: number;
  /** Milliseconds since 1970. An offer that was not taken up ends soon. */
  expires: number;
  /** False while it is only offered. */
  bound: boolean;
}

const OFFER_MS = 30_000;
const QUARANTINE_MS = 600_000;
/** How long an address rests that somebody unknown uses. */
const CONFLICT_MS = 60_000;
/** Remembered owners of free addresses; the oldest is forgotten first. */
const MAX_REMEMBERED = 65_536;

export class AddressPool {
  readonly subnet: SubnetLike;
  readonly size: number;
  #low: number;
  #high: number;
  #byIp = new Map<number, Lease>();
  #byId = new Map<string, Lease>();
  /** Who had a free address last; in order of release. */
  #remembered = new Map<number, string>();
  #quarantine = new Map<number, number>();
  #reserved = new Map<string, number>();
  #static = new Map<string, number>();
  #taken = new Map<number, string>();
  #fresh: number;

  constructor(subnet: SubnetLike) {
    this.subnet = subnet;
    this.#low = gatewayOf(subnet) + 1;
    this.#high = broadcastOf(subnet) - 1;
    this.size = this.#high - this.#low + 1;
    this.#fresh = this.#low;
  }

  /** Sets every NIC's reservation and self-set address; what they hold is given to no other. */
  setOwners(reserved: ReadonlyMap<string, number>, claimed: ReadonlyMap<string, number>): void {
    this.#reserved = new Map(reserved);
    this.#static = new Map(claimed);
    this.#taken = new Map();
    for (const [id, ip] of claimed) this.#taken.set(ip, id);
    for (const [id, ip] of reserved) this.#taken.set(ip, id);
  }

  contains(ip: number): boolean {
    return ip >= this.#low && ip <= this.#high;
  }

  /** The lease that is in force. */
  lease(id: string, now: number): Lease | null {
    const l = this.#byId.get(id);
    return l && l.expires > now ? l : null;
  }

  /** Who has the address now: a lease, a reservation or a claim. */
  ownerOf(ip: number, now: number): string | null {
    const l = this.#byIp.get(ip);
    return (l && l.expires > now ? l.id : null) ?? this.#taken.get(ip) ?? null;
  }

  /** All leases in force that were taken up. */
  leases(now: number): Lease[] {
    return [...this.#byIp.values()].filter((l) => l.bound && l.expires > now);
  }

  /** Everything worth keeping: leases, and who had the free addresses last (as leases that ended at 0). */
  snapshot(): Lease[] {
    const past = [...this.#remembered].filter(([, id]) => id !== '').map(([ip, id]) => ({ id, ip, expires: 0, bound: false }));
    return [...past, ...[...this.#byIp.values()].filter((l) => l.bound)];
  }

  /** Puts back what was saved. */
  restore(leases: readonly Lease[]): void {
    for (const l of leases) {
      if (!this.contains(l.ip) || this.#byIp.has(l.ip) || this.#byId.has(l.id)) continue;
      if (!l.bound) {
        this.#remembered.set(l.ip, l.id);
        continue;
      }
      this.#byIp.set(l.ip, { ...l });
      this.#byId.set(l.id, this.#byIp.get(l.ip) as Lease);
    }
  }

  /**
   * The address this NIC shall have, held for it for a moment; null when the pool is exhausted. `wish` is honoured when
   * it is free.
   */
  offer(id: string, wish: number, now: number): number | null {
    const ip = this.#choose(id, wish, now);
    if (ip === null) return null;
    const current = this.lease(id, now);
    if (current?.ip === ip) return ip;
    this.#set({ id, ip, expires: now + OFFER_MS, bound: false });
    return ip;
  }

  /** The address that `offer` would give, without holding it. */
  peek(id: string, wish: number, now: number): number | null {
    return this.#choose(id, wish, now);
  }

  /** Whether the NIC was the last to have the address. */
  hadLast(id: string, ip: number): boolean {
    return this.#byIp.get(ip)?.id === id || this.#remembered.get(ip) === id;
  }

  /** Somebody whom we do not know uses the address: it rests for a minute. */
  conflict(ip: number, now: number): void {
    this.#quarantine.set(ip, now + CONFLICT_MS);
  }

  /** Takes up an address for `ms`; false when this NIC may not have it. */
  bind(id: string, ip: number, ms: number, now: number): boolean {
    if (!this.contains(ip) || !this.#mayHave(id, ip, now)) return false;
    const wanted = this.#reserved.get(id);
    if (wanted !== undefined && wanted !== ip) return false;
    this.#set({ id, ip, expires: now + ms, bound: true });
    return true;
  }

  /** Gives an address back; it is remembered for the NIC. */
  release(id: string): void {
    const l = this.#byId.get(id);
    if (l) this.#drop(l);
  }

  /** Gives back and forgets: the VM was deleted. */
  forget(id: string): void {
    const l = this.#byId.get(id);
    if (l) this.#drop(l);
    for (const [ip, owner] of this.#remembered) {
      if (owner !== id) continue;
      // free for anybody, but last in the queue, so that it rests
      this.#remembered.delete(ip);
      this.#remembered.set(ip, '');
    }
  }

  /** A guest found the address in use: nobody gets it for ten minutes. */
  decline(id: string, ip: number, now: number): void {
    const l = this.#byId.get(id);
    if (!l || l.ip !== ip) return;
    this.#drop(l);
    this.#quarantine.set(ip, now + QUARANTINE_MS);
  }

  #mayHave(id: string, ip: number, now: number): boolean {
    // a reservation or a claim is stronger than a lease of before
    const owner = this.#taken.get(ip) ?? this.ownerOf(ip, now);
    if (owner !== null && owner !== id) return false;
    return (this.#quarantine.get(ip) ?? 0) <= now;
  }

  #choose(id: string, wish: number, now: number): number | null {
    const reserved = this.#reserved.get(id);
    if (reserved !== undefined) return this.#mayHave(id, reserved, now) ? reserved : null;
    const claimed = this.#static.get(id);
    if (claimed !== undefined && this.contains(claimed) && this.#mayHave(id, claimed, now)) return claimed;
    const current = this.#byId.get(id);
    if (current && this.contains(current.ip) && this.#mayHave(id, current.ip, now)) return current.ip;
    for (const [ip, owner] of this.#remembered) if (owner === id && this.#mayHave(id, ip, now)) return ip;
    if (wish && this.contains(wish) && this.#mayHave(id, wish, now) && !this.#remembered.get(wish)) return wish;
    for (; this.#fresh <= this.#high; this.#fresh++) if (!this.#remembered.has(this.#fresh) && this.#mayHave(id, this.#fresh, now)) return this.#fresh;
    for (const ip of this.#remembered.keys()) if (this.#mayHave(id, ip, now)) return ip;
    return this.#oldestExpired(id, now);
  }

  #oldestExpired(id: string, now: number): number | null {
    let best: Lease | null = null;
    for (const l of this.#byIp.values()) if (l.expires <= now && (best === null || l.expires < best.expires) && this.#mayHave(id, l.ip, now)) best = l;
    if (best) return best.ip;
    // addresses passed over while they were taken or in quarantine
    for (let ip = this.#low; ip <= this.#high; ip++) if (!this.#byIp.has(ip) && this.#mayHave(id, ip, now)) return ip;
    return null;
  }

  #set(lease: Lease): void {
    const mine = this.#byId.get(lease.id);
    if (mine && mine.ip !== lease.ip) this.#drop(mine);
    const theirs = this.#byIp.get(lease.ip);
    if (theirs && theirs.id !== lease.id) this.#byId.delete(theirs.id);
    this.#remembered.delete(lease.ip);
    this.#byIp.set(lease.ip, lease);
    this.#byId.set(lease.id, lease);
  }

  #drop(lease: Lease): void {
    this.#byIp.delete(lease.ip);
    this.#byId.delete(lease.id);
    this.#remembered.delete(lease.ip);
    this.#remembered.set(lease.ip, lease.id);
    if (this.#remembered.size > MAX_REMEMBERED) this.#remembered.delete(this.#remembered.keys().next().value as number);
  }
}
