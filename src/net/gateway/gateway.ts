/**
 * The gateway of one network, as its guests see it: ARP, ICMP, reassembly, and the handover of everything else to the
 * services that forward it.
 *
 * Theory of operation: `onFrame` takes a frame to the gateway's MAC address or to a group, which the guard has passed.
 * It checks lengths and checksums and reassembles fragments. It then answers (ARP, echo) or calls the `Carriers`: DHCP,
 * UDP datagrams, echo requests to outside, TCP. The guest is notified by ICMP of what cannot be delivered, where RFC
 * 1812 4.3.2.7 allows it (never about ICMP errors, group addresses or later fragments), and not too often (4.3.2.8).
 * Errors of the guest about TCP segments go to the TCP path. Each drop is counted by reason.
 *
 * Limits: IPv4 only. A packet too large for its receiver on the same switch is reported by ICMP for IPv4; for IPv6 it
 * is only dropped.
 */
import { ArpOp, arpOp, arpSenderIp, arpSenderMac, arpTargetIp, checkArp } from '../../wire/arp.ts';
import { checksum16, fold16, get16, get32, sum16 } from '../../wire/bytes.ts';
import { ETH, ETH_HEADER, EtherType, readMac } from '../../wire/ethernet.ts';
import { checkIcmp, IcmpType, isIcmpError, nextHopMtu, quotedPacket, sealIcmp, Unreachable } from '../../wire/icmp.ts';
import { DONT_FRAGMENT, emitIpv4, FRAGMENT_OFFSET, IPV4, IPV4_HEADER, IpProtocol } from '../../wire/ipv4.ts';
import { checkUdp, UDP_HEADER, udpChecksumOk, udpDestination, udpSource } from '../../wire/udp.ts';
import type { Drop } from '../drop-reasons.ts';
import { isGroupOrReserved } from '../policy/addresses.ts';
import { isDhcpRequest } from '../policy/services.ts';
import { clampMss } from '../switch/mss-clamp.ts';
import type { SwitchPort } from '../switch/switch.ts';
import type { LostSegment } from '../tcp/interface.ts';
import { TokenBucket } from '../token-bucket.ts';
import { Reassembly } from './ip-reassembly.ts';
import type { FrameSink, PacketWriter } from './packet-writer.ts';
import { ERRORS_MOST, ERRORS_MS } from './service-rates.ts';

/** A switch port, as the gateway uses it. */
export type GatewayPort = SwitchPort & FrameSink;

/** A datagram of a guest. The payload is not kept after the call. */
export interface GuestDatagram {
  source: number;
  sourcePort: number;
  destination: number;
  destinationPort: number;
  payload: Uint8Array;
  /** Remaining hops beyond the gateway, 1–254. */
  ttl: number;
  /** Its sender forbids fragmentation. */
  whole: boolean;
}

/**
 * An echo request of a guest to an address other than the gateway's. The message is complete, and not kept after the
 * call.
 */
export interface GuestEcho {
  source: number;
  destination: number;
  message: Uint8Array;
  /** Remaining hops beyond the gateway, 1–254. */
  ttl: number;
  /** Its sender forbids fragmentation. */
  whole: boolean;
}

/** A packet that was not delivered, as far as it is known. */
export interface LostPacket {
  protocol: number;
  source: number;
  destination: number;
  /** Bytes of the whole payload, of which `payload` has the first. */
  size: number;
  payload: Uint8Array;
}

/** Result of forwarding: null, or why it was dropped. With `unreachable`, the guest is notified by that ICMP code. */
export type Carried = Drop | { unreachable: number; drop: Drop } | null;

/** The services that forward what leaves the network. */
export interface Carriers<P> {
  dhcpRequest(from: P, message: Uint8Array): void;
  datagram(from: P, d: GuestDatagram): Carried;
  echo(from: P, e: GuestEcho): Carried;
  tcpRun(from: P, start: number, end: number): void;
  /** A single packet that is not in packet memory. */
  tcpPacket(from: P, packet: Uint8Array): void;
  /** The guest reports that a segment did not arrive. */
  segmentLost(from: P, lost: LostSegment): void;
}

export interface GatewayOptions<P extends GatewayPort> {
  ip: number;
  mac: number;
  /** Packet memory, in which guests' frames lie. */
  memory: Uint8Array;
  writer: PacketWriter;
  carriers: Carriers<P>;
  /** Milliseconds. */
  now: () => number;
}

export class GatewayMachine<P extends GatewayPort> {
  readonly ip: number;
  readonly mac: number;
  readonly #b: Uint8Array;
  readonly #writer: PacketWriter;
  readonly #carriers: Carriers<P>;
  readonly #now: () => number;
  readonly #fragments = new Map<P, Reassembly>();
  /** ICMP errors to each guest. */
  readonly #errors = new Map<P, TokenBucket>();

  constructor({ ip, mac, memory, writer, carriers, now }: GatewayOptions<P>) {
    this.ip = ip;
    this.mac = mac;
    this.#b = memory;
    this.#writer = writer;
    this.#carriers = carriers;
    this.#now = now;
  }

  onTcpRun(from: P, start: number, end: number): void {
    this.#carriers.tcpRun(from, start, end);
  }

  onFrame(from: P, frame: number, end: number): void {
    const b = this.#b;
    const type = get16(b, frame + ETH.type);
    const at = frame + ETH_HEADER;
    if (type === EtherType.arp) {
      if (checkArp(b, at, end) && arpOp(b, at) === ArpOp.request && arpTargetIp(b, at) === this.ip)
        this.#writer.arpReply(from, this.ip, { senderMac: arpSenderMac(b, at), senderIp: arpSenderIp(b, at) });
      return;
    }
    const group = (b[frame] & 1) === 1;
    if (type === EtherType.ipv4) this.#onIpv4(from, b, at, end, group);
    else if (!group) from.drops.add('protocol');
  }

  /** Discards packets whose fragments never arrived. Call it about once a second. */
  poll(): void {
    const now = this.#now();
    for (const [port, r] of this.#fragments) {
      const n = r.expire(now);
      if (n > 0) port.drops.add('reassembly', n);
      if (r.size === 0) this.#fragments.delete(port);
    }
  }

  forget(port: P): void {
    this.#fragments.delete(port);
    this.#errors.delete(port);
  }

  #onIpv4(from: P, b: Uint8Array, ip: number, frameEnd: number, group: boolean): void {
    const header = (b[ip] & 15) << 2;
    const total = get16(b, ip + IPV4.total);
    if (frameEnd - ip < IPV4_HEADER || total < header || ip + total > frameEnd || fold16(sum16(b, ip, ip + header)) !== 0xffff) {
      from.drops.add('malformed');
      return;
    }
    const end = ip + total;
    if ((get16(b, ip + IPV4.fragment) & 0x3fff) === 0) return void this.#onPacket(from, b, ip, end, group);
    if (group) return;
    let r = this.#fragments.get(from);
    if (!r) {
      r = new Reassembly();
      this.#fragments.set(from, r);
    }
    const whole = r.add(b, ip, end, this.#now());
    if (whole === 'overlap' || whole === 'too-many') from.drops.add('reassembly');
    else if (whole) this.#onPacket(from, whole, 0, whole.length, false);
  }

  #onPacket(from: P, b: Uint8Array, ip: number, end: number, group: boolean): void {
    const protocol = b[ip + IPV4.protocol];
    const at = ip + ((b[ip] & 15) << 2);
    const destination = get32(b, ip + IPV4.destination);
    const toGroup = group || isGroupOrReserved(destination);
    if (protocol === IpProtocol.udp) return void this.#onUdp(from, b, ip, at, end, toGroup);
    if (toGroup) return;
    if (destination !== this.ip && b[ip + IPV4.ttl] <= 1) {
      from.drops.add('ttl');
      return void this.#sendError(from, b, ip, end, IcmpType.timeExceeded, 0);
    }
    if (protocol === IpProtocol.icmp) return void this.#onIcmp(from, b, ip, at, end);
    if (protocol === IpProtocol.tcp) return void this.#carriers.tcpPacket(from, b.slice(ip, end));
    from.drops.add('protocol');
    this.#sendError(from, b, ip, end, IcmpType.unreachable, Unreachable.protocol);
  }

  #onUdp(from: P, b: Uint8Array, ip: number, at: number, packetEnd: number, group: boolean): void {
    const end = checkUdp(b, at, packetEnd);
    const source = get32(b, ip + IPV4.source);
    const destination = get32(b, ip + IPV4.destination);
    if (end === 0 || !udpChecksumOk(b, at, end, source, destination)) {
      from.drops.add('malformed');
      return;
    }
    const sourcePort = udpSource(b, at);
    const destinationPort = udpDestination(b, at);
    const payload = b.subarray(at + UDP_HEADER, end);
    if (isDhcpRequest(sourcePort, destinationPort) && (group || destination === this.ip)) return void this.#onDhcp(from, payload);
    if (group || source === 0) return; // the gateway serves nothing else on group addresses
    if (destination !== this.ip && b[ip + IPV4.ttl] <= 1) {
      from.drops.add('ttl');
      return void this.#sendError(from, b, ip, packetEnd, IcmpType.timeExceeded, 0);
    }
    const ttl = Math.max(1, b[ip + IPV4.ttl] - 1);
    const whole = (get16(b, ip + IPV4.fragment) & DONT_FRAGMENT) !== 0;
    this.#settle(from, b, ip, packetEnd, this.#carriers.datagram(from, { source, sourcePort, destination, destinationPort, payload, ttl, whole }));
  }

  /** A client may only send requests for itself: the lease belongs to the hardware address in the message. */
  #onDhcp(from: P, message: Uint8Array): void {
    if (message.length < 34) from.drops.add('malformed');
    else if (readMac(message, 28) !== from.card.mac) from.drops.add('mac_spoof');
    else this.#carriers.dhcpRequest(from, message);
  }

  #onIcmp(from: P, b: Uint8Array, ip: number, at: number, end: number): void {
    if (!checkIcmp(b, at, end)) {
      from.drops.add('malformed');
      return;
    }
    if (b[at] === IcmpType.unreachable) return void this.#onUnreachable(from, b, ip, at, end);
    if (b[at] !== IcmpType.echo) return; // other errors about what was sent to the guest: the flow expires by itself
    const source = get32(b, ip + IPV4.source);
    const destination = get32(b, ip + IPV4.destination);
    if (destination !== this.ip) {
      const whole = (get16(b, ip + IPV4.fragment) & DONT_FRAGMENT) !== 0;
      const echo = { source, destination, message: b.subarray(at, end), ttl: b[ip + IPV4.ttl] - 1, whole };
      return void this.#settle(from, b, ip, end, this.#carriers.echo(from, echo));
    }
    if (from.isolated) {
      from.drops.add('isolated');
      return;
    }
    const message = new Uint8Array(b.subarray(at, end));
    sealIcmp(message, 0, message.length, IcmpType.echoReply, 0);
    this.#writer.icmp(from, this.ip, source, message);
  }

  /** Something that was sent to the guest did not arrive. Datagrams have no DF, and get no smaller. */
  #onUnreachable(from: P, b: Uint8Array, ip: number, at: number, end: number): void {
    const lost = quotedPacket(b, at, end);
    if (!lost) {
      from.drops.add('malformed');
      return;
    }
    // an error goes to the sender of what it is about
    if (lost.protocol !== IpProtocol.tcp || lost.source !== get32(b, ip + IPV4.destination)) return;
    const { source: peerIp, destination: guestIp, total: size } = lost;
    const ports = { peerPort: get16(b, lost.at), guestPort: get16(b, lost.at + 2) };
    this.#carriers.segmentLost(from, { guestIp, peerIp, ...ports, seq: get32(b, lost.at + 4) | 0, code: b[at + 1], size, mtu: nextHopMtu(b, at) });
  }

  #settle(from: P, b: Uint8Array, ip: number, end: number, result: Carried): void {
    if (result === null) return;
    if (typeof result === 'string') from.drops.add(result);
    else {
      from.drops.add(result.drop);
      this.#sendError(from, b, ip, end, IcmpType.unreachable, result.unreachable);
    }
  }

  /** Sends an ICMP error to the sender of `b[ip..end)`, from the gateway's address. */
  #sendError(from: P, b: Uint8Array, ip: number, end: number, type: number, code: number, rest = 0): void {
    const header = (b[ip] & 15) << 2;
    if ((get16(b, ip + IPV4.fragment) & FRAGMENT_OFFSET) !== 0) return;
    if (b[ip + IPV4.protocol] === IpProtocol.icmp && isIcmpError(b[ip + header])) return;
    if (!this.#mayReport(from, type, code)) return;
    this.#writer.icmpError(from, this.ip, get32(b, ip + IPV4.source), type, code, rest, b, ip, end);
  }

  /** Limits errors to a guest, except those by which it learns the path MTU. */
  #mayReport(to: P, type: number, code: number): boolean {
    if (type === IcmpType.unreachable && code === Unreachable.fragmentationNeeded) return true;
    let bucket = this.#errors.get(to);
    if (!bucket) {
      bucket = new TokenBucket(ERRORS_MOST, ERRORS_MS);
      this.#errors.set(to, bucket);
    }
    if (bucket.take(this.#now())) return true;
    to.drops.add('rate_limit');
    return false;
  }

  /** A TCP connection could not be made; the SYN's IPv4 header is at `ip` in packet memory. */
  sendUnreachable(to: P, ip: number, code: number): void {
    this.#sendError(to, this.#b, ip, ip + get16(this.#b, ip + IPV4.total), IcmpType.unreachable, code);
  }

  /**
   * Forwards an ICMP error from beyond the gateway: `lost` is the packet as the guest sent it, `source` the reporter.
   */
  relayError(to: P, source: number, error: { type: number; code: number; info: number }, lost: LostPacket): void {
    const { type, code, info } = error;
    if (!this.#mayReport(to, type, code)) return;
    const fragment = type === IcmpType.unreachable && code === Unreachable.fragmentationNeeded ? DONT_FRAGMENT : 0;
    const quoted = new Uint8Array(IPV4_HEADER + lost.payload.length);
    emitIpv4(quoted, 0, { ...lost, total: IPV4_HEADER + lost.size, id: 0, fragment });
    quoted.set(lost.payload, IPV4_HEADER);
    this.#writer.icmpError(to, source, lost.source, type, code, info, quoted, 0, quoted.length);
  }

  onTooBig(from: P, to: P, frame: number, frameEnd: number): void {
    const b = this.#b;
    const ip = frame + ETH_HEADER;
    if (get16(b, frame + ETH.type) !== EtherType.ipv4) return void from.drops.add('too_big');
    const header = (b[ip] & 15) << 2;
    const total = get16(b, ip + IPV4.total);
    if (total < header || ip + total > frameEnd || checksum16(b, ip, ip + header) !== 0) return void from.drops.add('malformed');
    if (total <= to.mtu || this.#writer.refragment(to, from.card.mac, ip, ip + total)) return;
    from.drops.add('too_big');
    this.#sendError(from, b, ip, ip + total, IcmpType.unreachable, Unreachable.fragmentationNeeded, to.mtu);
  }

  onOpening(from: P, to: P, frame: number, end: number): void {
    const ip = frame + ETH_HEADER;
    clampMss(this.#b, ip + ((this.#b[ip] & 15) << 2), end, Math.min(from.mtu, to.mtu) - IPV4_HEADER - 20);
  }
}
