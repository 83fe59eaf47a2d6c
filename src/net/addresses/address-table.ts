/**
 * Which card of a network owns which IPv4 addresses (B50, B51): pure, for both engines. Read RFC 5227 first.
 *
 * Theory of operation: a card owns its lease, its reservation, and addresses that its guest sets itself: it claims them
 * by ARP while nobody owns them. `claim` decides about the sender address of each ARP packet. A claim of an address
 * that another card owns is refused. Only if the address is virtual there, the claim is also noted, and the owner is
 * asked by ARP: while it answers, nothing changes. After `CONTEST_PROBES` requests without an answer the address moves,
 * and the caller announces it. Until then the claimant may send nothing from it. A lease, a reservation and the main
 * address of a card never move to another card.
 *
 * When a guest claims an address, uses DHCP, or returns to an address, it is asked for its other ones, and for the one
 * that it claims. Those that it no longer answers for are dropped, or if they are assigned to it, marked as silent, so
 * that its main address is the one that it uses. While it answers for none, its lease stays the main one, and its
 * claims are virtual: a guest that announced an address and vanished keeps nobody from taking it over. A virtual
 * address that was not heard for ten minutes is asked for as well.
 *
 * Call order: set `leaseIp` and `reservedIp` of the cards, then `setCards`; `claim` and `onDhcp` as they happen; `poll`
 * at `pollAt` and once a second, which returns the requests to send. `onChange` is called when an owner or a main
 * address changed.
 *
 * Limits: 16 self-set addresses per card, and 16 new claims per second. 64 addresses are asked for at once, further
 * ones later. A guest that answers no ARP within 1.2 s loses a virtual address to a card that claims it.
 */
import type { SubnetLike } from '../../wire/address.ts';
import { canClaim, networkAddresses } from '../policy/addresses.ts';
import { type CardAddresses, MAX_CLAIMS, newUse } from './card-addresses.ts';

/** Between two requests for an address, ms. */
export const PROBE_MS = 200;
/** Requests before a card's own address counts as silent, and before one that another card claims moves. */
const OWN_PROBES = 4;
const CONTEST_PROBES = 6;
/** After an answer of the owner, the next claim waits for so long. */
const QUIET_MS = 1000;
/** A virtual address is asked for after so long without ARP. */
const EXPIRY_MS = 600_000;
const MAX_PROBED = 64;

interface Probing<C> {
  owner: C;
  ip: number;
  /** Claims the address. */
  claimant: C | null;
  left: number;
  next: number;
  /** The owner keeps the address without an answer, but not as its main one. */
  keeps: boolean;
}

export type AddressAction<C> =
  /** Ask the card's guest by ARP for the address. */
  | { kind: 'probe'; card: C; ip: number }
  /** Announce by gratuitous ARP that the card has the address now. */
  | { kind: 'moved'; card: C; ip: number };

export class AddressTable<C extends CardAddresses> {
  readonly #subnet: SubnetLike;
  readonly #onChange: () => void;
  #cards: readonly C[] = [];
  /** Null: owned by the network itself, or by a VM that is not attached. */
  #owners = new Map<number, C | null>();
  #absent: readonly number[] = [];
  /** By address. */
  readonly #probing = new Map<number, Probing<C>>();
  #lastLook = Number.NEGATIVE_INFINITY;

  constructor(subnet: SubnetLike, onChange: () => void) {
    this.#subnet = subnet;
    this.#onChange = onChange;
    this.#refresh();
  }

  get cards(): readonly C[] {
    return this.#cards;
  }

  /** Addresses assigned to VMs that are not attached. */
  get absent(): readonly number[] {
    return this.#absent;
  }

  /** Sets all cards, with their leases and reservations. `absent`: addresses assigned to VMs that are not attached. */
  setCards(cards: readonly C[], absent: readonly number[], now: number): void {
    this.#cards = cards;
    this.#absent = absent;
    const assigned = new Set([...absent, ...cards.flatMap((c) => [c.leaseIp, c.reservedIp])]);
    for (const c of cards) {
      const before = new Map(c.assigned);
      c.assigned.clear();
      for (const ip of [c.leaseIp, c.reservedIp]) if (ip >= 0) c.assigned.set(ip, c.claims.get(ip) ?? before.get(ip) ?? newUse(now));
      for (const ip of c.claims.keys()) if (assigned.has(ip)) c.claims.delete(ip);
      // a self-set address becomes the main one only if its guest answers
      if ([...before.keys()].some((ip) => !c.assigned.has(ip))) this.#askForOthers(c, -1, now);
    }
    this.#refresh();
    for (const p of this.#probing.values()) {
      if (p.claimant && !cards.includes(p.claimant)) p.claimant = null;
      const owned = cards.includes(p.owner) && p.owner.owns(p.ip);
      // its owner was detached: the claim is settled at the next poll
      if (!owned && p.claimant) Object.assign(p, { left: 0, next: now });
      else if (!owned) this.#probing.delete(p.ip);
    }
  }

  /** The card that owns the address; null: the network itself or a VM that is not attached; undefined: nobody. */
  ownerOf(ip: number): C | null | undefined {
    return this.#owners.get(ip);
  }

  /** Addresses that would move to another card that claims them. */
  virtual(): number[] {
    return this.#cards.flatMap((c) => [...c.claims.keys()].filter((ip) => c.isVirtual(ip)));
  }

  /** The card's guest sent ARP from the address. `answers`: in answer to a request. Null: it may. */
  claim(card: C, ip: number, now: number, answers = false): 'arp_spoof' | 'address_limit' | null {
    const owner = this.#owners.get(ip);
    if (owner === card) {
      this.#heard(card, ip, now, answers);
      return null;
    }
    if (owner !== undefined) return this.#contest(card, owner, ip, now);
    if (!canClaim(this.#subnet, ip, false)) return 'arp_spoof';
    if (!card.claimRate.take(now)) return 'address_limit';
    this.#take(card, ip, now);
    return null;
  }

  /** Its guest was leased an address, or renewed it: the lease counts, and the others only if the guest answers. */
  onDhcp(card: C, now: number): void {
    const use = card.use(card.leaseIp);
    if (use) Object.assign(use, { heard: now, silent: false });
    this.#askForOthers(card, card.leaseIp, now);
    this.#settle();
  }

  /** The card was detached: it keeps what is assigned to it only. */
  release(card: C): void {
    for (const p of this.#probing.values()) if (p.owner === card && !p.claimant) this.#probing.delete(p.ip);
    card.claims.clear();
    this.#settle();
  }

  /** Adopts addresses that a card's guest had set before this process started, in their order. */
  restore(card: C, ips: readonly number[], now: number): void {
    for (const ip of ips.slice(0, MAX_CLAIMS))
      if (this.#owners.get(ip) === undefined && canClaim(this.#subnet, ip, false)) card.claims.set(ip, newUse(now, now));
    this.#refresh();
  }

  /** When `poll` is due; null: at the next event. */
  pollAt(): number | null {
    let at: number | null = null;
    for (const p of this.#probing.values()) if (at === null || p.next < at) at = p.next;
    return at;
  }

  poll(now: number): AddressAction<C>[] {
    if (now - this.#lastLook >= 1000) this.#askForUnheard(now);
    const actions: AddressAction<C>[] = [];
    for (const p of [...this.#probing.values()]) {
      if (p.next > now) continue;
      const owned = p.owner.owns(p.ip);
      if (p.left > 0 && owned) {
        p.left--;
        p.next = now + PROBE_MS;
        actions.push({ kind: 'probe', card: p.owner, ip: p.ip });
        continue;
      }
      this.#probing.delete(p.ip);
      if (p.claimant) this.#move(p.owner, p.claimant, p.ip, now, actions);
      else if (owned) this.#silent(p.owner, p.ip, p.keeps, now);
    }
    return actions;
  }

  #heard(card: C, ip: number, now: number, answers: boolean): void {
    const probing = this.#probing.get(ip);
    const use = card.use(ip);
    if (!use) return;
    if (probing) {
      this.#probing.delete(ip);
      if (probing.claimant) use.quietUntil = now + QUIET_MS;
    }
    const isNew = use.silent || use.heard < 0;
    const isAnswered = answers && !use.answered;
    use.heard = now;
    use.silent = false;
    use.answered ||= answers;
    if (isNew) this.#askForOthers(card, ip, now);
    if (isNew || isAnswered) this.#settle();
  }

  #contest(card: C, owner: C | null, ip: number, now: number): 'arp_spoof' | 'address_limit' {
    if (!owner?.isVirtual(ip)) return 'arp_spoof';
    const probing = this.#probing.get(ip);
    if (probing?.claimant) return 'arp_spoof';
    if (!card.claimRate.take(now)) return 'address_limit';
    if (probing || this.#probing.size < MAX_PROBED)
      this.#probing.set(ip, { owner, ip, claimant: card, left: CONTEST_PROBES, next: Math.max(now, owner.use(ip)?.quietUntil ?? 0), keeps: false });
    return 'arp_spoof';
  }

  #take(card: C, ip: number, now: number): void {
    if (card.claims.size >= MAX_CLAIMS) card.claims.delete(oldestOf(card));
    card.claims.set(ip, newUse(now, now));
    this.#askForOthers(card, ip, now);
    this.#ask(card, ip, now, true);
    this.#settle();
  }

  #move(from: C, to: C, ip: number, now: number, actions: AddressAction<C>[]): void {
    from.claims.delete(ip);
    this.#settle();
    if (this.#owners.get(ip) !== undefined) return;
    this.#take(to, ip, now);
    actions.push({ kind: 'moved', card: to, ip });
  }

  #silent(card: C, ip: number, keeps: boolean, now: number): void {
    const use = card.assigned.get(ip);
    if (use) use.silent = true;
    else if (!keeps) card.claims.delete(ip);
    if (use && ip === card.leaseIp) {
      // the guest may have vanished since it answered for them
      for (const [claimed, claim] of card.claims) {
        claim.answered = false;
        this.#ask(card, claimed, now, true);
      }
    }
    this.#settle();
  }

  #ask(card: C, ip: number, now: number, keeps = false): void {
    const use = card.use(ip);
    if (!use || this.#probing.has(ip) || this.#probing.size >= MAX_PROBED) return;
    use.asked = now;
    this.#probing.set(ip, { owner: card, ip, claimant: null, left: OWN_PROBES, next: now, keeps });
  }

  #askForOthers(card: C, except: number, now: number): void {
    for (const [ip, use] of [...card.assigned, ...card.claims]) if (ip !== except && !use.silent && use.heard !== -1) this.#ask(card, ip, now);
    const lease = card.assigned.get(card.leaseIp);
    if (lease && card.leaseIp !== except && lease.heard === -1) this.#ask(card, card.leaseIp, now);
  }

  /** Virtual addresses that were silent for long, and those that may be the main one of a guest with a silent lease. */
  #askForUnheard(now: number): void {
    this.#lastLook = now;
    for (const c of this.#cards) {
      for (const [ip, use] of c.claims) {
        if (!c.isVirtual(ip)) continue;
        if (now - use.heard > EXPIRY_MS) this.#ask(c, ip, now);
        else if (c.isLeaseSilent && !use.answered && use.heard > use.asked) this.#ask(c, ip, now, true);
      }
    }
  }

  #settle(): void {
    this.#refresh();
    this.#onChange();
  }

  #refresh(): void {
    this.#owners = new Map<number, C | null>([...networkAddresses(this.#subnet), ...this.#absent].map((ip) => [ip, null]));
    for (const c of this.#cards) {
      for (const ip of [...c.claims.keys(), c.leaseIp, c.reservedIp]) if (ip >= 0) this.#owners.set(ip, c);
      c.ip = c.choose();
    }
  }
}

/** The virtual address that was silent longest. */
function oldestOf(card: CardAddresses): number {
  let oldest = -1;
  let heard = Number.POSITIVE_INFINITY;
  for (const [ip, use] of card.claims) {
    if (!card.isVirtual(ip) || use.heard >= heard) continue;
    oldest = ip;
    heard = use.heard;
  }
  return oldest;
}
