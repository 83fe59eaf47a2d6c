/**
 * What guests send to the gateway of a user engine's network, and through it: DHCP, DNS, TCP, UDP and echoes.
 *
 * Theory of operation: the gateway machine (net/gateway) hands over what it does not answer itself. Policy is decided
 * in one place, `#realAddress`, by net/policy: the gateway's address stands for the host's primary one, so that guests
 * reach services on all addresses of the host but none of the loopback (B92). DNS by TCP is served inside the process.
 * A guest reaches the port of a rule of its own network by the loopback; the client then appears as the gateway. Errors
 * about packets that were sent are relayed to the guest.
 *
 * Limits: one uplink; 16 addresses are skipped for one DHCP message, as guests use them without a lease.
 */
import { randomBytes } from 'node:crypto';
import type { Socket } from 'node:net';
import { isTooLarge, type SocketError } from '../../../host/datagram-sockets.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import type { FilterNetwork } from '../../../net/filter/match-rule.ts';
import { type Carried, type Carriers, GatewayMachine, type GuestDatagram, type GuestEcho } from '../../../net/gateway/gateway.ts';
import type { PacketWriter } from '../../../net/gateway/packet-writer.ts';
import type { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { HOST_ON_LOOPBACK, isLoopback } from '../../../net/policy/addresses.ts';
import { isForAnyAddress, matchesPort } from '../../../net/policy/forwarding.ts';
import { answersDns, type GatewayNetwork, gatewayReach, isLocalAddress, type Reach } from '../../../net/policy/gateway-reach.ts';
import { DHCP_SERVER_PORT, DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import type { Guard } from '../../../net/switch/guard.ts';
import type { GuestPort, LostSegment, TcpPath, TcpRefusal, TcpTarget } from '../../../net/tcp/interface.ts';
import { type UdpFlow, UdpNat } from '../../../net/udp-nat.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import { put16 } from '../../../wire/bytes.ts';
import { DHCP_CLIENT_PORT, DhcpType } from '../../../wire/dhcpv4.ts';
import { ETH, ETH_HEADER, EtherType, writeMac } from '../../../wire/ethernet.ts';
import { Unreachable } from '../../../wire/icmp.ts';
import { IPV4_HEADER, IpProtocol } from '../../../wire/ipv4.ts';
import { emitPartOfUdp, emitUdp, UDP_HEADER } from '../../../wire/udp.ts';
import type { NetworkServices } from '../../network-services.ts';
import { HostAddresses } from '../host-addresses.ts';
import type { Port } from '../port/port.ts';
import { PingSockets } from '../sockets/ping.ts';
import { openUdp, type UdpEvents } from '../sockets/udp.ts';
import type { AttachedNic } from './attached-nic.ts';
import type { NetworkFacts } from './config.ts';

const MAX_SKIPPED = 16;
/** Bytes. */
const MAX_PACKET = 65_535;
const LOOPBACK = 0x7f000001;
const FIRST_DIAL_PORT = 49_152;
/** Below those that the host's clients have usually, and that `dial` takes. */
const CLIENT_PORTS = { first: 1024, last: 32_767 };

/** What the TCP path needs of its network. */
export interface TcpNetwork {
  memory: PacketMemory;
  gatewayMac: number;
  resolve: (port: GuestPort, ip: number, tcpPort: number) => TcpTarget;
  onUnreachable: (port: GuestPort, why: TcpRefusal, ipHeader: number) => void;
  secret: Buffer;
}

export interface OutboundOptions {
  network: GatewayNetwork;
  gatewayMac: number;
  memory: PacketMemory;
  writer: PacketWriter;
  services: NetworkServices;
  guard: Guard;
  /** By VM id. */
  nics: ReadonlyMap<string, AttachedNic>;
  createTcp: (network: TcpNetwork) => TcpPath;
}

const BARRED: ReadonlySet<Reach> = new Set<Reach>(['metadata', 'prohibited', 'isolated']);

const UNREACHABLE_CODES: Record<TcpRefusal['kind'], number> = {
  refused: Unreachable.port,
  'host-unreachable': Unreachable.host,
  'net-unreachable': Unreachable.net,
  timeout: Unreachable.host,
  prohibited: Unreachable.prohibited,
};

/** Bytes of a lost packet's payload, of which `known` are known: a router quotes a part, and it was above the MTU. */
function sizeOfLost(error: SocketError, known: number): number {
  return isTooLarge(error) ? Math.max(known, Math.min(MAX_PACKET, error.info + 1) - IPV4_HEADER) : known;
}

export class Outbound implements Carriers<Port> {
  readonly gateway: GatewayMachine<Port>;
  readonly tcp: TcpPath;
  /** Where guests may send to. */
  #network: GatewayNetwork;
  readonly #gatewayIp: number;
  readonly #gatewayMac: number;
  readonly #writer: PacketWriter;
  readonly #services: NetworkServices;
  readonly #guard: Guard;
  readonly #nics: ReadonlyMap<string, AttachedNic>;
  readonly #udp: UdpNat<Port>;
  readonly #pings = new PingSockets();
  readonly #host = new HostAddresses();
  /** The host has no other address: sockets of flows send from one on the loopback. */
  #onLoopback = false;
  #nextDialPort = FIRST_DIAL_PORT;
  #nextClientPort = CLIENT_PORTS.first;

  constructor(options: OutboundOptions) {
    const { memory, gatewayMac, writer } = options;
    this.#network = options.network;
    this.#gatewayIp = gatewayOf(options.network.network.subnet);
    this.#gatewayMac = gatewayMac;
    this.#writer = writer;
    this.#services = options.services;
    this.#guard = options.guard;
    this.#nics = options.nics;
    this.gateway = new GatewayMachine({ ip: this.#gatewayIp, mac: gatewayMac, memory: memory.u8, writer, carriers: this, now: monotonicMs });
    this.#udp = new UdpNat((flow) => this.#openUdp(flow));
    this.tcp = options.createTcp({
      memory,
      gatewayMac,
      resolve: (port, ip, tcpPort) => this.#resolveTcp(port as Port, ip, tcpPort),
      onUnreachable: (port, why, ipHeader) => this.gateway.sendUnreachable(port as Port, ipHeader, UNREACHABLE_CODES[why.kind]),
      secret: randomBytes(32),
    });
  }

  /** What filters of VMs know of addresses. */
  get filterAddresses(): FilterNetwork {
    return { gateway: this.#gatewayIp, isLocal: (ip) => isLocalAddress(this.#network, ip) || this.#host.isOwn(ip) };
  }

  close(): void {
    this.tcp.close();
    this.#udp.close();
    this.#pings.close();
    this.#host.close();
  }

  /** Where guests may send to from now on. */
  setNetwork(network: GatewayNetwork): void {
    this.#network = network;
  }

  /** Cuts what guests have begun and may not reach any more. */
  cutBarred(): void {
    for (const { port } of this.#nics.values()) {
      const isBarred = (ip: number): boolean => BARRED.has(gatewayReach(this.#network, port.isolated, ip, this.#host.isOwn(ip)));
      this.tcp.removePeers(port, (ip, tcpPort) => !answersDns(this.#network, ip, this.#host.isOwn(ip), tcpPort) && isBarred(ip));
      this.#udp.removePeers(port, isBarred);
    }
  }

  /** To be called once a second. */
  poll(now: number): void {
    this.#followHost();
    this.gateway.poll();
    this.#udp.poll(now);
    this.#pings.poll(now);
  }

  /** Drops all flows of a port. */
  forgetPort(port: Port): void {
    this.tcp.removePort(port);
    this.#udp.forget(port);
    this.#pings.forget(port.index);
    this.gateway.forget(port);
  }

  /** Drops the flows of a guest's former address. */
  forgetAddress(port: Port, ip: number): void {
    this.tcp.removeGuestAddress(port, ip);
    this.#udp.forget(port, ip);
  }

  facts(): NetworkFacts {
    return { primary: this.#host.primary(), mayPing: this.#pings.allowed() };
  }

  /** Why the last echo to outside could not be sent; empty when it could. */
  get pingRefusal(): string {
    return this.#pings.refused;
  }

  // ---- DHCP and DNS

  /** Answers to the guest that asks, whatever address the message has. */
  dhcpRequest(from: Port, message: Uint8Array): void {
    if (!this.#nics.get(from.id)?.rates.dhcp.take(monotonicMs())) {
      from.drops.add('rate_limit');
      return;
    }
    const { dhcp } = this.#services;
    const lastSeen = dhcp.lastSeen.get(from.id);
    for (let i = 0; i < MAX_SKIPPED; i++) {
      const c = dhcp.candidate(message, monotonicMs());
      if (!c) break;
      const owner = this.#guard.table.ownerOf(c.ip);
      dhcp.probed(c.ip, owner && owner.id !== c.nic ? owner.mac : null, monotonicMs());
    }
    this.#services.answerDhcp(message, (answer) => {
      const d = { source: this.#gatewayIp, sourcePort: DHCP_SERVER_PORT, destination: answer.to, destinationPort: DHCP_CLIENT_PORT };
      this.#writer.udp(from, d, answer.bytes);
      // INFORM changes nothing: it comes from a guest that has set its address by itself
      if (answer.type === DhcpType.ack && dhcp.lastSeen.get(from.id) !== lastSeen) this.#guard.table.onDhcp(from.card, monotonicMs());
    });
  }

  /** Flows start anew when the host gets its first address, or loses its last one. */
  #followHost(): void {
    const onLoopback = this.#host.primary() === HOST_ON_LOOPBACK;
    if (onLoopback !== this.#onLoopback) this.#udp.close();
    this.#onLoopback = onLoopback;
  }

  #dnsQuery(from: Port, d: GuestDatagram): Carried {
    if (!this.#nics.get(from.id)?.rates.dns.take(monotonicMs())) return 'rate_limit';
    const { source, sourcePort, destination } = d;
    this.#services.dns.onQuery(new Uint8Array(d.payload), from.id, (answer) => {
      this.#writer.udp(from, { source: destination, sourcePort: DNS_SERVICE_PORT, destination: source, destinationPort: sourcePort }, answer);
    });
    return null;
  }

  // ---- TCP

  tcpRun(from: Port, start: number, end: number): void {
    this.tcp.onRun(from, start, end);
  }

  segmentLost(from: Port, lost: LostSegment): void {
    this.tcp.onSegmentLost(from, lost);
  }

  tcpPacket(from: Port, packet: Uint8Array): void {
    const frame = new Uint8Array(ETH_HEADER + packet.length);
    writeMac(frame, ETH.destination, this.#gatewayMac);
    writeMac(frame, ETH.source, from.card.mac);
    put16(frame, ETH.type, EtherType.ipv4);
    frame.set(packet, ETH_HEADER);
    from.asRun(frame, (start, end) => this.tcp.onRun(from, start, end));
  }

  /** Connects a stream of the host to a guest's port; the guest sees the gateway as its peer. */
  dial(to: { port: Port; ip: number; tcpPort: number }, socket: Socket, onAnswer: (why: TcpRefusal | null) => void): void {
    this.#nextDialPort = this.#nextDialPort >= 65_535 ? FIRST_DIAL_PORT : this.#nextDialPort + 1;
    const addresses = { guestIp: to.ip, guestPort: to.tcpPort, sourceIp: this.#gatewayIp, sourcePort: this.#nextDialPort };
    this.tcp.accept(to.port, { ...addresses, client: socket, onAnswer });
  }

  /** The port of a client that appears as the gateway, and cannot have its own. */
  nextClientPort(): number {
    const port = this.#nextClientPort;
    this.#nextClientPort = port < CLIENT_PORTS.last ? port + 1 : CLIENT_PORTS.first;
    return port;
  }

  #resolveTcp(from: Port, ip: number, port: number): TcpTarget {
    if (answersDns(this.#network, ip, this.#host.isOwn(ip), port)) return { serve: (client) => this.#services.dns.serveTcp(client, from.id) };
    const real = this.#realAddress(from, ip, 'tcp', port);
    if (real === HOST_ON_LOOPBACK) return { host: formatIpv4(real), port, from: formatIpv4(real) };
    if (typeof real === 'number') return { host: formatIpv4(real), port };
    from.drops.add(real);
    return ip === this.#gatewayIp && real !== 'isolated' ? 'reset' : 'drop';
  }

  // ---- UDP and echoes

  #openUdp(flow: UdpFlow<Port>): ReturnType<typeof openUdp> {
    const events: UdpEvents = {
      onMessage: (bytes, ip, port) => {
        // the host's programs answer from 127.0.0.1, whichever address of the loopback was asked
        const peer = this.#udp.peerOf(flow, ip, monotonicMs()) ?? (isLoopback(ip) ? this.#udp.peerOf(flow, HOST_ON_LOOPBACK, monotonicMs()) : null);
        if (peer === null) flow.port.drops.add('udp_unasked');
        else this.#writer.udp(flow.port, { source: peer, sourcePort: port, destination: flow.guestIp, destinationPort: flow.guestPort }, bytes);
      },
      onLost: (error) => this.#onDatagramLost(flow, error),
      onFailed: () => this.#udp.failed(flow),
    };
    return openUdp(events, this.#host.primary() === HOST_ON_LOOPBACK ? formatIpv4(HOST_ON_LOOPBACK) : null);
  }

  datagram(from: Port, d: GuestDatagram): Carried {
    if (answersDns(this.#network, d.destination, this.#host.isOwn(d.destination), d.destinationPort)) return this.#dnsQuery(from, d);
    for (const rule of this.#nics.get(from.id)?.rules.values() ?? []) {
      const sent = rule.rule.protocol === 'udp' ? rule.onAnswer(d) : null;
      if (sent !== null) return sent ? null : 'queue_full';
    }
    if (d.destinationPort === 0) return 'prohibited'; // reserved (RFC 6335, 6)
    const real = this.#realAddress(from, d.destination, 'udp', d.destinationPort);
    if (typeof real === 'string') return real;
    return this.#udp.send(from, d, real, monotonicMs());
  }

  #onDatagramLost(flow: UdpFlow<Port>, error: SocketError): void {
    const destination = this.#udp.knownAs(flow, error.destination);
    if (destination === null) return;
    const payload = new Uint8Array(UDP_HEADER + error.payload.length);
    payload.set(error.payload, UDP_HEADER);
    const d = { source: flow.guestIp, sourcePort: flow.guestPort, destination, destinationPort: error.port };
    const size = sizeOfLost(error, payload.length);
    if (size === payload.length) emitUdp(payload, 0, size, d);
    else emitPartOfUdp(payload, size, d);
    this.gateway.relayError(flow.port, this.#errorSource(error, destination), error, { ...d, protocol: IpProtocol.udp, size, payload });
  }

  echo(from: Port, e: GuestEcho): Carried {
    const real = this.#realAddress(from, e.destination, 'icmp', 0);
    if (typeof real === 'string') return real;
    const { source, destination } = e;
    return this.#pings.send(
      from.index,
      { who: `${source} ${destination}`, destination: real, message: e.message, ttl: e.ttl, whole: e.whole },
      {
        onReply: (_from, message) => this.#writer.icmp(from, destination, source, message),
        onLost: (error) => {
          const { payload } = error;
          const lost = { protocol: IpProtocol.icmp, source, destination, size: sizeOfLost(error, payload.length), payload };
          this.gateway.relayError(from, this.#errorSource(error, destination), error, lost);
        },
      },
    );
  }

  /**
   * The address that an ICMP error to a guest comes from, about a packet that it sent to `destination`: the host
   * appears as the gateway, or as the address that the guest sent to.
   */
  #errorSource(error: SocketError, destination: number): number {
    const { offender } = error;
    if (offender === error.destination) return destination;
    return offender === null || isLoopback(offender) || this.#host.isOwn(offender) ? this.#gatewayIp : offender;
  }

  // ---- policy

  /** Where a packet to `ip` is sent; a drop reason when it is not allowed. */
  #realAddress(from: Port, ip: number, protocol: 'tcp' | 'udp' | 'icmp', port: number): number | 'metadata' | 'prohibited' | 'isolated' {
    const reach = gatewayReach(this.#network, from.isolated, ip, this.#host.isOwn(ip));
    if (reach === 'isolated' || reach === 'metadata') return reach;
    if (protocol !== 'icmp' && this.#isRulePort(protocol, ip, port)) return LOOPBACK;
    if (reach === 'gateway') return this.#host.primary() ?? 'prohibited';
    if (reach === 'prohibited') return reach;
    return ip;
  }

  /** A rule of this network listens on that port of that address of the host, and on the loopback too. */
  #isRulePort(protocol: 'tcp' | 'udp', ip: number, port: number): boolean {
    if (ip !== this.#gatewayIp && !this.#host.isOwn(ip)) return false;
    for (const nic of this.#nics.values())
      for (const r of nic.rules.values()) if (r.listening && matchesPort(r.rule, protocol, port) && isForAnyAddress(r.rule)) return true;
    return false;
  }
}
