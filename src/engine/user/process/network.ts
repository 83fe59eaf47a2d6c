/**
 * One network of the user engine: NICs, switch, guard, gateway, and the host sockets behind it.
 *
 * Theory of operation: the machines of src/net decide; this class owns them, gives them the time, and informs them
 * which address each NIC has. What guests send to the gateway, and through it, is in outbound.ts.
 *
 * Limits: IPv6 stays on the switch.
 */
import type { Socket } from 'node:net';
import { monotonicMs } from '../../../lib/clock.ts';
import { PacketWriter } from '../../../net/gateway/packet-writer.ts';
import type { PacketMemory } from '../../../net/memory/packet-memory.ts';
import { areIsolated } from '../../../net/policy/isolation.ts';
import { Guard } from '../../../net/switch/guard.ts';
import { Switch } from '../../../net/switch/switch.ts';
import type { TcpPath, TcpRefusal } from '../../../net/tcp/interface.ts';
import { formatIpv4, gatewayOf } from '../../../wire/address.ts';
import type { NicStats, ObservedNetwork, ObservedNic } from '../../engine.ts';
import { NetworkServices } from '../../network-services.ts';
import type { Port, PortOwner } from '../port/port.ts';
import type { PortMemory } from '../port/port-memory.ts';
import { AttachedNic } from './attached-nic.ts';
import type { NetworkConfig, NetworkFacts, NetworkNic } from './config.ts';
import { GATEWAY_MAC } from './gateway-mac.ts';
import { Outbound, type TcpNetwork } from './outbound.ts';

const HOUSEKEEPING_MS = 1000;
/** Between two ARP requests for addresses of one guest. */
const PROBE_MS = 200;

export interface NetworkOptions {
  config: NetworkConfig;
  memory: PacketMemory;
  portMemory: PortMemory;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
  /** Leases are to be saved. */
  onLeases: () => void;
  /** Status has changed. */
  onChanged: () => void;
  /** Creates the TCP path of this network. */
  createTcp: (network: TcpNetwork) => TcpPath;
}

export class UserNetwork implements PortOwner {
  readonly services: NetworkServices;
  readonly #options: NetworkOptions;
  readonly #gatewayIp: number;
  readonly #guard: Guard;
  readonly #switch: Switch<Port>;
  readonly #writer: PacketWriter;
  readonly #outbound: Outbound;
  /** By VM id. */
  readonly #nics = new Map<string, AttachedNic>();
  readonly #housekeeping: NodeJS.Timeout;
  /** Until guests are asked for addresses again; null while none is. */
  #addressTimer: NodeJS.Timeout | null = null;
  #nextIndex = 0;
  /** What guests may reach, as JSON. */
  #policy = '';

  constructor(options: NetworkOptions) {
    const { config, memory, log } = options;
    const { network } = config;
    const gatewayMac = GATEWAY_MAC[network.name];
    this.#options = options;
    this.#gatewayIp = gatewayOf(network.subnet);
    this.services = new NetworkServices({ network, dnsForward: config.dnsForward, log, onLeases: () => this.#onLeases() });
    this.#guard = new Guard(
      network.subnet,
      gatewayMac,
      () => this.#onAddressesChanged(),
      (card, ip) => this.#probeOwner(card.id, ip),
    );
    this.#writer = new PacketWriter(memory.u8, gatewayMac);
    this.#outbound = new Outbound({
      network: config,
      gatewayMac,
      memory,
      writer: this.#writer,
      services: this.services,
      guard: this.#guard,
      nics: this.#nics,
      createTcp: options.createTcp,
    });
    this.#switch = new Switch(memory.u8, this.#guard, this.#outbound.gateway);
    this.#housekeeping = setInterval(() => this.#keepHouse(), HOUSEKEEPING_MS);
  }

  close(): void {
    clearInterval(this.#housekeeping);
    if (this.#addressTimer) clearTimeout(this.#addressTimer);
    for (const nic of [...this.#nics.values()]) this.#detach(nic);
    this.#outbound.close();
    this.services.close();
  }

  // ---- desired state

  configure(config: NetworkConfig): void {
    this.#outbound.setNetwork(config);
    const wanted = new Map(config.nics.map((n) => [n.id, n]));
    for (const [id, nic] of this.#nics) {
      const w = wanted.get(id);
      if (!w || !nic.canBecome(w)) this.#detach(nic);
    }
    for (const w of config.nics) this.#nics.get(w.id)?.closeOtherRules(w.rules);
    for (const w of config.nics) (this.#nics.get(w.id) ?? this.#attach(w)).configure(w);
    this.#switch.setPorts([...this.#nics.values()].map((n) => n.port));
    this.#refreshAddresses();
    this.#cutBarred(config);
  }

  /** Looks at all connections only when what guests may reach has changed. */
  #cutBarred({ metadata, otherSubnets, nics }: NetworkConfig): void {
    const policy = JSON.stringify([metadata, otherSubnets, nics.flatMap((n) => (n.isolated ? [n.id] : []))]);
    if (policy !== this.#policy) this.#outbound.cutBarred();
    this.#policy = policy;
  }

  #attach(config: NetworkNic): AttachedNic {
    const { portMemory } = this.#options;
    const nic = new AttachedNic(this.#nextIndex++, config, {
      owner: this,
      portMemory,
      forwarding: { gatewayIp: this.#gatewayIp, nextClientPort: () => this.#outbound.nextClientPort(), tcp: this.#outbound.tcp, writer: this.#writer },
      addresses: this.#outbound.filterAddresses,
      onChanged: () => this.#options.onChanged(),
    });
    this.#nics.set(config.id, nic);
    return nic;
  }

  #detach(nic: AttachedNic): void {
    this.#nics.delete(nic.config.id);
    nic.closeRules();
    this.#dropFlows(nic.port);
    nic.port.close();
  }

  /** Its name and its lease stay. */
  #dropFlows(port: Port): void {
    this.#outbound.forgetPort(port);
    this.#guard.forget(port.card);
  }

  // ---- addresses

  /** Passes leases, reservations and self-set addresses to guard, DHCP and DNS. */
  #refreshAddresses(): void {
    const nics = [...this.#nics.values()];
    for (const { config, port } of nics) port.card.leaseIp = this.services.boundLease(config.id)?.ip ?? -1;
    const absent = this.services.leasedToOthers(this.#nics);
    this.#guard.setCards(
      nics.map((n) => n.port.card),
      absent,
      monotonicMs(),
    );
    for (const nic of nics) {
      for (const ip of nic.lostAddresses()) this.#outbound.forgetAddress(nic.port, ip);
      nic.followAddresses();
    }
    this.services.setNics(
      nics.map(({ config: { id, outsideMac, vmName, mtu, reservedIp }, port: { card } }) => ({
        id,
        vmName,
        mac: outsideMac,
        mtu,
        claimedIps: [...card.claims.keys()],
        ...(reservedIp === undefined ? {} : { reservedIp }),
        ...(card.hasStatic ? { staticIp: card.ip } : {}),
      })),
    );
    this.#armAddressTimer();
  }

  /** Asks guests for addresses when the table says so. */
  #armAddressTimer(): void {
    if (this.#addressTimer !== null) return;
    const at = this.#guard.table.pollAt();
    if (at === null) return;
    this.#addressTimer = setTimeout(
      () => {
        this.#addressTimer = null;
        this.#pollAddresses();
        this.#armAddressTimer();
      },
      Math.max(1, at - monotonicMs()),
    );
  }

  #pollAddresses(): void {
    for (const { kind, card, ip } of this.#guard.table.poll(monotonicMs())) {
      const nic = this.#nics.get(card.id);
      if (!nic) continue;
      if (kind === 'probe') this.#writer.arpRequest(nic.port, this.#gatewayIp, ip);
      else this.#announce(nic, ip);
    }
  }

  /** Its own announcement was dropped while the address was another guest's. */
  #announce({ port, config }: AttachedNic, ip: number): void {
    this.#options.log.info({ nic: config.id, ip: formatIpv4(ip) }, 'a virtual address has moved');
    for (const other of this.#nics.values()) if (other.port !== port && !areIsolated(other.port, port)) this.#writer.announce(other.port, port.card.mac, ip);
  }

  /** A guest uses an address that it has not claimed: asks it by ARP, at most once in 200 ms. */
  #probeOwner(id: string, ip: number): void {
    const nic = this.#nics.get(id);
    const now = monotonicMs();
    if (!nic || now - nic.probedAt < PROBE_MS) return;
    nic.probedAt = now;
    this.#writer.arpRequest(nic.port, this.#gatewayIp, ip);
  }

  #onLeases(): void {
    this.#refreshAddresses();
    this.#options.onLeases();
  }

  #onAddressesChanged(): void {
    this.#refreshAddresses();
    this.#options.onChanged();
  }

  #keepHouse(): void {
    const now = monotonicMs();
    this.#outbound.poll(now);
    this.#pollAddresses();
    for (const { config, port, rules } of this.#nics.values()) {
      for (const r of rules.values()) r.poll(now);
      if (port.card.leaseIp >= 0 && !this.services.boundLease(config.id)) this.#onAddressesChanged();
    }
  }

  // ---- events of ports

  onRun(port: Port, start: number, end: number): void {
    this.#switch.onRun(port, start, end, monotonicMs());
    this.#armAddressTimer();
  }

  onRoom(port: Port): void {
    this.#outbound.tcp.onRoom(port);
  }

  onLink(port: Port): void {
    this.#options.log.info({ nic: port.id, connected: port.connected }, 'link');
    if (!port.connected) this.#dropFlows(port);
    this.#options.onChanged();
  }

  // ---- streams

  /** A NIC's port. */
  port(id: string): Port | null {
    return this.#nics.get(id)?.port ?? null;
  }

  /** Connects a stream of the host to a guest's port. False when the guest is not attached or has no address. */
  dial(to: { id: string; ip?: number | undefined; tcpPort: number }, socket: Socket, onAnswer: (why: TcpRefusal | null) => void): boolean {
    const port = this.port(to.id);
    const ip = to.ip ?? port?.card.ip ?? -1;
    if (!port?.connected || ip < 0) return false;
    this.#outbound.dial({ port, ip, tcpPort: to.tcpPort }, socket, onAnswer);
    return true;
  }

  // ---- observed state

  observed(): ObservedNetwork {
    const { leases, poolSize, message } = this.services.poolStatus();
    const refusal = this.#outbound.pingRefusal;
    const { name } = this.#options.config.network;
    return { name, interface: null, healthy: true, leases, poolSize, message: message || (refusal && `guests cannot ping outside: ${refusal}`) };
  }

  facts(): NetworkFacts {
    return this.#outbound.facts();
  }

  observedNics(): ObservedNic[] {
    return [...this.#nics.values()].map((n) => n.observe(this.services.boundLease(n.config.id), this.services.dhcp.lastSeen.get(n.config.id) ?? null));
  }

  stats(): NicStats[] {
    return [...this.#nics.values()].map((n) => n.stats());
  }
}
