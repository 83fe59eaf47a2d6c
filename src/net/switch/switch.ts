/**
 * The switch of one network: where each frame of a run goes.
 *
 * Theory of operation: a run of length-prefixed frames from one port is walked once. The guard decides whether each
 * frame may pass. Consecutive frames to the same destination are handed over as one run, so that a port gets one write
 * for many frames. Destinations are: another port, the gateway's TCP path, the gateway itself, all ports (group
 * addresses).
 *
 * Every port uses exactly one MAC address, its card's, which the guard enforces. So the address table is the list of
 * ports: nothing is learned that could be forged, nothing ages, and frames to unknown addresses are not flooded.
 * Requests that only the gateway answers (ARP for its address, DHCP) are not flooded either. An isolated port
 * (`--no-local`) reaches only the gateway, and no port reaches it.
 *
 * Limits: one VLAN; no multicast snooping: group frames go to all ports.
 */
import { arpTargetIp, checkArp } from '../../wire/arp.ts';
import { get16, get32 } from '../../wire/bytes.ts';
import { ETH_HEADER, EtherType } from '../../wire/ethernet.ts';
import { IpProtocol } from '../../wire/ipv4.ts';
import type { DropCounts } from '../drop-reasons.ts';
import type { PacketFilter } from '../filter/packet-filter.ts';
import { areIsolated } from '../policy/isolation.ts';
import { isDhcpRequest } from '../policy/services.ts';
import type { Guard, GuardedCard } from './guard.ts';

/** One card's port on the switch. */
export interface SwitchPort {
  readonly card: GuardedCard;
  readonly drops: DropCounts;
  readonly isolated: boolean;
  /** Of its VM; null = none. Frames to the guest are filtered by the queue. */
  readonly filter: PacketFilter | null;
  /** Largest IP packet, bytes. */
  readonly mtu: number;
  readonly queue: {
    /**
     * Sends a run of length-prefixed frames to the guest. The bytes may be changed, and are not valid after the call
     * unless the port pins them.
     */
    forward(start: number, end: number, from: SwitchPort): void;
  };
}

/** Receives what is not switched between ports. */
export interface Gateway<P> {
  readonly ip: number;
  readonly mac: number;
  /** A run of unfragmented TCP over IPv4 to the gateway's MAC address, with hops left. */
  onTcpRun(from: P, start: number, end: number): void;
  /** Any other frame to the gateway, or to a group; `frame` is the offset of its Ethernet header. */
  onFrame(from: P, frame: number, end: number): void;
  /** A frame between two ports that is larger than the receiver's MTU. */
  onTooBig(from: P, to: P, frame: number, end: number): void;
  /** A TCP SYN between ports with different MTUs; its options may be changed in place. */
  onOpening(from: P, to: P, frame: number, end: number): void;
}

/** Offset of the time to live in a frame. */
const TTL = 22;
/** Destinations other than a port. */
const NOWHERE = 0;
const TCP_PATH = 1;
const GATEWAY = 2;
const ALL = 3;
type Destination<P> = P | 0 | 1 | 2 | 3;

export class Switch<P extends SwitchPort> {
  readonly #b: Uint8Array;
  readonly #guard: Guard;
  readonly #gateway: Gateway<P>;
  readonly #gatewayHigh: number;
  readonly #gatewayLow: number;
  #byMac = new Map<number, P>();
  #ports: P[] = [];

  constructor(bytes: Uint8Array, guard: Guard, gateway: Gateway<P>) {
    this.#b = bytes;
    this.#guard = guard;
    this.#gateway = gateway;
    this.#gatewayHigh = Math.floor(gateway.mac / 2 ** 32);
    this.#gatewayLow = gateway.mac >>> 0;
  }

  setPorts(ports: readonly P[]): void {
    this.#ports = [...ports];
    this.#byMac = new Map(ports.map((p) => [p.card.mac, p]));
  }

  /** Length-prefixed frames of a port, [start, end) in packet memory. */
  onRun(from: P, start: number, end: number, now: number): void {
    const b = this.#b;
    let runStart = start;
    let runDestination: Destination<P> = NOWHERE;
    let lastHigh = -1;
    let lastLow = -1;
    let lastPort: P | null = null;
    for (let p = start; p < end; ) {
      const o = p + 4;
      const next = o + get32(b, p);
      let destination: Destination<P> = NOWHERE;
      const drop = this.#guard.check(from.card, b, o, next, now) ?? from.filter?.check(b, o, next, true, now) ?? null;
      if (drop !== null) from.drops.add(drop);
      else {
        const high = get16(b, o);
        const low = get32(b, o + 2);
        if (high & 0x100) destination = this.#groupDestination(o, next);
        else if (high === this.#gatewayHigh && low === this.#gatewayLow) destination = isPlainTcp(b, o, next) && b[o + TTL] > 1 ? TCP_PATH : GATEWAY;
        else {
          if (high !== lastHigh || low !== lastLow) {
            lastHigh = high;
            lastLow = low;
            lastPort = this.#byMac.get(high * 2 ** 32 + low) ?? null;
          }
          destination = this.#portDestination(from, lastPort, o, next);
        }
      }
      if (destination !== runDestination) {
        if (p > runStart) this.#deliver(from, runDestination, runStart, p);
        runStart = p;
        runDestination = destination;
      }
      p = next;
    }
    if (end > runStart) this.#deliver(from, runDestination, runStart, end);
  }

  #portDestination(from: P, to: P | null, o: number, end: number): Destination<P> {
    if (to === null || to === from) {
      from.drops.add('no_destination');
      return NOWHERE;
    }
    if (areIsolated(from, to)) {
      from.drops.add('isolated');
      return NOWHERE;
    }
    if (end - o - ETH_HEADER > to.mtu) {
      this.#gateway.onTooBig(from, to, o, end);
      return NOWHERE;
    }
    if (from.mtu !== to.mtu && isSyn(this.#b, o, end)) this.#gateway.onOpening(from, to, o, end);
    return to;
  }

  #groupDestination(o: number, end: number): Destination<P> {
    const b = this.#b;
    const type = get16(b, o + 12);
    if (type === EtherType.arp) return checkArp(b, o + 14, end) && arpTargetIp(b, o + 14) === this.#gateway.ip ? GATEWAY : ALL;
    // the guard has checked that the IPv4 header is complete
    if (type === EtherType.ipv4 && b[o + 23] === IpProtocol.udp && (get16(b, o + 20) & 0x1fff) === 0) {
      const udp = o + 14 + ((b[o + 14] & 15) << 2);
      if (udp + 4 <= end && isDhcpRequest(get16(b, udp), get16(b, udp + 2))) return GATEWAY;
    }
    return ALL;
  }

  #deliver(from: P, destination: Destination<P>, start: number, end: number): void {
    if (destination === NOWHERE) return;
    if (destination === TCP_PATH) return void this.#gateway.onTcpRun(from, start, end);
    if (destination === GATEWAY || destination === ALL) {
      // the gateway does not change the bytes, so they can be flooded afterwards
      for (let p = start; p < end; ) {
        const next = p + 4 + get32(this.#b, p);
        this.#gateway.onFrame(from, p + 4, next);
        p = next;
      }
      if (destination === ALL && !from.isolated) this.#flood(from, start, end);
      return;
    }
    destination.queue.forward(start, end, from);
  }

  #flood(from: P, start: number, end: number): void {
    for (const to of this.#ports) if (to !== from && !areIsolated(from, to)) to.queue.forward(start, end, from);
  }
}

function isPlainTcp(b: Uint8Array, o: number, end: number): boolean {
  return get16(b, o + 12) === EtherType.ipv4 && end - o >= 34 && b[o + 23] === IpProtocol.tcp && (get16(b, o + 20) & 0x3fff) === 0;
}

/** A SYN or SYN-ACK. */
function isSyn(b: Uint8Array, o: number, end: number): boolean {
  if (!isPlainTcp(b, o, end)) return false;
  const tcp = o + 14 + ((b[o + 14] & 15) << 2);
  return tcp + 20 <= end && (b[tcp + 13] & 2) !== 0;
}
