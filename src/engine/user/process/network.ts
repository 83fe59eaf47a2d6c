/**
 * One network of the user engine: ports, switch, guard, gateway, and the host sockets behind it.
 *
 * Theory of operation: the machines of src/net decide; this class owns them, gives them the time, and carries out what
 * they ask for. Policy for what a guest sends to outside, in one place (`#realAddress`): the gateway's address stands
 * for the host's own primary address, so that services on all addresses are reached and those of the loopback are not
 * (B92); the host network reaches nothing else; the subnets of our networks, 0.0.0.0/8, 127.0.0.0/8 and group addresses
 * are reached by nobody through the gateway; an isolated card does not reach the host. A rule's port, when a guest of
 * this network asks for it, is reached by the loopback, so that it appears as the gateway.
 *
 * Limits: one uplink; IPv6 stays on the switch.
 */
import { randomBytes, randomInt } from 'node:crypto';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { SocketError } from '../../../host/datagram-sockets.ts';
import { DhcpServer } from '../../../net/dhcp/server.ts';
import { DnsForwarder } from '../../../net/dns-forwarder.ts';
import { type Carried, type Carriers, GatewayMachine, type GuestDatagram, type GuestEcho } from '../../../net/gateway/gateway.ts';
import { PacketWriter } from '../../../net/gateway/packet-writer.ts';
import { DHCP_MOST, DHCP_MS, NAMES_MOST, NAMES_MS } from '../../../net/gateway/service-rates.ts';
import type { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { isLoopback } from '../../../net/policy/addresses.ts';
import { isForAnyAddress, matchesPort } from '../../../net/policy/forwarding.ts';
import { gatewayReach } from '../../../net/policy/gateway-reach.ts';
import { DNS_SERVICE_PORT } from '../../../net/policy/services.ts';
import { Guard, GuardedCard } from '../../../net/switch/guard.ts';
import { Switch } from '../../../net/switch/switch.ts';
import type { GuestPort, TcpPath, TcpRefusal, TcpTarget } from '../../../net/tcp/interface.ts';
import { TokenBucket } from '../../../net/token-bucket.ts';
import { type UdpFlow, UdpNat } from '../../../net/udp-nat.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import { put16 } from '../../../wire/bytes.ts';
import { DhcpType } from '../../../wire/dhcpv4.ts';
import { ETH, ETH_HEADER, EtherType, writeMac } from '../../../wire/ethernet.ts';
import { Unreachable } from '../../../wire/icmp.ts';
import { IpProtocol } from '../../../wire/ipv4.ts';
import { emitUdp, UDP_HEADER } from '../../../wire/udp.ts';
import { DnsService } from '../../dns-service.ts';
import type { NicStats, ObservedNetwork, ObservedNic } from '../../engine.ts';
import { HostAddresses } from '../host-addresses.ts';
import { Port, type PortOwner } from '../port/port.ts';
import type { PortMemory } from '../port/port-memory.ts';
import { ForwardRule } from '../sockets/forward.ts';
import { PingSockets } from '../sockets/ping.ts';
import { openUdp } from '../sockets/udp.ts';
import type { NetworkConfig, NetworkFacts, NetworkNic } from './config.ts';
import { GATEWAY_MAC } from './gateway-mac.ts';

const LEASE_SECONDS = 3600;
const HOUSEKEEPING_MS = 1000;
const ASK_MS = 200;
/** Addresses passed over for one DHCP message, as guests use them without a lease. */
const MAX_PASSED_OVER = 16;

/** A card with everything that belongs to it. */
interface Cable {
  nic: NetworkNic;
  port: Port;
  rules: Map<string, ForwardRule>;
  /** Serves DNS by TCP to this card, on a port of the loopback that the TCP path connects to. */
  names: Server;
  /** What it may ask of the gateway. */
  requests: { dhcp: TokenBucket; names: TokenBucket };
}

export interface NetworkOptions {
  config: NetworkConfig;
  memory: PacketMemory;
  portMemory: PortMemory;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
  /** Leases are to be saved. */
  onLeases: () => void;
  /** Something that `status` tells has changed. */
  onChanged: () => void;
  /** Makes the TCP path of this network. */
  createTcp: (o: TcpSeam) => TcpPath;
}

/** What the TCP path needs of its network. */
export interface TcpSeam {
  memory: PacketMemory;
  gatewayMac: number;
  resolve: (port: GuestPort, ip: number, tcpPort: number) => TcpTarget;
  onUnreachable: (port: GuestPort, why: TcpRefusal, ipHeader: number) => void;
  secret: Buffer;
}

const UNREACHABLE_CODES: Record<TcpRefusal['kind'], number> = {
  refused: Unreachable.port,
  'host-unreachable': Unreachable.host,
  'net-unreachable': Unreachable.net,
  timeout: Unreachable.host,
  prohibited: Unreachable.prohibited,
};

export class UserNetwork implements PortOwner, Carriers<Port> {
  readonly dhcp: DhcpServer;
  readonly dns: DnsForwarder;
  #config: NetworkConfig;
  readonly #o: NetworkOptions;
  readonly #gatewayIp: number;
  readonly #gatewayMac: number;
  readonly #guard: Guard;
  readonly #switch: Switch<Port>;
  readonly #machine: GatewayMachine<Port>;
  readonly #writer: PacketWriter;
  readonly #dnsService: DnsService;
  readonly #udp: UdpNat<Port>;
  readonly #pings = new PingSockets();
  readonly #host = new HostAddresses();
  readonly #tcp: TcpPath;
  readonly #cables = new Map<string, Cable>();
  /** When a card was last asked for its address. */
  readonly #asked = new Map<string, number>();
  readonly #housekeeping: NodeJS.Timeout;
  #nextIndex = 0;
  #nextDialPort = 49_152;
  #wasExhausted = false;

  constructor(o: NetworkOptions) {
    const { network } = o.config;
    this.#o = o;
    this.#config = { ...o.config, nics: [] };
    this.#gatewayIp = gatewayOf(network.subnet);
    this.#gatewayMac = GATEWAY_MAC[network.name];
    this.dhcp = new DhcpServer({ subnet: network.subnet, leaseSeconds: LEASE_SECONDS, domain: 'anka.internal' });
    this.dns = new DnsForwarder({ subnet: network.subnet, gateway: this.#gatewayIp, forward: o.config.dnsForward }, () => randomInt(65_536));
    this.#dnsService = new DnsService(this.dns, (x, m) => o.log.info(x, m));
    this.#guard = new Guard(
      network.subnet,
      this.#gatewayMac,
      () => this.#addressesChanged(),
      (card, ip) => this.#askWhose(card.id, ip),
    );
    this.#writer = new PacketWriter(o.memory.u8, this.#gatewayMac);
    this.#machine = new GatewayMachine(this.#gatewayIp, this.#gatewayMac, o.memory.u8, this.#writer, this, Date.now);
    this.#switch = new Switch(o.memory.u8, this.#guard, this.#machine);
    this.#udp = new UdpNat((flow) =>
      openUdp({
        onMessage: (bytes, ip, port) => {
          const peer = this.#udp.peerOf(flow, ip, Date.now());
          if (peer === null) flow.port.drops.add('udp_unasked');
          else this.#writer.udp(flow.port, { source: peer, sourcePort: port, destination: flow.guestIp, destinationPort: flow.guestPort }, bytes);
        },
        onLost: (error) => this.#datagramLost(flow, error),
        onFailed: () => this.#udp.failed(flow),
      }),
    );
    this.#tcp = o.createTcp({
      memory: o.memory,
      gatewayMac: this.#gatewayMac,
      resolve: (port, ip, tcpPort) => this.#resolveTcp(port as Port, ip, tcpPort),
      onUnreachable: (port, why, ipHeader) => this.#machine.tellUnreachable(port as Port, ipHeader, UNREACHABLE_CODES[why.kind]),
      secret: randomBytes(32),
    });
    this.#housekeeping = setInterval(() => this.#keepHouse(), HOUSEKEEPING_MS);
  }

  close(): void {
    clearInterval(this.#housekeeping);
    for (const id of [...this.#cables.keys()]) this.#unplug(id);
    this.#tcp.close();
    this.#udp.close();
    this.#pings.close();
    this.#host.close();
    this.#dnsService.close();
  }

  // ---- what is wanted

  configure(config: NetworkConfig): void {
    this.#config = config;
    const wanted = new Map(config.nics.map((n) => [n.id, n]));
    for (const [id, c] of this.#cables) {
      const n = wanted.get(id);
      if (!n || n.socket !== c.port.socketPath || n.outsideMac !== c.port.card.mac || n.insideMac !== c.port.insideMac) this.#unplug(id);
    }
    for (const n of config.nics) {
      const c = this.#cables.get(n.id) ?? this.#plug(n);
      c.nic = n;
      c.port.isolated = n.isolated;
      c.port.mtu = n.mtu;
      c.port.card.reservedIp = n.reservedIp ?? -1;
      this.#configureRules(c);
    }
    this.#switch.setPorts([...this.#cables.values()].map((c) => c.port));
    this.#refresh();
  }

  #plug(nic: NetworkNic): Cable {
    const card = new GuardedCard(nic.id, nic.outsideMac);
    const port = new Port(
      {
        index: this.#nextIndex++,
        card,
        insideMac: nic.insideMac,
        isolated: nic.isolated,
        mtu: nic.mtu,
        socket: nic.socket,
      },
      this.#o.portMemory,
      this,
    );
    const names = createServer((socket) => this.#dnsService.serveTcp(socket, nic.id)).listen(0, '127.0.0.1');
    names.on('error', (e) => this.#o.log.warn({ nic: nic.id, error: e.message }, 'dns tcp'));
    const requests = { dhcp: new TokenBucket(DHCP_MOST, DHCP_MS), names: new TokenBucket(NAMES_MOST, NAMES_MS) };
    const cable: Cable = { nic, port, rules: new Map(), names, requests };
    this.#cables.set(nic.id, cable);
    return cable;
  }

  #unplug(id: string): void {
    const c = this.#cables.get(id);
    if (!c) return;
    this.#cables.delete(id);
    this.#asked.delete(id);
    for (const r of c.rules.values()) r.close();
    c.names.close();
    this.#linkGone(c.port);
    c.port.close();
  }

  /** Its flows are over. What it is called and leased stays. */
  #linkGone(port: Port): void {
    this.#tcp.portGone(port);
    this.#udp.forget(port);
    this.#machine.forget(port);
    this.#guard.forget(port.card);
  }

  #configureRules(c: Cable): void {
    const wanted = new Set(c.nic.rules.map((r) => JSON.stringify(r)));
    for (const [key, rule] of c.rules) {
      if (wanted.has(key)) continue;
      rule.close();
      c.rules.delete(key);
    }
    for (const rule of c.nic.rules) {
      const key = JSON.stringify(rule);
      if (c.rules.has(key)) continue;
      const target = (): { port: Port; ip: number } | null => (c.port.connected && c.port.card.ip >= 0 ? { port: c.port, ip: c.port.card.ip } : null);
      const context = { gatewayIp: this.#gatewayIp, tcp: this.#tcp, writer: this.#writer, target };
      c.rules.set(key, new ForwardRule(rule, context, () => this.#o.onChanged()));
    }
  }

  /** Resolvers that names are asked of. */
  setUpstreams(servers: readonly string[]): void {
    this.dns.setUpstreams(servers);
  }

  // ---- what is known of addresses

  /** Leases, reservations and self-set addresses, told to all who must know. */
  #refresh(): void {
    const now = Date.now();
    const cables = [...this.#cables.values()];
    for (const c of cables) {
      const lease = this.dhcp.pool.lease(c.nic.id, now);
      const ip = lease?.bound ? lease.ip : -1;
      const before = c.port.card.leaseIp;
      c.port.card.leaseIp = ip;
      if (before >= 0 && before !== ip && before !== c.port.card.ip) this.#addressGone(c.port, before);
    }
    this.#guard.setCards(cables.map((c) => c.port.card));
    this.dhcp.setNics(
      cables.map((c) => ({
        id: c.nic.id,
        mac: c.nic.outsideMac,
        hostname: c.nic.vmName,
        mtu: c.nic.mtu,
        ...(c.nic.reservedIp === undefined ? {} : { reservedIp: c.nic.reservedIp }),
        ...(c.port.card.staticIp < 0 ? {} : { staticIp: c.port.card.staticIp }),
      })),
    );
    this.dns.setNames(new Map(cables.flatMap((c) => (c.port.card.ip < 0 ? [] : [[c.nic.vmName, c.port.card.ip] as const]))));
  }

  /** A guest speaks as an address that it has not claimed: it is asked, at most once in 200 ms. */
  #askWhose(id: string, ip: number): void {
    const port = this.port(id);
    const now = Date.now();
    if (!port || now - (this.#asked.get(id) ?? 0) < ASK_MS) return;
    this.#asked.set(id, now);
    this.#writer.arpRequest(port, this.#gatewayIp, ip);
  }

  #addressGone(port: Port, ip: number): void {
    this.#tcp.guestAddressGone(port, ip);
    this.#udp.forget(port, ip);
  }

  #addressesChanged(): void {
    this.#refresh();
    this.#o.onChanged();
  }

  #keepHouse(): void {
    const now = Date.now();
    this.#machine.poll();
    this.#udp.poll(now);
    this.#pings.poll(now);
    for (const c of this.#cables.values()) {
      for (const r of c.rules.values()) r.poll(now);
      if (c.port.card.leaseIp >= 0 && !this.dhcp.pool.lease(c.nic.id, now)?.bound) this.#addressesChanged();
    }
  }

  // ---- events of ports

  onRun(port: Port, start: number, end: number): void {
    this.#switch.onRun(port, start, end, Date.now());
  }

  onRoom(port: Port): void {
    this.#tcp.onRoom(port);
  }

  onLink(port: Port): void {
    this.#o.log.info({ nic: port.id, connected: port.connected }, 'cable');
    if (!port.connected) this.#linkGone(port);
    this.#o.onChanged();
  }

  // ---- what leaves the network

  tcpRun(from: Port, start: number, end: number): void {
    this.#tcp.onRun(from, start, end);
  }

  tcpPacket(from: Port, packet: Uint8Array): void {
    const frame = new Uint8Array(ETH_HEADER + packet.length);
    writeMac(frame, ETH.destination, this.#gatewayMac);
    writeMac(frame, ETH.source, from.card.mac);
    put16(frame, ETH.type, EtherType.ipv4);
    frame.set(packet, ETH_HEADER);
    from.asRun(frame, (start, end) => this.#tcp.onRun(from, start, end));
  }

  /** A guest asks by DHCP: the message is for `onMessage` of the server, the answer for this guest alone. */
  dhcpRequest(from: Port, message: Uint8Array): void {
    if (!this.#cables.get(from.id)?.requests.dhcp.take(Date.now())) {
      from.drops.add('rate_limit');
      return;
    }
    const asked = this.dhcp.lastSeen.get(from.id);
    for (let i = 0; i < MAX_PASSED_OVER; i++) {
      const c = this.dhcp.candidate(message, Date.now());
      if (!c) break;
      const owner = this.#guard.ownerOf(c.ip, Date.now());
      this.dhcp.probed(c.ip, owner !== null && owner.id !== c.nic ? owner.mac : null, Date.now());
    }
    const answer = this.dhcp.onMessage(message, Date.now());
    if (this.dhcp.exhausted && !this.#wasExhausted) this.#o.log.warn({ network: this.#config.network.name }, 'the address pool is exhausted');
    this.#wasExhausted = this.dhcp.exhausted;
    if (typeof answer !== 'string') {
      if (answer.ip !== 0 && answer.type !== DhcpType.offer) this.#o.log.info({ nic: answer.nic, type: answer.type, ip: formatIpv4(answer.ip) }, 'dhcp');
      this.#writer.udp(from, { source: this.#gatewayIp, sourcePort: 67, destination: answer.to, destinationPort: 68 }, answer.bytes);
      // INFORM, which comes from a guest with an address of its own, is no asking for one
      if (answer.type === DhcpType.ack && this.dhcp.lastSeen.get(from.id) !== asked) this.#guard.onDhcp(from.card);
    } else if (answer !== 'released' && answer !== 'declined') return;
    this.#refresh();
    this.#o.onLeases();
  }

  /**
   * A connection of the host's own to a guest's port; the guest sees the gateway. False when there is no guest with an
   * address.
   */
  dial(id: string, ip: number | undefined, port: number, socket: Socket, onAnswer: (why: TcpRefusal | null) => void): boolean {
    const c = this.#cables.get(id);
    const to = ip ?? c?.port.card.ip ?? -1;
    if (!c?.port.connected || to < 0) return false;
    this.#nextDialPort = this.#nextDialPort >= 65_535 ? 49_152 : this.#nextDialPort + 1;
    this.#tcp.accept(c.port, to, port, this.#gatewayIp, this.#nextDialPort, socket, onAnswer);
    return true;
  }

  /** A card's port. */
  port(id: string): Port | null {
    return this.#cables.get(id)?.port ?? null;
  }

  datagram(from: Port, d: GuestDatagram): Carried {
    if (d.destination === this.#gatewayIp && d.destinationPort === DNS_SERVICE_PORT) {
      if (!this.#cables.get(from.id)?.requests.names.take(Date.now())) return 'rate_limit';
      const { source, sourcePort } = d;
      this.#dnsService.onQuery(new Uint8Array(d.payload), from.id, sourcePort, (answer) => {
        this.#writer.udp(from, { source: this.#gatewayIp, sourcePort: 53, destination: source, destinationPort: sourcePort }, answer);
      });
      return null;
    }
    for (const rule of this.#cables.get(from.id)?.rules.values() ?? []) {
      const answered = rule.rule.protocol === 'udp' ? rule.onAnswer(d) : null;
      if (answered !== null) return answered ? null : 'queue_full';
    }
    const real = this.#realAddress(from, d.destination, 'udp', d.destinationPort);
    if (typeof real === 'string') return real;
    return this.#udp.send(from, d, real, Date.now());
  }

  #datagramLost(flow: UdpFlow<Port>, error: SocketError): void {
    const asked = this.#udp.knownAs(flow, error.destination);
    if (asked === null) return;
    const payload = new Uint8Array(UDP_HEADER + error.payload.length);
    payload.set(error.payload, UDP_HEADER);
    const d = { source: flow.guestIp, sourcePort: flow.guestPort, destination: asked, destinationPort: error.port };
    emitUdp(payload, 0, payload.length, d);
    this.#machine.relayError(flow.port, this.#tellsAs(error, asked), error, { ...d, protocol: IpProtocol.udp, payload });
  }

  /**
   * Who tells a guest of an error about what it sent to `asked`: the host appears as the gateway, or as it was asked.
   */
  #tellsAs(error: SocketError, asked: number): number {
    if (error.offender === error.destination) return asked;
    const { offender } = error;
    return offender === null || isLoopback(offender) || this.#host.isOwn(offender) ? this.#gatewayIp : offender;
  }

  echo(from: Port, e: GuestEcho): Carried {
    const real = this.#realAddress(from, e.destination, 'icmp', 0);
    if (typeof real === 'string') return real;
    const { source, destination } = e;
    return this.#pings.send(from.index, `${source} ${destination}`, real, e.message, e.ttl, {
      onReply: (_from, message) => this.#writer.icmp(from, destination, source, message),
      onLost: (error) => {
        const lost = { protocol: IpProtocol.icmp, source, destination, payload: error.payload };
        this.#machine.relayError(from, this.#tellsAs(error, destination), error, lost);
      },
    });
  }

  /** Where a packet for `ip` really goes, or why it goes nowhere. */
  #realAddress(from: Port, ip: number, protocol: 'tcp' | 'udp' | 'icmp', port: number): number | 'prohibited' | 'isolated' {
    const reach = gatewayReach(this.#config, from.isolated, ip, this.#host.isOwn(ip));
    if (reach === 'isolated') return reach;
    if (protocol !== 'icmp' && this.#rulePort(protocol, ip, port)) return 0x7f000001;
    if (reach === 'gateway') return this.#host.primary() ?? 'prohibited';
    if (reach === 'prohibited') return reach;
    return ip;
  }

  /** A rule of this network listens on that port of that address of the host, and on the loopback too. */
  #rulePort(protocol: 'tcp' | 'udp', ip: number, port: number): boolean {
    if (ip !== this.#gatewayIp && !this.#host.isOwn(ip)) return false;
    for (const c of this.#cables.values())
      for (const r of c.rules.values()) if (r.listening && matchesPort(r.rule, protocol, port) && isForAnyAddress(r.rule)) return true;
    return false;
  }

  #resolveTcp(from: Port, ip: number, port: number): TcpTarget {
    if (ip === this.#gatewayIp && port === DNS_SERVICE_PORT) {
      const names = this.#cables.get(from.id)?.names.address() as AddressInfo | null | undefined;
      return names ? { host: '127.0.0.1', port: names.port } : 'reset';
    }
    const real = this.#realAddress(from, ip, 'tcp', port);
    if (typeof real === 'number') return { host: formatIpv4(real), port };
    from.drops.add(real);
    return ip === this.#gatewayIp && real !== 'isolated' ? 'reset' : 'drop';
  }

  // ---- what is seen

  observed(): ObservedNetwork {
    const pool = this.dhcp.pool;
    return {
      name: this.#config.network.name,
      interface: null,
      healthy: true,
      leases: pool.leases(Date.now()).length,
      poolSize: pool.size,
      message: this.dhcp.exhausted ? 'the address pool is exhausted' : this.#pings.refused === '' ? '' : `guests cannot ping outside: ${this.#pings.refused}`,
    };
  }

  facts(): NetworkFacts {
    return { primary: this.#host.primary(), mayPing: this.#pings.allowed() };
  }

  observedNics(): ObservedNic[] {
    const now = Date.now();
    return [...this.#cables.values()].map(({ nic, port, rules }) => {
      const lease = this.dhcp.pool.lease(nic.id, now);
      const { card } = port;
      const active = nic.rules.map((r) => {
        const l = rules.get(JSON.stringify(r));
        return {
          name: r.name,
          active: l?.listening === true && card.ip >= 0,
          reason: l?.listening ? (card.ip < 0 ? 'the guest has no address yet' : '') : (l?.reason ?? ''),
        };
      });
      return {
        id: nic.id,
        ip: card.ip < 0 ? null : card.ip,
        source: card.staticIp >= 0 ? 'static' : card.leaseIp >= 0 ? 'lease' : 'none',
        leaseExpires: card.staticIp < 0 && lease?.bound ? lease.expires : null,
        lastDhcp: this.dhcp.lastSeen.get(nic.id) ?? null,
        backend: nic.socket,
        healthy: port.connected && nic.rules.every((r) => rules.get(JSON.stringify(r))?.listening),
        drops: port.drops.toRecord(),
        rules: active,
      };
    });
  }

  stats(): NicStats[] {
    return [...this.#cables.values()].map(({ nic, port }) => ({
      id: nic.id,
      rxPackets: port.toGuest.packets,
      rxBytes: port.toGuest.bytes,
      txPackets: port.fromGuest.packets,
      txBytes: port.fromGuest.bytes,
      drops: port.drops.toRecord(),
    }));
  }
}
