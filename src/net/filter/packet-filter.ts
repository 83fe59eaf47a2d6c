/**
 * The filter of one VM, as the user engine applies it to each frame from and to its guest. The kernel engine's table is
 * the same (engine/kernel/rules/filter-table.ts).
 *
 * Theory of operation: the rules decide about the first packet of a flow; its other packets, in both directions, and
 * ICMP errors about it pass by `FilterFlows`. What is neither TCP, UDP nor an echo has no flow: each packet is decided.
 * Fragments behind the first one show no ports, and pass if the first one has passed. New rules apply to known flows at
 * once: those that they would not let begin are forgotten.
 *
 * ARP is not filtered, so that a VM keeps its address. Of IPv6, only neighbour discovery and multicast listener reports
 * pass. Frames of other EtherTypes do not.
 *
 * Limits: those of flows and fragments. A fragment that arrives before the first one of its packet is dropped. A packet
 * with IP options belongs to no flow.
 */
import { get16, get32 } from '../../wire/bytes.ts';
import { ETH_HEADER, EtherType } from '../../wire/ethernet.ts';
import { ICMP_HEADER, IcmpType, isIcmpError } from '../../wire/icmp.ts';
import { FRAGMENT_OFFSET, IPV4, IPV4_HEADER, IpProtocol, MORE_FRAGMENTS } from '../../wire/ipv4.ts';
import { findUpper, Ipv6Next, type Ipv6Upper } from '../../wire/ipv6.ts';
import { TCP, TcpFlag } from '../../wire/tcp.ts';
import { UDP_HEADER } from '../../wire/udp.ts';
import type { Drop } from '../drop-reasons.ts';
import { FilterFlows, type Flow } from './filter-flows.ts';
import type { FilterRule } from './filter-rule.ts';
import { type FilteredPacket, type FilterNetwork, matchRule } from './match-rule.ts';
import { type FragmentedPacket, PassedFragments } from './passed-fragments.ts';

const NO_OPTIONS = 0x45;
/** Bytes of an ICMP error's quote that name a flow: a header without options, and two ports or an echo's identifier. */
const QUOTE = IPV4_HEADER + 8;

/** ICMPv6 that a VM with a filter may exchange with its link: multicast listeners, routers, neighbours (RFC 4861). */
export const passesIcmp6 = (type: number): boolean => (type >= 130 && type <= 137) || type === 143;

export class PacketFilter {
  readonly #network: FilterNetwork;
  #rules: readonly FilterRule[];
  readonly #flows = new FilterFlows();
  readonly #fragments = new PassedFragments();
  // used for every packet, so that none is allocated
  readonly #packet: FilteredPacket = { outbound: false, protocol: 0, source: 0, destination: 0, sourcePort: -1, destinationPort: -1 };
  readonly #fragment: FragmentedPacket = { protocol: 0, source: 0, destination: 0, id: 0 };
  readonly #flow: Flow = { protocol: 0, peer: 0, ownPort: 0, peerPort: 0 };
  readonly #flags = { opens: false, closes: false };
  readonly #begun = { outbound: false, own: 0, opens: false };
  readonly #upper: Ipv6Upper = { protocol: -1, start: 0, at: 0, end: 0, fragment: false, later: false };

  constructor(rules: readonly FilterRule[], network: FilterNetwork) {
    this.#rules = rules;
    this.#network = network;
  }

  get rules(): readonly FilterRule[] {
    return this.#rules;
  }

  /** Replaces the rules. Flows that they let begin go on. */
  setRules(rules: readonly FilterRule[]): void {
    this.#rules = rules;
    this.#fragments.clear();
    this.#flows.retain((f, { outbound, own }) => {
      const [source, destination] = outbound ? [own, f.peer] : [f.peer, own];
      const hasPorts = f.protocol !== IpProtocol.icmp;
      const [sourcePort, destinationPort] = !hasPorts ? [-1, -1] : outbound ? [f.ownPort, f.peerPort] : [f.peerPort, f.ownPort];
      const packet = { outbound, protocol: f.protocol, source, destination, sourcePort, destinationPort };
      return matchRule(rules, packet, this.#network)?.action !== 'block';
    });
  }

  /** Whether the frame `b[o..end)` may pass, from or to the guest (`outbound`): null, or the drop reason. */
  check(b: Uint8Array, o: number, end: number, outbound: boolean, now: number): Drop | null {
    const type = end - o >= ETH_HEADER ? get16(b, o + 12) : -1;
    if (type === EtherType.ipv4) return this.#ipv4(b, o + ETH_HEADER, end, outbound, now);
    if (type === EtherType.arp) return null;
    if (type !== EtherType.ipv6) return 'filter';
    const u = this.#upper;
    findUpper(b, o + ETH_HEADER, end, u);
    return u.protocol === Ipv6Next.icmp && !u.fragment && u.at < u.end && passesIcmp6(b[u.at] as number) ? null : 'filter';
  }

  #ipv4(b: Uint8Array, ip: number, frameEnd: number, outbound: boolean, now: number): Drop | null {
    const header = ((b[ip] as number) & 15) << 2;
    if (frameEnd - ip < IPV4_HEADER || header < IPV4_HEADER) return 'malformed';
    const end = ip + get16(b, ip + IPV4.total);
    if (end > frameEnd || ip + header > end) return 'malformed';
    const fragment = get16(b, ip + IPV4.fragment);
    if ((fragment & (FRAGMENT_OFFSET | MORE_FRAGMENTS)) === 0) return this.#packetDrop(b, ip, end, outbound, now);
    const f = this.#fragment;
    f.protocol = b[ip + IPV4.protocol] as number;
    f.source = get32(b, ip + IPV4.source);
    f.destination = get32(b, ip + IPV4.destination);
    f.id = get16(b, ip + IPV4.id);
    if ((fragment & FRAGMENT_OFFSET) !== 0) return this.#fragments.has(f, now) ? null : 'filter';
    const drop = this.#packetDrop(b, ip, end, outbound, now);
    if (drop === null) this.#fragments.add(f, now);
    return drop;
  }

  /** A packet, or the first fragment of one. */
  #packetDrop(b: Uint8Array, ip: number, end: number, outbound: boolean, now: number): Drop | null {
    const at = ip + (((b[ip] as number) & 15) << 2);
    const protocol = b[ip + IPV4.protocol] as number;
    if (end - at < leastBytes(protocol)) return 'malformed';
    const p = this.#packet;
    const hasPorts = protocol === IpProtocol.tcp || protocol === IpProtocol.udp;
    p.outbound = outbound;
    p.protocol = protocol;
    p.source = get32(b, ip + IPV4.source);
    p.destination = get32(b, ip + IPV4.destination);
    p.sourcePort = hasPorts ? get16(b, at) : -1;
    p.destinationPort = hasPorts ? get16(b, at + 2) : -1;
    const isFlow = b[ip] === NO_OPTIONS && this.#readFlow(b, at);
    if (isFlow && this.#flows.renew(this.#flow, this.#flags, now)) return null;
    if (protocol === IpProtocol.icmp && isIcmpError(b[at] as number) && this.#isAboutFlow(b, at + ICMP_HEADER, end, now)) return null;
    if (matchRule(this.#rules, p, this.#network)?.action === 'block') return 'filter';
    return !isFlow || this.#flags.closes || this.#begin(b, at, now) ? null : 'connection_limit';
  }

  /** Sets `#flow` and `#flags` by `#packet`. False: the packet belongs to no flow. */
  #readFlow(b: Uint8Array, at: number): boolean {
    const { protocol, outbound, source, destination, sourcePort, destinationPort } = this.#packet;
    const f = this.#flow;
    f.protocol = protocol;
    f.peer = outbound ? destination : source;
    this.#flags.opens = this.#flags.closes = false;
    if (protocol === IpProtocol.icmp) {
      f.ownPort = f.peerPort = get16(b, at + 4);
      return b[at] === IcmpType.echo || b[at] === IcmpType.echoReply;
    }
    if (sourcePort < 0) return false;
    f.ownPort = outbound ? sourcePort : destinationPort;
    f.peerPort = outbound ? destinationPort : sourcePort;
    if (protocol !== IpProtocol.tcp) return true;
    const flags = b[at + TCP.flags] as number;
    this.#flags.opens = (flags & (TcpFlag.syn | TcpFlag.ack)) === TcpFlag.syn;
    this.#flags.closes = (flags & (TcpFlag.fin | TcpFlag.rst)) !== 0;
    return true;
  }

  /** Adds the flow of a packet that the rules let through. False if there is no room. */
  #begin(b: Uint8Array, at: number, now: number): boolean {
    const { protocol, outbound, source, destination } = this.#packet;
    if (protocol === IpProtocol.icmp && b[at] !== IcmpType.echo) return true;
    const begun = this.#begun;
    begun.outbound = outbound;
    begun.own = outbound ? source : destination;
    begun.opens = this.#flags.opens;
    return this.#flows.add(this.#flow, begun, now);
  }

  /** Whether an ICMP error quotes a packet of a known flow, which its receiver has sent. */
  #isAboutFlow(b: Uint8Array, quote: number, end: number, now: number): boolean {
    if (end - quote < QUOTE || b[quote] !== NO_OPTIONS) return false;
    const { outbound } = this.#packet;
    const f = this.#flow;
    const ports = quote + IPV4_HEADER;
    f.protocol = b[quote + IPV4.protocol] as number;
    f.peer = get32(b, quote + (outbound ? IPV4.source : IPV4.destination));
    if (f.protocol === IpProtocol.icmp) f.ownPort = f.peerPort = get16(b, ports + 4);
    else {
      f.ownPort = get16(b, ports + (outbound ? 2 : 0));
      f.peerPort = get16(b, ports + (outbound ? 0 : 2));
    }
    return this.#flows.has(f, now);
  }
}

/** Bytes of a header that the decision depends on. A first fragment has at least eight (RFC 791). */
function leastBytes(protocol: number): number {
  if (protocol === IpProtocol.tcp) return TCP.flags + 1;
  if (protocol === IpProtocol.udp) return UDP_HEADER;
  return protocol === IpProtocol.icmp ? ICMP_HEADER : 0;
}
