/**
 * Frames of the gateway to a guest, written straight into its port's queue.
 *
 * Theory of operation: every frame but an announcement has the gateway's MAC address as source. A packet larger than
 * the port's MTU is fragmented. If the queue has no room the frame is dropped as `queue_full`.
 *
 * Limits: no IP options are sent; identification numbers are one sequence for all guests.
 */
import { ARP_SIZE, type Arp, ArpOp, announcementOf, emitArp } from '../../wire/arp.ts';
import { checksum16, get16, put16, put32 } from '../../wire/bytes.ts';
import { BROADCAST_MAC, ETH, ETH_HEADER, EtherType, writeMac } from '../../wire/ethernet.ts';
import { emitIcmpError, icmpErrorSize } from '../../wire/icmp.ts';
import { DONT_FRAGMENT, emitIpv4, IPV4, IPV4_HEADER, IpProtocol } from '../../wire/ipv4.ts';
import { emitUdp, UDP_HEADER } from '../../wire/udp.ts';
import type { DropCounts } from '../drop-reasons.ts';
import { LIMITED_BROADCAST } from '../policy/addresses.ts';

/** The receiving side of one guest. */
export interface FrameSink {
  readonly guestMac: number;
  readonly mtu: number;
  readonly drops: DropCounts;
  readonly queue: {
    /** Offset in packet memory, or -1. */
    tryReserve(bytes: number): number;
    commit(bytes: number): void;
  };
}

export interface Datagram {
  source: number;
  sourcePort: number;
  destination: number;
  destinationPort: number;
}

const MORE_FRAGMENTS = 0x2000;
const LENGTH_PREFIX = 4;
const MAX_DATAGRAM = 65_535 - IPV4_HEADER;

export class PacketWriter {
  readonly #b: Uint8Array;
  readonly #mac: number;
  /** Where a datagram is assembled before fragmentation. */
  readonly #scratch = new Uint8Array(MAX_DATAGRAM);
  #id = 1;

  /** `bytes` is the packet memory; `mac` the gateway's. */
  constructor(bytes: Uint8Array, mac: number) {
    this.#b = bytes;
    this.#mac = mac;
  }

  /** Answers the ARP request `asked`. */
  arpReply(to: FrameSink, ip: number, asked: { senderMac: number; senderIp: number }): void {
    const at = this.#frame(to, ARP_SIZE, EtherType.arp, this.#mac);
    if (at < 0) return;
    const a: Arp = { op: ArpOp.reply, senderMac: this.#mac, senderIp: ip, targetMac: asked.senderMac, targetIp: asked.senderIp };
    emitArp(this.#b, at, a);
    this.#commit(to, ARP_SIZE);
  }

  /** Asks a guest by ARP whether it uses an address. */
  arpRequest(to: FrameSink, ip: number, target: number): void {
    const at = this.#frame(to, ARP_SIZE, EtherType.arp, this.#mac);
    if (at < 0) return;
    emitArp(this.#b, at, { op: ArpOp.request, senderMac: this.#mac, senderIp: ip, targetMac: 0, targetIp: target });
    this.#commit(to, ARP_SIZE);
  }

  /** Announces by gratuitous ARP (RFC 5227, 3) that another guest has an address. */
  announce(to: FrameSink, mac: number, ip: number): void {
    const at = this.#frame(to, ARP_SIZE, EtherType.arp, mac);
    if (at < 0) return;
    emitArp(this.#b, at, announcementOf(mac, ip));
    this.#commit(to, ARP_SIZE);
  }

  /** Sends a UDP datagram; false when it exceeds any packet. */
  udp(to: FrameSink, d: Datagram, payload: Uint8Array): boolean {
    const length = UDP_HEADER + payload.length;
    if (length > MAX_DATAGRAM) return false;
    this.#scratch.set(payload, UDP_HEADER);
    emitUdp(this.#scratch, 0, length, d);
    this.ipv4(to, d.source, d.destination, IpProtocol.udp, this.#scratch, 0, length);
    return true;
  }

  /** Sends the ICMP message `message`, which has its checksum. */
  icmp(to: FrameSink, source: number, destination: number, message: Uint8Array): void {
    this.ipv4(to, source, destination, IpProtocol.icmp, message, 0, message.length);
  }

  /** Sends an ICMP error about the IPv4 packet `quoted[from..end)` to its sender. */
  icmpError(to: FrameSink, source: number, destination: number, type: number, code: number, rest: number, quoted: Uint8Array, from: number, end: number): void {
    const size = icmpErrorSize(end - from);
    emitIcmpError(this.#scratch, 0, type, code, rest, quoted, from, end);
    this.ipv4(to, source, destination, IpProtocol.icmp, this.#scratch, 0, size);
  }

  /** Sends one packet, or its fragments. `payload[start..end)` must not lie in the port's queue. */
  ipv4(to: FrameSink, source: number, destination: number, protocol: number, payload: Uint8Array, start: number, end: number): void {
    const id = this.#nextId();
    const whole = end - start + IPV4_HEADER <= to.mtu;
    const most = whole ? end - start : (to.mtu - IPV4_HEADER) & ~7;
    for (let at = start; at < end || at === start; at += most) {
      const n = Math.min(most, end - at);
      const ip = this.#frame(to, IPV4_HEADER + n, EtherType.ipv4, this.#mac);
      if (ip < 0) return;
      const b = this.#b;
      // RFC 2131, 4.1: an answer to the broadcast address goes to the link's, too
      if (destination === LIMITED_BROADCAST) writeMac(b, ip - ETH_HEADER + ETH.destination, BROADCAST_MAC);
      const field = ((at - start) >> 3) | (at + n < end ? MORE_FRAGMENTS : 0);
      emitIpv4(b, ip, { total: IPV4_HEADER + n, id, fragment: field, protocol, source, destination });
      b.set(payload.subarray(at, at + n), ip + IPV4_HEADER);
      this.#commit(to, IPV4_HEADER + n);
      if (n === 0) return;
    }
  }

  /**
   * Forwards another guest's packet, `b[ip..end)` in packet memory, in fragments that fit. False when its sender
   * forbids fragmentation.
   */
  refragment(to: FrameSink, sourceMac: number, ip: number, end: number): boolean {
    const b = this.#b;
    const field = get16(b, ip + IPV4.fragment);
    if (field & DONT_FRAGMENT) return false;
    const header = (b[ip] & 15) << 2;
    const most = (to.mtu - header) & ~7;
    if (most <= 0) return false;
    for (let at = ip + header; at < end; at += most) {
      const n = Math.min(most, end - at);
      const out = this.#frame(to, header + n, EtherType.ipv4, sourceMac);
      if (out < 0) return true;
      b.copyWithin(out, ip, ip + header);
      b.copyWithin(out + header, at, at + n);
      put16(b, out + IPV4.total, header + n);
      put16(b, out + IPV4.fragment, ((field & 0x1fff) + ((at - ip - header) >> 3)) | (at + n < end ? MORE_FRAGMENTS : field & MORE_FRAGMENTS));
      put16(b, out + IPV4.checksum, 0);
      put16(b, out + IPV4.checksum, checksum16(b, out, out + header));
      this.#commit(to, header + n);
    }
    return true;
  }

  #nextId(): number {
    this.#id = this.#id === 0xffff ? 1 : this.#id + 1;
    return this.#id;
  }

  /** Starts a frame with room for `size` bytes behind its header; returns their offset, or -1. */
  #frame(to: FrameSink, size: number, type: number, sourceMac: number): number {
    const at = to.queue.tryReserve(LENGTH_PREFIX + ETH_HEADER + size);
    if (at < 0) {
      to.drops.add('queue_full');
      return -1;
    }
    const b = this.#b;
    const o = at + LENGTH_PREFIX;
    put32(b, at, ETH_HEADER + size);
    writeMac(b, o + ETH.destination, to.guestMac);
    writeMac(b, o + ETH.source, sourceMac);
    put16(b, o + ETH.type, type);
    return o + ETH_HEADER;
  }

  #commit(to: FrameSink, size: number): void {
    to.queue.commit(LENGTH_PREFIX + ETH_HEADER + size);
  }
}
