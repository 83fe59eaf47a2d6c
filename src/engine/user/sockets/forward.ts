/**
 * A forwarding rule of the user engine: forwards clients of a host port to the guest (B60 to B67).
 *
 * Theory of operation: a TCP client becomes a connection of the TCP path, a UDP client a series of datagrams. The guest
 * sees the client's own address as its peer, and answers through the gateway. Clients from the host's loopback appear
 * as the gateway, since a guest has no route to 127.0.0.1, and so do clients by IPv6, with a port of the network's
 * choice, as many of them may have the same one. A UDP client that asks two addresses of the host, or two ports, from
 * one port of its own appears as two, the second with a port of the network's choice. Removing the rule cuts its flows.
 *
 * Limits: 2048 TCP connections and 1024 UDP clients per rule; a UDP client expires after five idle minutes. Two
 * loopback clients with the same port (127.0.0.1 and 127.0.0.2) cannot both connect to one guest port by TCP.
 */
import type { Server, Socket } from 'node:net';
import type { DatagramClient } from '../../../host/any-address-socket.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import type { GuestDatagram } from '../../../net/gateway/gateway.ts';
import type { PacketWriter } from '../../../net/gateway/packet-writer.ts';
import { isLoopback } from '../../../net/policy/addresses.ts';
import type { ClientHandle, TcpFlowRef, TcpPath } from '../../../net/tcp/interface.ts';
import { parseIpv4 } from '../../../wire/address.ts';
import type { DesiredRule } from '../../engine.ts';
import { RulePort } from '../../port-forwarding/rule-port.ts';
import type { Port } from '../port/port.ts';
import { takeClients } from './handle-stream.ts';

const MAX_TCP = 2048;
const MAX_UDP = 1024;
const UDP_IDLE_MS = 300_000;

/** What a rule needs of its network. */
export interface ForwardContext {
  gatewayIp: number;
  /** The port by which the guest sees the next client that cannot appear with its own. */
  nextClientPort(): number;
  tcp: TcpPath;
  writer: PacketWriter;
  /** The rule's port, and its guest's address now; null while it has none or is disconnected. */
  target(): { port: Port; ip: number } | null;
  /** Whether a UDP client of any rule for that port of the guest appears with that address and port (`clientKey`). */
  isTaken(guestPort: number, key: number): boolean;
}

/** A client's address and port, as the guest sees them. */
const clientKey = (ip: number, port: number): number => ip * 65_536 + port;

interface UdpClient {
  readonly client: DatagramClient;
  lastAt: number;
}

export class ForwardRule extends RulePort {
  readonly #context: ForwardContext;
  /** By connection: the guest's address. */
  #flows = new Map<TcpFlowRef, number>();
  /** By address and port as the guest sees them; least recently heard first. */
  readonly #clients = new Map<number, UdpClient>();
  /** Ports of UDP clients, as the guest sees them, by the client's key. */
  readonly #ports = new Map<string, number>();
  readonly #isIpv6: boolean;

  constructor(rule: DesiredRule, context: ForwardContext, onChange: () => void) {
    super(rule, onChange);
    this.#isIpv6 = typeof rule.hostIp === 'string';
    this.#context = context;
  }

  override cutFlows(): void {
    this.follow(new Set());
    this.#clients.clear();
    this.#ports.clear();
  }

  /** Cuts connections to other addresses of the guest than these. Datagrams always lead to its main address. */
  follow(live: ReadonlySet<number>): void {
    for (const [ref, ip] of this.#flows) {
      if (live.has(ip)) continue;
      this.#context.tcp.cut(ref);
      this.#flows.delete(ref);
    }
  }

  protected override onListening(server: Server): void {
    takeClients(server, (client, address, port) => {
      if (!this.#accept(client, address, port)) client.reset();
    });
  }

  /** Clients that are not taken as handles. */
  protected override onClient(client: Socket): void {
    if (!this.#accept(client, client.remoteAddress ?? '', client.remotePort ?? 0)) client.resetAndDestroy();
  }

  /** False when the guest is not reachable, or there are too many connections. */
  #accept(client: Socket | ClientHandle, address: string, port: number): boolean {
    const target = this.#context.target();
    const source = this.#addressForGuest(address);
    const sourcePort = this.#isIpv6 ? this.#context.nextClientPort() : port;
    if (this.#flows.size >= MAX_TCP) this.#flows = new Map([...this.#flows].filter(([f]) => !f.closed));
    if (!target || source === null || this.#flows.size >= MAX_TCP) return false;
    const addresses = { guestIp: target.ip, guestPort: this.rule.guestPort, sourceIp: source, sourcePort };
    this.#flows.set(this.#context.tcp.accept(target.port, { ...addresses, client }), target.ip);
    return true;
  }

  protected override onDatagram(bytes: Buffer, from: DatagramClient): void {
    const target = this.#context.target();
    const ip = this.#addressForGuest(from.address);
    if (!target || ip === null) return;
    const sourcePort = this.#portOf(from, ip);
    const key = clientKey(ip, sourcePort);
    const before = this.#clients.get(key);
    if (before && before.client.key !== from.key) this.#ports.delete(before.client.key);
    this.#clients.delete(key);
    this.#clients.set(key, { client: from, lastAt: monotonicMs() });
    if (this.#clients.size > MAX_UDP) this.#drop(this.#clients.keys().next().value as number);
    this.#context.writer.udp(target.port, { source: ip, sourcePort, destination: target.ip, destinationPort: this.rule.guestPort }, bytes);
  }

  /** The port by which the guest sees a client with the address `ip`. */
  #portOf({ key, port }: DatagramClient, ip: number): number {
    const known = this.#ports.get(key);
    if (known !== undefined) return known;
    const { nextClientPort, isTaken } = this.#context;
    let chosen = this.#isIpv6 ? nextClientPort() : port;
    for (let tries = 0; tries < MAX_UDP && isTaken(this.rule.guestPort, clientKey(ip, chosen)); tries++) chosen = nextClientPort();
    this.#ports.set(key, chosen);
    return chosen;
  }

  /** Whether a UDP client appears to the guest with that address and port (`clientKey`). */
  hasClient(key: number): boolean {
    return this.#clients.has(key);
  }

  #drop(key: number): void {
    const c = this.#clients.get(key);
    if (c) this.#ports.delete(c.client.key);
    this.#clients.delete(key);
  }

  /** A guest's datagram: null if it is not for a client of this rule, else whether it was sent; false if dropped. */
  onAnswer(d: GuestDatagram): boolean | null {
    if (this.#clients.size === 0 || d.sourcePort !== this.rule.guestPort) return null;
    const c = this.#clients.get(clientKey(d.destination, d.destinationPort));
    if (!c) return null;
    c.lastAt = monotonicMs();
    return this.answer(d.payload, c.client);
  }

  /** Expires idle UDP clients. */
  poll(now: number): void {
    for (const [key, c] of this.#clients) if (now - c.lastAt >= UDP_IDLE_MS) this.#drop(key);
  }

  /** A client's address as the guest sees it; null when it has none. */
  #addressForGuest(address: string): number | null {
    if (this.#isIpv6) return this.#context.gatewayIp;
    const ip = parseIpv4(address.replace(/^::ffff:/, ''));
    if (ip === null) return null;
    return isLoopback(ip) ? this.#context.gatewayIp : ip;
  }
}
