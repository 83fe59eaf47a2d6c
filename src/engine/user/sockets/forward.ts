/**
 * A forwarding rule of the user engine: forwards clients of a host port to the guest (B60 to B67).
 *
 * Theory of operation: a TCP client becomes a connection of the TCP path, a UDP client a series of datagrams. The guest
 * sees the client's own address as its peer, and answers through the gateway. Clients from the host's loopback appear
 * as the gateway, since a guest has no route to 127.0.0.1. Removing the rule cuts its flows.
 *
 * Limits: 2048 TCP connections and 1024 UDP clients per rule; a UDP client expires after five idle minutes. Two
 * loopback clients with the same port (127.0.0.1 and 127.0.0.2) cannot both connect to one guest port by TCP.
 */
import type { RemoteInfo } from 'node:dgram';
import type { Server, Socket } from 'node:net';
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
  tcp: TcpPath;
  writer: PacketWriter;
  /** The rule's port, and its guest's address now; null while it has none or is disconnected. */
  target(): { port: Port; ip: number } | null;
}

interface UdpClient {
  address: string;
  port: number;
  /** Its address as the guest sees it. */
  ip: number;
  lastAt: number;
}

export class ForwardRule extends RulePort {
  readonly #context: ForwardContext;
  #flows = new Set<TcpFlowRef>();
  /** By address and port as the guest sees them; least recently heard first. */
  readonly #clients = new Map<number, UdpClient>();

  constructor(rule: DesiredRule, context: ForwardContext, onChange: () => void) {
    super(rule, onChange);
    this.#context = context;
  }

  override cutFlows(): void {
    for (const ref of this.#flows) this.#context.tcp.cut(ref);
    this.#flows.clear();
    this.#clients.clear();
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
    if (this.#flows.size >= MAX_TCP) this.#flows = new Set([...this.#flows].filter((f) => !f.closed));
    if (!target || source === null || this.#flows.size >= MAX_TCP) return false;
    const addresses = { guestIp: target.ip, guestPort: this.rule.guestPort, sourceIp: source, sourcePort: port };
    this.#flows.add(this.#context.tcp.accept(target.port, { ...addresses, client }));
    return true;
  }

  protected override onDatagram(bytes: Buffer, from: RemoteInfo): void {
    const target = this.#context.target();
    const ip = this.#addressForGuest(from.address);
    if (!target || ip === null) return;
    const key = ip * 65_536 + from.port;
    const known = this.#clients.get(key);
    if (known) this.#clients.delete(key);
    this.#clients.set(key, { address: from.address, port: from.port, ip, lastAt: Date.now() });
    if (this.#clients.size > MAX_UDP) this.#clients.delete(this.#clients.keys().next().value as number);
    this.#context.writer.udp(target.port, { source: ip, sourcePort: from.port, destination: target.ip, destinationPort: this.rule.guestPort }, bytes);
  }

  /** A guest's datagram: null if it is not for a client of this rule, else whether it was sent; false if dropped. */
  onAnswer(d: GuestDatagram): boolean | null {
    if (this.#clients.size === 0 || d.sourcePort !== this.rule.guestPort) return null;
    const c = this.#clients.get(d.destination * 65_536 + d.destinationPort);
    if (!c) return null;
    c.lastAt = Date.now();
    return this.answer(Buffer.from(d.payload), c.port, c.address);
  }

  /** Expires idle UDP clients. */
  poll(now: number): void {
    for (const [key, c] of this.#clients) if (now - c.lastAt >= UDP_IDLE_MS) this.#clients.delete(key);
  }

  /** A client's address as the guest sees it; null when it is not IPv4. */
  #addressForGuest(address: string): number | null {
    const ip = parseIpv4(address.replace(/^::ffff:/, ''));
    if (ip === null) return null;
    return isLoopback(ip) ? this.#context.gatewayIp : ip;
  }
}
