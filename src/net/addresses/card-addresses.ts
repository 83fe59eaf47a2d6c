/** The IPv4 addresses of one card, by source. address-table.ts decides what enters and leaves. */
import { CLAIMS_MOST, CLAIMS_MS } from '../gateway/service-rates.ts';
import { TokenBucket } from '../token-bucket.ts';

/**
 * Where an address comes from: DHCP, `--ip`, or the guest itself. Of those that a guest sets itself, `static` is its
 * main address, and `virtual` one that it has besides (VRRP, kube-vip, an alias).
 */
export type HeldSource = 'lease' | 'reservation' | 'static' | 'virtual';

/** Addresses that a guest may set itself; the one that was silent longest is evicted. */
export const MAX_CLAIMS = 16;

/** What is known of one address. Times are those of the caller's clock, ms. */
export interface AddressUse {
  readonly since: number;
  /** The last ARP from it; -1 = none yet. */
  heard: number;
  /** The guest did not answer ARP for it. */
  silent: boolean;
  /** The guest has answered an ARP request for it, as one that is up does. */
  answered: boolean;
  /** The guest was last asked for it then. */
  asked: number;
  /** A claim of another card before this time waits until then. */
  quietUntil: number;
}

export interface HeldAddress {
  ip: number;
  source: HeldSource;
  since: number;
  heard: number;
}

export const newUse = (since: number, heard = -1): AddressUse => ({
  since,
  heard,
  silent: false,
  answered: false,
  asked: Number.NEGATIVE_INFINITY,
  quietUntil: 0,
});

export class CardAddresses {
  readonly id: string;
  /** The lease that the guest has taken up, and the reservation; -1 = none. The owner of the table sets both. */
  leaseIp = -1;
  reservedIp = -1;
  /** The main address, which forwarding rules and the DNS name lead to; -1 = none. */
  ip = -1;
  /** Set by the guest itself, in the order in which they were claimed. */
  readonly claims = new Map<number, AddressUse>();
  /** Of the lease and of the reservation, by address. */
  readonly assigned = new Map<number, AddressUse>();
  /** New claims, and claims of addresses that others have. */
  readonly claimRate = new TokenBucket(CLAIMS_MOST, CLAIMS_MS);

  constructor(id: string) {
    this.id = id;
  }

  owns(ip: number): boolean {
    return ip === this.leaseIp || ip === this.reservedIp || this.claims.has(ip);
  }

  /** Set by the guest, not its main address: it moves to another card that claims it when this guest is silent. */
  isVirtual(ip: number): boolean {
    return ip !== this.ip && ip !== this.leaseIp && ip !== this.reservedIp && this.claims.has(ip);
  }

  /** The main address was set by the guest itself. */
  get hasStatic(): boolean {
    return this.ip >= 0 && this.ip !== this.leaseIp;
  }

  use(ip: number): AddressUse | undefined {
    return this.claims.get(ip) ?? this.assigned.get(ip);
  }

  /** All addresses, the main one first. */
  list(): HeldAddress[] {
    const all = [this.ip, this.leaseIp, this.reservedIp, ...this.claims.keys()].filter((ip) => ip >= 0 && this.owns(ip));
    return [...new Set(all)].map((ip) => {
      const { since, heard } = this.use(ip) ?? newUse(0);
      return { ip, source: this.#sourceOf(ip), since, heard };
    });
  }

  #sourceOf(ip: number): HeldSource {
    if (ip === this.reservedIp) return 'reservation';
    if (ip === this.leaseIp) return 'lease';
    return ip === this.ip ? 'static' : 'virtual';
  }

  /** The guest uses none of the addresses that were assigned to it, as far as is known. */
  get isLeaseSilent(): boolean {
    return this.leaseIp >= 0 && this.ip === this.leaseIp && this.use(this.leaseIp)?.silent === true;
  }

  /**
   * The lease comes first, then the reservation, then what the guest set first. One that the guest does not answer for
   * comes last, and the lease gives way only to one that it does answer for: a guest that vanished answers for none.
   */
  choose(): number {
    if (this.leaseIp >= 0 && !this.use(this.leaseIp)?.silent) return this.leaseIp;
    const reserved = this.use(this.reservedIp);
    if (reserved && reserved.heard >= 0 && !reserved.silent) return this.reservedIp;
    // a virtual address stays one while its guest is silent
    if (this.ip >= 0 && this.claims.has(this.ip)) return this.ip;
    for (const [ip, use] of this.claims) if (use.answered || this.leaseIp < 0) return ip;
    return this.leaseIp;
  }
}
