/**
 * The addresses of one subnet, and their owners.
 *
 * Theory of operation: a lease belongs to a NIC by the VM's id, never to a client identifier, which clones share (B23).
 * A NIC gets its previous address while no other NIC has it. A new NIC gets the address that was free for the longest
 * time, unused ones first. An address may also be reserved (`--ip`), claimed by a guest that configured it statically,
 * or in quarantine after a guest declined it. Pure: time is an argument.
 *
 * Limits: one address per NIC; subnets of /16 to /29. The gateway (.1), network and broadcast addresses are never
 * leased.
 */
import { broadcastOf, gatewayOf, type SubnetLike } from '../../wire/address.ts';

export interface Lease {
  id: string;
  ip: number;
  /** By the clock of `now`, ms. An offer expires soon. */
  expires: number;
  /** False while it is offered only. */
  bound: boolean;
}

const OFFER_MS = 30_000;
const QUARANTINE_MS = 600_000;
/** How long an address is not leased that an unknown host uses. */
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
  /** Last owner of each free address; in order of release. */
  #remembered = new Map<number, string>();
  #quarantine = new Map<number, number>();
  #reserved = new Map<string, number>();
  #claimed = new Map<string, number>();
  #assigned = new Map<number, string>();
  #unused: number;

  constructor(subnet: SubnetLike) {
    this.subnet = subnet;
    this.#low = gatewayOf(subnet) + 1;
    this.#high = broadcastOf(subnet) - 1;
    this.size = this.#high - this.#low + 1;
    this.#unused = this.#low;
  }

  /**
   * Sets the reserved and the self-set main address of every NIC, and the owners of all other self-set addresses; no
   * other NIC gets them.
   */
  setOwners(reserved: ReadonlyMap<string, number>, claimed: ReadonlyMap<string, number>, others: ReadonlyMap<number, string> = new Map()): void {
    this.#reserved = new Map(reserved);
    this.#claimed = new Map(claimed);
    this.#assigned = new Map(others);
    for (const [id, ip] of claimed) this.#assigned.set(ip, id);
    for (const [id, ip] of reserved) this.#assigned.set(ip, id);
  }

  contains(ip: number): boolean {
    return ip >= this.#low && ip <= this.#high;
  }

  /** The NIC's lease or offer, unless it has expired. */
  lease(id: string, now: number): Lease | null {
    const l = this.#byId.get(id);
    return l && l.expires > now ? l : null;
  }

  /** The owner of an address: by lease, reservation or claim. */
  ownerOf(ip: number, now: number): string | null {
    const l = this.#byIp.get(ip);
    return (l && l.expires > now ? l.id : null) ?? this.#assigned.get(ip) ?? null;
  }

  /** All leases that are bound and have not expired. */
  leases(now: number): Lease[] {
    return [...this.#byIp.values()].filter((l) => l.bound && l.expires > now);
  }

  /** What is stored: leases, and the last owners of free addresses (as leases that expired at 0). */
  snapshot(): Lease[] {
    const past = [...this.#remembered].filter(([, id]) => id !== '').map(([ip, id]) => ({ id, ip, expires: 0, bound: false }));
    return [...past, ...[...this.#byIp.values()].filter((l) => l.bound)];
  }

  /** Restores a snapshot. */
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
   * Offers the NIC an address, and holds it for a short time; null when the pool is exhausted. `requested` is offered
   * if it is free.
   */
  offer(id: string, requested: number, now: number): number | null {
    const ip = this.#choose(id, requested, now);
    if (ip === null) return null;
    const current = this.lease(id, now);
    if (current?.ip === ip) return ip;
    this.#set({ id, ip, expires: now + OFFER_MS, bound: false });
    return ip;
  }

  /** The address that `offer` would return, without holding it. */
  peek(id: string, requested: number, now: number): number | null {
    return this.#choose(id, requested, now);
  }

  /** Whether the NIC was the last owner of the address. */
  hadLast(id: string, ip: number): boolean {
    return this.#byIp.get(ip)?.id === id || this.#remembered.get(ip) === id;
  }

  /** An unknown host uses the address: it is not leased for a minute. */
  conflict(ip: number, now: number): void {
    this.#quarantine.set(ip, now + CONFLICT_MS);
  }

  /** Leases an address for `ms`; false when the NIC cannot have it. */
  bind(id: string, ip: number, ms: number, now: number): boolean {
    if (!this.contains(ip) || !this.#canHave(id, ip, now)) return false;
    const wanted = this.#reserved.get(id);
    if (wanted !== undefined && wanted !== ip) return false;
    this.#set({ id, ip, expires: now + ms, bound: true });
    return true;
  }

  /** Releases the NIC's address; the NIC is remembered as its last owner. */
  release(id: string): void {
    const l = this.#byId.get(id);
    if (l) this.#drop(l);
  }

  /** Releases the NIC's address, and forgets the NIC: the VM was deleted. */
  forget(id: string): void {
    const l = this.#byId.get(id);
    if (l) this.#drop(l);
    for (const [ip, owner] of this.#remembered) {
      if (owner !== id) continue;
      // free for every NIC, but last in the queue, so that it is not reused soon
      this.#remembered.delete(ip);
      this.#remembered.set(ip, '');
    }
  }

  /** A guest found the address in use: it is not leased for ten minutes. */
  decline(id: string, ip: number, now: number): void {
    const l = this.#byId.get(id);
    if (!l || l.ip !== ip) return;
    this.#drop(l);
    this.#quarantine.set(ip, now + QUARANTINE_MS);
  }

  #canHave(id: string, ip: number, now: number): boolean {
    // a reservation or a claim overrides an older lease
    const owner = this.#assigned.get(ip) ?? this.ownerOf(ip, now);
    if (owner !== null && owner !== id) return false;
    return (this.#quarantine.get(ip) ?? 0) <= now;
  }

  #choose(id: string, requested: number, now: number): number | null {
    const reserved = this.#reserved.get(id);
    if (reserved !== undefined) return this.#canHave(id, reserved, now) ? reserved : null;
    const claimed = this.#claimed.get(id);
    if (claimed !== undefined && this.contains(claimed) && this.#canHave(id, claimed, now)) return claimed;
    const current = this.#byId.get(id);
    if (current && this.contains(current.ip) && this.#canHave(id, current.ip, now)) return current.ip;
    for (const [ip, owner] of this.#remembered) if (owner === id && this.#canHave(id, ip, now)) return ip;
    if (requested && this.contains(requested) && this.#canHave(id, requested, now) && !this.#remembered.get(requested)) return requested;
    for (; this.#unused <= this.#high; this.#unused++) if (!this.#remembered.has(this.#unused) && this.#canHave(id, this.#unused, now)) return this.#unused;
    for (const ip of this.#remembered.keys()) if (this.#canHave(id, ip, now)) return ip;
    return this.#oldestExpired(id, now);
  }

  #oldestExpired(id: string, now: number): number | null {
    let best: Lease | null = null;
    for (const l of this.#byIp.values()) if (l.expires <= now && (best === null || l.expires < best.expires) && this.#canHave(id, l.ip, now)) best = l;
    if (best) return best.ip;
    // addresses skipped while they were assigned or in quarantine
    for (let ip = this.#low; ip <= this.#high; ip++) if (!this.#byIp.has(ip) && this.#canHave(id, ip, now)) return ip;
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
