/**
 * Frames to the guest.
 *
 * Theory of operation. Each flow has a header of 58 bytes in packet memory (length prefix, Ethernet, IPv4, TCP) with
 * addresses and ports filled in. A frame is that header with a few fields changed. The `segment` kernel cuts, copies
 * and checksums payload in one pass. Every segment carries the latest acknowledgement and window.
 *
 * Limits. No IP options. TCP options only in a SYN, and in an ACK that reports out-of-order payload (RFC 2018). Without
 * SACK, a guest whose own queue drops a burst would retransmit one segment per round trip. It would then back off for
 * seconds, as nothing gives it a new measurement (RFC 6298 5.7). Timestamps (RFC 7323) are not offered:
 * docs/decisions/0015.
 */
import { ETH, ETH_HEADER, EtherType, writeMac } from '../../wire/ethernet.ts';
import { DONT_FRAGMENT, IPV4, IPV4_HEADER, IpProtocol } from '../../wire/ipv4.ts';
import { seqAdd, seqDiff } from '../../wire/sequence.ts';
import { MAX_OPTIONS, MAX_SACK_BLOCKS, TCP, TCP_HEADER, TcpFlag, writeSack, writeSynOptions } from '../../wire/tcp.ts';
import { type Kernels, SEGMENT_HEADERS } from '../memory/kernels.ts';
import type { PacketMemory } from '../memory/packet-memory.ts';
import type { FrameHeader, TcpFlow } from './flow.ts';
import type { GuestPort } from './interface.ts';

const PREFIX = 4;
const IP = PREFIX + ETH_HEADER;
const T = IP + IPV4_HEADER;
const TTL = 64;
/** Largest window we advertise, bytes: payload of a flow that may wait in its host socket. */
export const WINDOW = 4 << 20;
/** Our window scale: 65535 << 7 is twice the window. */
export const WINDOW_SHIFT = 7;
/**
 * Payload that a NIC's flows may queue to host sockets, bytes. Above the soft limit the NIC gets small windows. Above
 * the cap, payload of flows that queue more than their fair share is dropped.
 */
const PORT_QUEUE_SOFT = 16 << 20;
export const PORT_QUEUE_CAP = 32 << 20;
const SMALL_WINDOW = 65536;

export class TcpEmitter {
  readonly #memory: PacketMemory;
  readonly #u8: Uint8Array;
  readonly #view: DataView;
  readonly #kernels: Kernels;
  readonly #gatewayMac: number;
  readonly #freeHeaders: FrameHeader[] = [];
  /** Header for frames of no flow. */
  readonly #spare: number;
  readonly #edges = new Int32Array(2 * MAX_SACK_BLOCKS);
  segments = 0;

  constructor(memory: PacketMemory, kernels: Kernels, gatewayMac: number) {
    this.#memory = memory;
    this.#u8 = memory.u8;
    this.#view = memory.view;
    this.#kernels = kernels;
    this.#gatewayMac = gatewayMac;
    this.#spare = memory.alloc(64);
  }

  /** A frame header for a flow; return it with `releaseHeader`. */
  takeHeader(guestIp: number, peerIp: number, ports: number): FrameHeader {
    const header = this.#freeHeaders.pop() ?? { at: this.#memory.alloc(64), mac: -1 };
    header.mac = -1;
    this.#fill(header.at, guestIp, peerIp, ports);
    return header;
  }

  releaseHeader(header: FrameHeader): void {
    this.#freeHeaders.push(header);
  }

  #fill(at: number, guestIp: number, peerIp: number, ports: number): void {
    const v = this.#view;
    this.#u8.fill(0, at, at + SEGMENT_HEADERS);
    writeMac(this.#u8, at + PREFIX + ETH.source, this.#gatewayMac);
    v.setUint16(at + PREFIX + ETH.type, EtherType.ipv4);
    this.#u8[at + IP + IPV4.versionIhl] = 0x45;
    v.setUint16(at + IP + IPV4.fragment, DONT_FRAGMENT);
    this.#u8[at + IP + IPV4.ttl] = TTL;
    this.#u8[at + IP + IPV4.protocol] = IpProtocol.tcp;
    v.setInt32(at + IP + IPV4.source, peerIp);
    v.setInt32(at + IP + IPV4.destination, guestIp);
    v.setInt32(at + T + TCP.source, (ports << 16) | (ports >>> 16));
    this.#u8[at + T + TCP.offset] = (TCP_HEADER / 4) << 4;
  }

  /** Whether routers may fragment what the flow sends from now on. */
  setDontFragment(flow: TcpFlow, on: boolean): void {
    this.#view.setUint16(flow.header.at + IP + IPV4.fragment, on ? DONT_FRAGMENT : 0);
  }

  /** Writes acknowledgement and window into the flow's header. No ACK is due any more. */
  #refresh(flow: TcpFlow, flags: number): void {
    const header = flow.header;
    const t = header.at;
    const mac = flow.owner.port.guestMac;
    if (header.mac !== mac) {
      header.mac = mac;
      writeMac(this.#u8, t + PREFIX + ETH.destination, mac);
    }
    this.#u8[t + T + TCP.flags] = flags;
    this.#view.setInt32(t + T + TCP.ack, flags & TcpFlag.ack ? (flow.life.held ? flow.life.acknowledged : flow.rcvNxt) : 0);
    this.#view.setUint16(t + T + TCP.window, flags & TcpFlag.syn ? Math.min(65535, this.#window(flow)) : this.#window(flow) >>> flow.rcvShift);
    const ack = flow.ack;
    ack.due = ack.urgent = false;
  }

  /**
   * Bytes behind the acknowledgement that the guest may send. The right edge never moves left, and moves right only by
   * at least a segment (RFC 9293 3.8.6.2.2).
   */
  #window(flow: TcpFlow): number {
    if (flow.life.held) return Math.max(0, seqDiff(flow.rcvEdge, flow.life.acknowledged));
    const full = flow.owner.queued > PORT_QUEUE_SOFT ? SMALL_WINDOW : WINDOW;
    const largest = flow.rcvShift === 0 ? 65535 : full;
    const free = Math.max(0, Math.min(largest, full - flow.queued));
    const edge = seqAdd(flow.rcvNxt, free & ~((1 << flow.rcvShift) - 1));
    const more = seqDiff(edge, flow.rcvEdge);
    if (more >= Math.min(flow.mss, largest >> 1)) flow.rcvEdge = edge;
    return Math.max(0, seqDiff(flow.rcvEdge, flow.rcvNxt));
  }

  /** Whether the window has grown enough since it was advertised to send a window update. */
  windowGrew(flow: TcpFlow): boolean {
    const advertised = seqDiff(flow.rcvEdge, flow.rcvNxt);
    const now = WINDOW - flow.queued;
    return advertised < WINDOW / 4 && now - advertised >= WINDOW / 2;
  }

  /** One frame without payload. A SYN carries options; an ACK reports out-of-order payload. */
  control(flow: TcpFlow, flags: number, seq: number): void {
    const port = flow.owner.port;
    this.#refresh(flow, flags);
    const at = port.queue.reserve(SEGMENT_HEADERS + MAX_OPTIONS);
    this.#u8.copyWithin(at, flow.header.at, flow.header.at + SEGMENT_HEADERS);
    let bytes = SEGMENT_HEADERS;
    if (flags & TcpFlag.syn) {
      const scale = flow.forwarded || flow.rcvShift > 0 ? WINDOW_SHIFT : -1;
      bytes += writeSynOptions(this.#u8, at + SEGMENT_HEADERS, {
        mss: port.mtu - IPV4_HEADER - TCP_HEADER,
        windowScale: scale,
        sack: flow.forwarded || flow.sack,
      });
    } else if (flow.sack && flow.outOfOrder !== null && flags === TcpFlag.ack) {
      const blocks = flow.outOfOrder.sackBlocks(this.#edges);
      if (blocks > 0) bytes += writeSack(this.#view, at + bytes, this.#edges, blocks);
    }
    this.#finish(at, bytes, seq, flow.ipId++);
    port.queue.commit(bytes);
    this.segments++;
  }

  /** Sends payload [from, from + length) as segments that start at `seq`. */
  payload(flow: TcpFlow, from: number, length: number, seq: number): void {
    const port = flow.owner.port;
    const count = Math.ceil(length / flow.mss);
    this.#refresh(flow, TcpFlag.ack);
    const at = port.queue.reserve(length + count * SEGMENT_HEADERS);
    port.queue.commit(this.#kernels.segment(at, from, length, flow.mss, flow.header.at, seq, flow.ipId));
    flow.ipId = (flow.ipId + count) & 0xffff;
    this.segments += count;
  }

  /** Sends a RST that belongs to no flow. Positional arguments: see `TcpContext.rejectStray`. */
  reset(port: GuestPort, guestIp: number, peerIp: number, ports: number, seq: number, ack: number, flags: number): void {
    this.#fill(this.#spare, guestIp, peerIp, ports);
    const at = port.queue.reserve(SEGMENT_HEADERS);
    this.#u8.copyWithin(at, this.#spare, this.#spare + SEGMENT_HEADERS);
    writeMac(this.#u8, at + PREFIX + ETH.destination, port.guestMac);
    this.#u8[at + T + TCP.flags] = flags;
    this.#view.setInt32(at + T + TCP.ack, ack);
    this.#finish(at, SEGMENT_HEADERS, seq, 0);
    port.queue.commit(SEGMENT_HEADERS);
    this.segments++;
  }

  /** Completes a frame without payload: lengths, sequence number, checksums. */
  #finish(at: number, bytes: number, seq: number, id: number): void {
    const v = this.#view;
    const tcpBytes = bytes - T;
    v.setUint32(at, bytes - PREFIX);
    v.setUint16(at + IP + IPV4.total, bytes - IP);
    v.setUint16(at + IP + IPV4.id, id & 0xffff);
    v.setInt32(at + T + TCP.seq, seq);
    this.#u8[at + T + TCP.offset] = (tcpBytes / 4) << 4;
    v.setUint16(at + IP + IPV4.checksum, ~this.#kernels.checksum(at + IP, IPV4_HEADER), true);
    // the addresses precede the TCP header, so one sum covers both; the rest of the pseudo header is added
    const swapped = ((tcpBytes & 255) << 8) | (tcpBytes >> 8);
    const sum = this.#kernels.checksum(at + IP + IPV4.source, 8 + tcpBytes) + (IpProtocol.tcp << 8) + swapped;
    v.setUint16(at + T + TCP.checksum, ~((sum & 0xffff) + (sum >>> 16)), true);
  }

  /** Rebuilds the guest's SYN for an ICMP error to quote: IPv4 header and 8 bytes of TCP. Returns its offset. */
  quoteSyn(flow: TcpFlow): number {
    const at = this.#spare;
    this.#fill(at, flow.peerIp, flow.guestIp, (flow.ports << 16) | (flow.ports >>> 16));
    this.#view.setUint16(at + IP + IPV4.total, IPV4_HEADER + TCP_HEADER);
    this.#view.setInt32(at + T + TCP.seq, flow.irs);
    this.#u8[at + T + TCP.flags] = TcpFlag.syn;
    this.#view.setUint16(at + IP + IPV4.checksum, ~this.#kernels.checksum(at + IP, IPV4_HEADER), true);
    return at + IP;
  }
}
