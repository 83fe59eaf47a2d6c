/**
 * The DHCP server of one network (RFC 2131), as a machine without sockets and clock.
 *
 * Theory of operation: `onMessage(bytes, now)` returns the answer and its destination, or the reason why there is none.
 * A client is identified by its hardware address, which the guard enforces. Its NIC's id is the key of the lease (B23),
 * whatever client identifier it sends. A request to another server releases our offer. INFORM is answered with the
 * options and no address (B50).
 *
 * Before a message is handled, the caller asks for its `candidate` address, probes it by ARP, and reports the result by
 * `probed`. An address in use is skipped. A NIC can make 16 addresses unavailable in ten minutes, by declining offers
 * or by answering probes. Further declines and answers of that NIC are ignored, so one guest cannot exhaust the pool.
 *
 * Limits: no relay agents (messages with giaddr are dropped), no BOOTP, no options beyond those of wire/dhcpv4.
 */
import { broadcastOf, gatewayOf, maskOf, type SubnetLike } from '../../wire/address.ts';
import { type DhcpReply, type DhcpRequest, DhcpType, emitDhcpReply, parseDhcpRequest } from '../../wire/dhcpv4.ts';
import { TokenBucket } from '../token-bucket.ts';
import { AddressPool } from './lease-pool.ts';

/** A NIC that is served. */
export interface DhcpNic {
  id: string;
  mac: number;
  hostname: string;
  /** Advertised by option 26 when it is not 1500. */
  mtu: number;
  reservedIp?: number;
  /** Its main address, if its guest has set that itself. */
  staticIp?: number;
  /** All addresses that its guest has set itself: leased to no other. */
  claimedIps?: readonly number[];
}

export interface DhcpConfig {
  subnet: SubnetLike;
  leaseSeconds: number;
  domain: string;
}

/** Why a message was not answered: a closed set; each has a counter. */
export type DhcpDrop = 'malformed' | 'relayed' | 'unknown-mac' | 'other-server' | 'exhausted' | 'released' | 'declined' | 'not-ours' | 'unsupported';

/** An address to be offered that is not known to be free: it must be probed by ARP first (RFC 2131, 2.2). */
export interface DhcpCandidate {
  ip: number;
  nic: string;
  /** The client's own MAC address, whose answer is no conflict. */
  mac: number;
}

export interface DhcpAnswer {
  bytes: Uint8Array;
  /** Destination address; 255.255.255.255 if the client has no address yet. */
  to: number;
  type: number;
  ip: number;
  nic: string;
}

const BROADCAST = 0xffffffff;
const PROBE_HOLDS_MS = 30_000;
/** Addresses that a NIC may make unavailable: burst size, and the time in ms that refills it. */
const CONFLICTS = 16;
const CONFLICTS_MS = 600_000;

export class DhcpServer {
  readonly pool: AddressPool;
  /** Domains that clients search after our own (option 119). */
  search: readonly string[] = [];
  readonly drops = new Map<DhcpDrop, number>();
  /** When each NIC last sent DISCOVER or REQUEST, by the clock of `now`, ms. */
  readonly lastSeen = new Map<string, number>();
  #config: DhcpConfig;
  #nics = new Map<number, DhcpNic>();
  #exhausted = false;
  /** Addresses found free by ARP, and until when that is valid; bounded by the subnet. */
  #probed = new Map<number, number>();
  /** By NIC id. */
  readonly #conflicts = new Map<string, TokenBucket>();

  constructor(config: DhcpConfig) {
    this.#config = config;
    this.pool = new AddressPool(config.subnet);
  }

  /** Whether the last DISCOVER found no free address. */
  get exhausted(): boolean {
    return this.#exhausted;
  }

  setNics(nics: readonly DhcpNic[]): void {
    this.#nics = new Map(nics.map((n) => [n.mac, n]));
    this.pool.setOwners(
      new Map(nics.flatMap((n) => (n.reservedIp === undefined ? [] : [[n.id, n.reservedIp]]))),
      new Map(nics.flatMap((n) => (n.staticIp === undefined ? [] : [[n.id, n.staticIp]]))),
      new Map(nics.flatMap((n) => (n.claimedIps ?? []).map((ip) => [ip, n.id]))),
    );
    const ids = new Set(nics.map((n) => n.id));
    for (const id of this.lastSeen.keys()) if (!ids.has(id)) this.lastSeen.delete(id);
    for (const id of this.#conflicts.keys()) if (!ids.has(id)) this.#conflicts.delete(id);
  }

  /**
   * The address to probe before a message is handled; null when none must be. An address that the NIC had last needs no
   * probe.
   */
  candidate(bytes: Uint8Array, now: number): DhcpCandidate | null {
    const q = parseDhcpRequest(bytes);
    if (typeof q === 'string' || q.giaddr !== 0) return null;
    const nic = this.#nics.get(q.mac);
    if (!nic) return null;
    let ip: number | null = null;
    if (q.type === DhcpType.discover) ip = this.pool.peek(nic.id, q.requestedIp, now);
    else if (q.type === DhcpType.request && (q.serverId === 0 || q.serverId === gatewayOf(this.#config.subnet))) ip = q.requestedIp || q.ciaddr;
    if (ip === null || !this.pool.contains(ip) || this.pool.hadLast(nic.id, ip) || (this.#probed.get(ip) ?? 0) > now) return null;
    return { ip, nic: nic.id, mac: nic.mac };
  }

  /** Result of a probe: the MAC address of another host that uses the address, or null. */
  probed(ip: number, user: number | null, now: number): void {
    const card = user === null ? undefined : this.#nics.get(user);
    if (user !== null && (!card || this.#acceptConflict(card.id, now))) {
      this.pool.conflict(ip, now);
      return;
    }
    for (const [old, until] of this.#probed) if (until <= now) this.#probed.delete(old);
    this.#probed.set(ip, now + PROBE_HOLDS_MS);
  }

  #acceptConflict(id: string, now: number): boolean {
    let bucket = this.#conflicts.get(id);
    if (!bucket) {
      bucket = new TokenBucket(CONFLICTS, CONFLICTS_MS);
      this.#conflicts.set(id, bucket);
    }
    return bucket.take(now);
  }

  onMessage(bytes: Uint8Array, now: number): DhcpAnswer | DhcpDrop {
    const result = this.#answer(bytes, now);
    if (typeof result === 'string') this.drops.set(result, (this.drops.get(result) ?? 0) + 1);
    return result;
  }

  #answer(bytes: Uint8Array, now: number): DhcpAnswer | DhcpDrop {
    const q = parseDhcpRequest(bytes);
    if (typeof q === 'string') return 'malformed';
    if (q.giaddr !== 0) return 'relayed';
    const nic = this.#nics.get(q.mac);
    if (!nic) return 'unknown-mac';
    switch (q.type) {
      case DhcpType.discover:
        this.lastSeen.set(nic.id, now);
        return this.#discover(q, nic, now);
      case DhcpType.request:
        this.lastSeen.set(nic.id, now);
        return this.#request(q, nic, now);
      case DhcpType.inform:
        return this.#reply(q, nic, DhcpType.ack, 0, q.ciaddr || BROADCAST);
      case DhcpType.release:
        if (this.pool.lease(nic.id, now)?.ip === q.ciaddr) this.pool.release(nic.id);
        return 'released';
      case DhcpType.decline:
        if (this.pool.lease(nic.id, now)?.ip !== q.requestedIp) return 'not-ours';
        if (this.#acceptConflict(nic.id, now)) this.pool.decline(nic.id, q.requestedIp, now);
        else this.pool.release(nic.id);
        return 'declined';
      default:
        return 'unsupported';
    }
  }

  #discover(q: DhcpRequest, nic: DhcpNic, now: number): DhcpAnswer | DhcpDrop {
    const ip = this.pool.offer(nic.id, q.requestedIp, now);
    this.#exhausted = ip === null && nic.reservedIp === undefined;
    return ip === null ? 'exhausted' : this.#reply(q, nic, DhcpType.offer, ip, BROADCAST);
  }

  /** SELECTING, INIT-REBOOT, RENEWING and REBINDING (RFC 2131, 4.3.2). */
  #request(q: DhcpRequest, nic: DhcpNic, now: number): DhcpAnswer | DhcpDrop {
    if (q.serverId !== 0 && q.serverId !== gatewayOf(this.#config.subnet)) {
      this.pool.release(nic.id);
      return 'other-server';
    }
    const wanted = q.requestedIp || q.ciaddr;
    if (wanted === 0) return 'malformed';
    if (!this.pool.bind(nic.id, wanted, this.#config.leaseSeconds * 1000, now)) return this.#reply(q, nic, DhcpType.nak, 0, BROADCAST);
    this.#exhausted = false;
    return this.#reply(q, nic, DhcpType.ack, wanted, q.ciaddr || BROADCAST);
  }

  /**
   * Unicast only to an address that the client already has (RFC 2131, 4.1). Everything else is broadcast, which every
   * client accepts.
   */
  #reply(q: DhcpRequest, nic: DhcpNic, type: number, yiaddr: number, to: number): DhcpAnswer {
    const { subnet, leaseSeconds, domain } = this.#config;
    const gateway = gatewayOf(subnet);
    const r: DhcpReply = {
      type,
      xid: q.xid,
      flags: q.flags,
      ciaddr: type === DhcpType.ack ? q.ciaddr : 0,
      yiaddr,
      giaddr: 0,
      mac: q.mac,
      serverId: gateway,
      clientId: q.clientId,
      parameters: q.parameters,
    };
    if (type !== DhcpType.nak) {
      r.mask = maskOf(subnet);
      r.router = gateway;
      r.dns = gateway;
      r.broadcast = broadcastOf(subnet);
      r.domain = domain;
      r.hostname = nic.hostname;
      r.search = [domain, ...this.search];
      if (yiaddr !== 0) r.leaseSeconds = leaseSeconds;
      if (nic.mtu !== 1500) r.mtu = nic.mtu;
    }
    return { bytes: emitDhcpReply(r), to, type, ip: yiaddr || q.ciaddr, nic: nic.id };
  }
}
