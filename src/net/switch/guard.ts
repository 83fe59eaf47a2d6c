/**
 * The anti-spoofing guard (B91): which frames of a NIC may enter its network, and which address a NIC has whose guest
 * configured one statically (B50).
 *
 * Theory of operation: `check` looks at one frame as the network would see it (after MAC translation) and returns a
 * drop reason, or null. A NIC's own addresses are its lease, its reservation, and what its guest claimed by ARP
 * (net/addresses/address-table.ts). A claim that is pending, as another NIC has the address, may send nothing from it.
 *
 * An IPv6 address belongs to the NIC that used it first, by sending from it or advertising it, while the NIC continues
 * to use it. A duplicate address detection claims nothing. Addresses derived from a MAC address (EUI-64) belong to the
 * NIC with that MAC address from the start. No guest may act as a router or a DHCP server, or send to link-local group
 * addresses (IEEE 802.1Q, 8.6.3). The kernel engine's nft rules are the same, with the same names.
 *
 * Call order: `setCards` when NICs or leases have changed, `table.onDhcp` when a guest used DHCP, `check` for each
 * frame.
 *
 * Limits: those of the address table. 32 IPv6 addresses per NIC, further ones are rejected; an address expires after an
 * hour without use. ESP payload is not inspected.
 */

import type { SubnetLike } from '../../wire/address.ts';
import { ArpOp, arpOp, arpSenderIp, arpSenderMac, arpTargetIp, checkArp } from '../../wire/arp.ts';
import { get16, get32 } from '../../wire/bytes.ts';
import { ETH_HEADER, EtherType, readMac } from '../../wire/ethernet.ts';
import { IcmpType } from '../../wire/icmp.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import { eachLinkAddress, findUpper, Ipv6Next, type Ipv6Upper, ipv6SourceAt, isExtension, NdType, ndOptionsAt } from '../../wire/ipv6.ts';
import { AddressTable } from '../addresses/address-table.ts';
import { CardAddresses } from '../addresses/card-addresses.ts';
import type { Drop } from '../drop-reasons.ts';
import { canClaim } from '../policy/addresses.ts';
import { eui64MacOf, isForbiddenSource6 } from '../policy/addresses6.ts';
import { isDhcp6Reply, isDhcpReply, isDhcpRequest } from '../policy/services.ts';

const HOLD_MS = 3_600_000;
const MAX_IPV6 = 32;
/** The fast path is left after this time, so that an address in use is renewed. */
const RENEW_MS = HOLD_MS / 4;

/** First four bytes of 01-80-C2-00-00-00 to 0F, which no bridge may forward. */
const LINK_GROUP_HIGH = 0x0180c200;

/** A NIC's card, as the guard knows it. */
export class GuardedCard extends CardAddresses {
  readonly mac: number;
  readonly high: number;
  readonly low: number;
  /** Last IPv4 source that was accepted: the fast path. */
  lastIp = -1;
  /** IPv6 addresses that it owns, least recently used first, and when each expires. */
  readonly ipv6 = new Map<string, number>();
  /** The four words of the last IPv6 source that was accepted, and until when that is valid. */
  readonly lastIpv6 = new Uint32Array(4);
  lastIpv6Until = 0;

  constructor(id: string, mac: number) {
    super(id);
    this.mac = mac;
    this.high = Math.floor(mac / 2 ** 32);
    this.low = mac >>> 0;
  }
}

export class Guard {
  /** Who owns which IPv4 address. Its `poll` is due at its `pollAt`. */
  readonly table: AddressTable<GuardedCard>;
  readonly #subnet: SubnetLike;
  readonly #onUnknown: (card: GuardedCard, ip: number) => void;
  #ipv6Owners = new Map<string, GuardedCard>();
  #byMac = new Map<number, GuardedCard>();
  readonly #gatewayMac: number;
  readonly #upper: Ipv6Upper = { protocol: -1, start: 0, at: 0, end: 0, fragment: false, later: false };

  /**
   * `onAddresses` is called when a guest's claim was added or removed, or a card's main address changed. `onUnknown` is
   * called when a card uses an address without owner or claim, as after a restart of this process: an ARP request makes
   * it claim it.
   */
  constructor(subnet: SubnetLike, gatewayMac: number, onAddresses: () => void, onUnknown: (card: GuardedCard, ip: number) => void = () => {}) {
    this.#subnet = subnet;
    this.#gatewayMac = gatewayMac;
    this.#onUnknown = onUnknown;
    this.table = new AddressTable(subnet, () => {
      this.#checkFastPath();
      onAddresses();
    });
  }

  /** Sets all cards, with what is assigned to them now. `absent`: addresses assigned to VMs that are not attached. */
  setCards(cards: readonly GuardedCard[], absent: readonly number[], now: number): void {
    this.#byMac = new Map(cards.map((c) => [c.mac, c]));
    this.table.setCards(cards, absent, now);
    this.#checkFastPath();
    const present = new Set(cards);
    for (const [key, c] of this.#ipv6Owners) if (!present.has(c)) this.#ipv6Owners.delete(key);
  }

  #checkFastPath(): void {
    for (const c of this.table.cards) if (c.lastIp >= 0 && !c.owns(c.lastIp)) c.lastIp = -1;
  }

  /** The card was unplugged: forgets what was learned about it. */
  forget(card: GuardedCard): void {
    for (const key of card.ipv6.keys()) this.#ipv6Owners.delete(key);
    card.ipv6.clear();
    card.lastIpv6Until = 0;
    card.lastIp = -1;
    if (card.claims.size > 0) this.table.release(card);
  }

  /** Whether the frame `b[o..end)` may enter the network: null, or the drop reason. */
  check(card: GuardedCard, b: Uint8Array, o: number, end: number, now: number): Drop | null {
    if (end - o < ETH_HEADER) return 'malformed';
    if (get16(b, o + 6) !== card.high || get32(b, o + 8) !== card.low) return 'mac_spoof';
    if (get32(b, o) === LINK_GROUP_HIGH && (get16(b, o + 4) & 0xfff0) === 0) return 'ethertype';
    const type = get16(b, o + 12);
    if (type === EtherType.ipv4) {
      if (end - o >= 34 && b[o + 23] === IpProtocol.tcp && b[o + 14] === 0x45 && get32(b, o + 26) === card.lastIp) return null;
      return this.#ipv4(card, b, o + ETH_HEADER, end);
    }
    if (type === EtherType.arp) return this.#arp(card, b, o + ETH_HEADER, end, now);
    if (type === EtherType.ipv6) return this.#ipv6(card, b, o + ETH_HEADER, end, now);
    return 'ethertype';
  }

  #ipv4(card: GuardedCard, b: Uint8Array, ip: number, end: number): Drop | null {
    const header = (b[ip] & 15) << 2;
    if (end - ip < 20 || b[ip] >> 4 !== 4 || header < 20 || ip + header > end) return 'malformed';
    if (header > 20 && hasSourceRoute(b, ip + 20, ip + header)) return 'source_route';
    const source = get32(b, ip + 12);
    if ((get16(b, ip + 6) & 0x1fff) === 0 && ip + header + 4 <= end) {
      const at = ip + header;
      if (b[ip + 9] === IpProtocol.udp) {
        const from = get16(b, at);
        const to = get16(b, at + 2);
        if (source === 0 && isDhcpRequest(from, to)) return null;
        if (isDhcpReply(from, to)) return 'rogue_dhcp';
      } else if (b[ip + 9] === IpProtocol.icmp && (b[at] === IcmpType.redirect || b[at] === IcmpType.routerAdvert)) return 'rogue_ra';
    }
    if (card.owns(source)) {
      card.lastIp = source;
      return null;
    }
    if (canClaim(this.#subnet, source, this.table.ownerOf(source) !== undefined)) this.#onUnknown(card, source);
    return 'ip_spoof';
  }

  #arp(card: GuardedCard, b: Uint8Array, arp: number, end: number, now: number): Drop | null {
    if (!checkArp(b, arp, end) || arpSenderMac(b, arp) !== card.mac) return 'arp_spoof';
    const ip = arpSenderIp(b, arp);
    if (ip === 0) return null; // a probe claims nothing (RFC 5227)
    return this.table.claim(card, ip, now, arpOp(b, arp) === ArpOp.reply && arpTargetIp(b, arp) !== ip);
  }

  #ipv6(card: GuardedCard, b: Uint8Array, ip: number, end: number, now: number): Drop | null {
    const u = this.#upper;
    findUpper(b, ip, end, u);
    if (u.protocol < 0) return 'malformed';
    // later fragments: the first one decides, which must contain all headers (RFC 7112)
    if (u.later) return isExtension(u.protocol) ? 'malformed' : this.#useAddress(card, b, ipv6SourceAt(ip), now, 'ip_spoof');
    if (u.protocol === Ipv6Next.icmp) {
      const drop = this.#icmpv6(card, b, u, now);
      if (drop !== undefined) return drop;
    } else if (u.protocol === Ipv6Next.udp) {
      if (u.at + 4 > u.end) return 'malformed';
      if (isDhcp6Reply(get16(b, u.at), get16(b, u.at + 2))) return 'rogue_dhcp';
    }
    return this.#useAddress(card, b, ipv6SourceAt(ip), now, 'ip_spoof');
  }

  /** Undefined: the source address decides. */
  #icmpv6(card: GuardedCard, b: Uint8Array, u: Ipv6Upper, now: number): Drop | null | undefined {
    if (u.at + 8 > u.end) return 'malformed';
    const type = b[u.at];
    const source = ipv6SourceAt(u.start);
    const unspecified = isZero(b, source, 4);
    if (type === NdType.routerAdvert || type === NdType.redirect) return 'rogue_ra';
    if (type !== NdType.solicit && type !== NdType.advert && type !== NdType.routerSolicit) return unspecified && MLD.includes(type) ? null : undefined;
    if (u.fragment) return 'nd_spoof'; // neighbour discovery is never fragmented (RFC 6980)
    const options = ndOptionsAt(b, u.at, u.end);
    if (options === 0) return 'malformed';
    let forged = false;
    const whole = eachLinkAddress(b, options, u.end, (at) => {
      if (readMac(b, at) !== card.mac) forged = true;
    });
    if (!whole) return 'malformed';
    if (forged) return 'nd_spoof';
    // duplicate address detection (RFC 4862)
    if (unspecified && type !== NdType.advert) return null;
    return this.#useAddress(card, b, source, now, 'nd_spoof') ?? (type === NdType.advert ? this.#useAddress(card, b, u.at + 8, now, 'nd_spoof') : null);
  }

  /** Whether the card may use the address at `at`; an address without an owner becomes its own. */
  #useAddress(card: GuardedCard, b: Uint8Array, at: number, now: number, spoof: 'ip_spoof' | 'nd_spoof'): Drop | null {
    const last = card.lastIpv6;
    const [w0, w1, w2, w3] = [get32(b, at), get32(b, at + 4), get32(b, at + 8), get32(b, at + 12)];
    if (w3 === last[3] && w2 === last[2] && w1 === last[1] && w0 === last[0] && now < card.lastIpv6Until) return null;
    if (isForbiddenSource6(w0, w1, w2)) return spoof;
    const key = `${w0}:${w1}:${w2}:${w3}`;
    const holder = this.#ipv6Owners.get(key);
    if (holder !== card) {
      if (holder && (holder.ipv6.get(key) ?? 0) > now) return spoof;
      const derivedFrom = eui64MacOf(w2, w3);
      if (derivedFrom !== card.mac) {
        if (derivedFrom === this.#gatewayMac || this.#byMac.has(derivedFrom)) return spoof;
        this.#forgetExpired(card, now);
        if (card.ipv6.size >= MAX_IPV6) return 'address_limit';
      }
      holder?.ipv6.delete(key);
      this.#ipv6Owners.set(key, card);
    }
    card.ipv6.delete(key);
    card.ipv6.set(key, now + HOLD_MS);
    card.lastIpv6.set([w0, w1, w2, w3]);
    card.lastIpv6Until = now + RENEW_MS;
    return null;
  }

  #forgetExpired(card: GuardedCard, now: number): void {
    for (const [key, until] of card.ipv6) {
      if (until > now) break;
      card.ipv6.delete(key);
      if (this.#ipv6Owners.get(key) === card) this.#ipv6Owners.delete(key);
    }
  }
}

/** Multicast listener reports and done messages (RFC 2710, 3810), which a guest sends before it has an address. */
const MLD = [131, 132, 143];

function isZero(b: Uint8Array, at: number, words: number): boolean {
  for (let i = 0; i < words; i++) if (get32(b, at + 4 * i) !== 0) return false;
  return true;
}

/** Whether the IPv4 options contain a loose or strict source route (RFC 791). */
function hasSourceRoute(b: Uint8Array, at: number, end: number): boolean {
  for (let o = at; o < end && b[o] !== 0; ) {
    if (b[o] === 1) {
      o++;
      continue;
    }
    if (b[o] === 131 || b[o] === 137) return true;
    if (o + 1 >= end || b[o + 1] < 2) return false;
    o += b[o + 1];
  }
  return false;
}
