/**
 * A guest speaks only as itself (B91): which frames of a card may enter its network, and which address the card has when its guest set one itself (B50).
 *
 * Theory of operation: `check` looks at one frame as the network would see it (after the translation of its MAC address) and gives a reason to drop it, or null.
 * A card's own addresses are its lease or self-set address, its reservation, and what it claimed. An address of the subnet that nobody owns may be
 * claimed by ARP: it is the card's own from then on, and its only one for forwarding, until its guest asks by DHCP again. IPv6 addresses are first
 * come, first served, learned from neighbour discovery. The same rules and names as the kernel engine's nft rules.
 *
 * Call order: `setCards` when cards or leases have changed, `onDhcp` when a guest asked, `check` for each frame.
 * Limits: 16 claims and 16 IPv6 addresses per card, the oldest gives way; a claim is forgotten after ten minutes without ARP.
 */

import { broadcastOf, gatewayOf, type SubnetLike, subnetContains } from '../wire/address.ts';
import { arpSenderIp, arpSenderMac, checkArp } from '../wire/arp.ts';
import { get16, get32 } from '../wire/bytes.ts';
import { ETH_HEADER, EtherType, readMac } from '../wire/ethernet.ts';
import { IpProtocol } from '../wire/ipv4.ts';
import { eachLinkAddress, findUpper, Ipv6Next, type Ipv6Upper, ipv6SourceAt, NdType, ndOptionsAt } from '../wire/ipv6.ts';
import type { Drop } from './drops.ts';

const CLAIM_MS = 600_000;
const MAX_CLAIMS = 16;
const MAX_IPV6 = 16;

/** One card, as the guard knows it. */
export class GuardedCard {
  readonly id: string;
  readonly mac: number;
  readonly high: number;
  readonly low: number;
  /** Lease in force and reservation; -1 = none. */
  leaseIp = -1;
  reservedIp = -1;
  /** Set by the guest itself (B50); -1 = none. */
  staticIp = -1;
  /** Under which it spoke last: the fast path. */
  lastIp = -1;
  staticSince = 0;
  /** Addresses under which it spoke ARP, and until when each is remembered. */
  readonly spoken = new Map<number, number>();
  readonly ipv6: string[] = [];
  /** The four words of the last IPv6 source that was found right. */
  readonly lastIpv6 = new Uint32Array(4);

  constructor(id: string, mac: number) {
    this.id = id;
    this.mac = mac;
    this.high = Math.floor(mac / 2 ** 32);
    this.low = mac >>> 0;
  }

  /** The address that forwarding rules lead to: set by the guest, else leased; -1 = none. */
  get ip(): number {
    return this.staticIp >= 0 ? this.staticIp : this.leaseIp;
  }
}

export class Guard {
  readonly #subnet: SubnetLike;
  readonly #onStatic: (card: GuardedCard) => void;
  readonly #onUnknown: (card: GuardedCard, ip: number) => void;
  /** Who owns an address of the subnet; null = the network itself. */
  #owners = new Map<number, GuardedCard | null>();
  #ipv6Owners = new Map<string, GuardedCard>();
  #cards: readonly GuardedCard[] = [];
  readonly #upper: Ipv6Upper = { protocol: -1, start: 0, at: 0, end: 0, fragment: false, later: false };

  /**
   * `onStatic` is called when a card's self-set address came, changed or went; `onUnknown` when it speaks as an address that nobody owns, without a claim: asked by
   * ARP, it will claim it, as after a restart of this process.
   */
  constructor(subnet: SubnetLike, onStatic: (card: GuardedCard) => void, onUnknown: (card: GuardedCard, ip: number) => void = () => {}) {
    this.#subnet = subnet;
    this.#onStatic = onStatic;
    this.#onUnknown = onUnknown;
  }

  /** Takes all cards with what they own now. */
  setCards(cards: readonly GuardedCard[]): void {
    this.#cards = cards;
    this.#owners = new Map<number, GuardedCard | null>([
      [this.#subnet.base, null],
      [gatewayOf(this.#subnet), null],
      [broadcastOf(this.#subnet), null],
    ]);
    for (const c of cards) for (const ip of [c.staticIp, c.leaseIp, c.reservedIp]) if (ip >= 0) this.#owners.set(ip, c);
    for (const c of cards) if (c.lastIp >= 0 && !this.#isOwn(c, c.lastIp)) c.lastIp = -1;
    const present = new Set(cards);
    for (const [key, c] of this.#ipv6Owners) if (!present.has(c)) this.#ipv6Owners.delete(key);
  }

  /** Its guest asked by DHCP: a lease counts again, what it set by itself is over. */
  onDhcp(card: GuardedCard): void {
    if (card.staticIp < 0) return;
    card.spoken.delete(card.staticIp);
    this.#setStatic(card, -1, 0);
  }

  /** The card was pulled out: what was learned of it is over. */
  forget(card: GuardedCard): void {
    card.spoken.clear();
    for (const key of card.ipv6.splice(0)) this.#ipv6Owners.delete(key);
    card.lastIpv6.fill(0);
    card.lastIp = -1;
    if (card.staticIp >= 0) this.#setStatic(card, -1, 0);
  }

  /** The card that owns an address, also by a claim; null when nobody or the network itself does. */
  ownerOf(ip: number, now: number): GuardedCard | null {
    const owner = this.#owners.get(ip);
    if (owner) return owner;
    for (const c of this.#cards) if ((c.spoken.get(ip) ?? 0) > now) return c;
    return null;
  }

  /** Whether the frame from `o` to `end` may pass: null, or why not. */
  check(card: GuardedCard, b: Uint8Array, o: number, end: number, now: number): Drop | null {
    if (end - o < ETH_HEADER) return 'malformed';
    if (get16(b, o + 6) !== card.high || get32(b, o + 8) !== card.low) return 'mac_spoof';
    const type = get16(b, o + 12);
    if (type === EtherType.ipv4) {
      if (end - o >= 34 && b[o + 23] === IpProtocol.tcp && b[o + 14] === 0x45 && get32(b, o + 26) === card.lastIp) return null;
      return this.#ipv4(card, b, o + ETH_HEADER, end, now);
    }
    if (type === EtherType.arp) return this.#arp(card, b, o + ETH_HEADER, end, now);
    if (type === EtherType.ipv6) return this.#ipv6(card, b, o + ETH_HEADER, end);
    return 'ethertype';
  }

  #ipv4(card: GuardedCard, b: Uint8Array, ip: number, end: number, now: number): Drop | null {
    const header = (b[ip] & 15) << 2;
    if (end - ip < 20 || b[ip] >> 4 !== 4 || header < 20 || ip + header > end) return 'malformed';
    const source = get32(b, ip + 12);
    if (b[ip + 9] === IpProtocol.udp && (get16(b, ip + 6) & 0x1fff) === 0 && ip + header + 4 <= end) {
      const from = get16(b, ip + header);
      const to = get16(b, ip + header + 2);
      if (source === 0 && from === 68 && to === 67) return null;
      if (from === 67 && to === 68) return 'rogue_dhcp';
    }
    if (this.#isOwn(card, source)) {
      card.lastIp = source;
      return null;
    }
    if (!this.#owners.has(source) && (card.spoken.get(source) ?? 0) > now) return null;
    if (!this.#owners.has(source) && subnetContains(this.#subnet, source)) this.#onUnknown(card, source);
    return 'ip_spoof';
  }

  #isOwn(card: GuardedCard, ip: number): boolean {
    return ip === card.leaseIp || ip === card.staticIp || ip === card.reservedIp;
  }

  #arp(card: GuardedCard, b: Uint8Array, arp: number, end: number, now: number): Drop | null {
    if (!checkArp(b, arp, end) || arpSenderMac(b, arp) !== card.mac) return 'arp_spoof';
    const ip = arpSenderIp(b, arp);
    if (ip === 0) return null; // a probe claims nothing (RFC 5227)
    const known = (card.spoken.get(ip) ?? 0) > now;
    if (this.#isOwn(card, ip)) {
      card.spoken.delete(ip);
      card.spoken.set(ip, now + CLAIM_MS);
      if (!known && ip === card.leaseIp && card.staticIp >= 0 && card.staticIp !== ip) this.#setStatic(card, -1, now);
      return null;
    }
    if (this.#owners.has(ip) || !subnetContains(this.#subnet, ip)) return 'arp_spoof';
    if (!known && this.ownerOf(ip, now)) return 'arp_spoof';
    card.spoken.delete(ip);
    card.spoken.set(ip, now + CLAIM_MS);
    if (card.spoken.size > MAX_CLAIMS) card.spoken.delete(card.spoken.keys().next().value as number);
    if (!known) this.#setStatic(card, ip, now);
    return null;
  }

  #setStatic(card: GuardedCard, ip: number, now: number): void {
    card.staticIp = ip;
    card.staticSince = now;
    this.setCards(this.#cards);
    this.#onStatic(card);
  }

  #ipv6(card: GuardedCard, b: Uint8Array, ip: number, end: number): Drop | null {
    const u = this.#upper;
    findUpper(b, ip, end, u);
    if (u.protocol < 0) return 'malformed';
    if (u.protocol === Ipv6Next.icmp) {
      const drop = this.#icmpv6(card, b, u);
      if (drop) return drop;
    } else if (u.protocol === Ipv6Next.udp && !u.later) {
      if (u.at + 4 > u.end) return 'malformed';
      if (get16(b, u.at) === 547 && get16(b, u.at + 2) === 546) return 'rogue_dhcp';
    }
    const s = ipv6SourceAt(ip);
    const last = card.lastIpv6;
    if (get32(b, s + 12) === last[3] && get32(b, s + 8) === last[2] && get32(b, s + 4) === last[1] && get32(b, s) === last[0]) return null;
    const owner = this.#ipv6Owners.get(ipv6Key(b, s));
    if (owner !== undefined && owner !== card) return 'ip_spoof';
    for (let i = 0; i < 4; i++) last[i] = get32(b, s + 4 * i);
    return null;
  }

  #icmpv6(card: GuardedCard, b: Uint8Array, u: Ipv6Upper): Drop | null {
    if (u.later) return 'rogue_ra'; // neighbour discovery is never fragmented (RFC 6980), and nothing else needs it here
    if (u.at + 8 > u.end) return 'malformed';
    const type = b[u.at];
    if (type === NdType.routerAdvert || type === NdType.redirect) return 'rogue_ra';
    if (type !== NdType.solicit && type !== NdType.advert && type !== NdType.routerSolicit) return u.fragment ? 'rogue_ra' : null;
    if (u.fragment) return 'arp_spoof';
    const options = ndOptionsAt(b, u.at, u.end);
    if (options === 0) return 'malformed';
    let forged = false;
    const whole = eachLinkAddress(b, options, u.end, (at) => {
      if (readMac(b, at) !== card.mac) forged = true;
    });
    if (!whole) return 'malformed';
    if (forged) return 'arp_spoof';
    if (type === NdType.advert) return this.#claimIpv6(card, b, u.at + 8);
    // a solicitation from the unspecified address asks whether its target is free, so as to take it (RFC 4862)
    const source = ipv6Key(b, ipv6SourceAt(u.start));
    if (type === NdType.solicit && source === UNSPECIFIED) return this.#claimIpv6(card, b, u.at + 8, true);
    return source === UNSPECIFIED ? null : this.#claimIpv6(card, b, ipv6SourceAt(u.start));
  }

  /** `probe`: asking for another's address is no offence, but does not give it. */
  #claimIpv6(card: GuardedCard, b: Uint8Array, at: number, probe = false): Drop | null {
    const key = ipv6Key(b, at);
    const owner = this.#ipv6Owners.get(key);
    if (owner === card) return null;
    if (owner) return probe ? null : 'arp_spoof';
    this.#ipv6Owners.set(key, card);
    card.ipv6.push(key);
    if (card.ipv6.length > MAX_IPV6) this.#ipv6Owners.delete(card.ipv6.shift() as string);
    return null;
  }
}

const UNSPECIFIED = '0:0:0:0';

function ipv6Key(b: Uint8Array, o: number): string {
  return `${get32(b, o)}:${get32(b, o + 4)}:${get32(b, o + 8)}:${get32(b, o + 12)}`;
}
