/**
 * UDP flows of guests to outside (RFC 4787): which host socket stands for which port of a guest.
 *
 * Theory of operation: one host socket per (guest address, guest port), whatever it talks to: endpoint-independent
 * mapping. What comes in is let through from addresses that the guest has sent to by it: address-dependent filtering. A
 * destination that was exchanged for another (the gateway's address for the host's own) is exchanged back in answers. A
 * flow is given up after five minutes of silence, or 30 seconds when it has only asked DNS servers. The machine opens
 * and closes sockets through `open`; time is an argument; `poll` is called when `pollAt` has come.
 *
 * Limits: 1024 flows per card, the longest silent gives way, and 512 new ones at once and in each eighth of a second,
 * as each costs a socket; 64 peers remembered per flow, the oldest gives way.
 */
import type { GuestDatagram } from './gateway/gateway.ts';
import { TokenBucket } from './token-bucket.ts';

/** Silence after which a flow is given up, ms; `dns`: one that has only asked DNS servers. */
export interface UdpIdle {
  general: number;
  dns: number;
}

const IDLE: UdpIdle = { general: 300_000, dns: 30_000 };
const MAX_FLOWS = 1024;
const MAX_PEERS = 64;
/** New flows of a card at once, and in so many ms. */
const NEW_FLOWS = 512;
const NEW_FLOWS_MS = 125;
const DNS_PORT = 53;

/** The host's side of one flow. */
export interface HostDatagrams {
  /**
   * `bytes` is not kept after the call. `ttl`: hops that it may still take; `whole`: it must not be cut into fragments.
   * False when it was dropped, as too much waits for the host's link already.
   */
  send(bytes: Uint8Array, ip: number, port: number, ttl: number, whole: boolean): boolean;
  close(): void;
}

export interface UdpFlow<P> {
  readonly port: P;
  readonly guestIp: number;
  readonly guestPort: number;
  socket: HostDatagrams | null;
  /** Where the guest has sent to by this flow: real address → address that the guest used. */
  readonly peers: Map<number, number>;
  lastAt: number;
  /** Has spoken to something else than a DNS server. */
  general: boolean;
}

/** What one card has. */
interface CardFlows<P> {
  /** By guest address and port; in order of the last use. */
  readonly flows: Map<number, UdpFlow<P>>;
  readonly opened: TokenBucket;
}

export class UdpNat<P extends object> {
  readonly #open: (flow: UdpFlow<P>) => HostDatagrams | null;
  readonly #cards = new Map<P, CardFlows<P>>();
  readonly #idle: UdpIdle;
  #evicted = 0;

  /** `open` gives a bound socket, or null when there is none to be had. */
  constructor(open: (flow: UdpFlow<P>) => HostDatagrams | null, idle = IDLE) {
    this.#open = open;
    this.#idle = idle;
  }

  get size(): number {
    let n = 0;
    for (const { flows } of this.#cards.values()) n += flows.size;
    return n;
  }

  get evicted(): number {
    return this.#evicted;
  }

  /**
   * A guest's datagram, which really goes to `realIp`; why it was dropped, or null. `udp_flows`: no socket could be
   * had, or its card had too many just now.
   */
  send(port: P, d: GuestDatagram, realIp: number, now: number): 'udp_flows' | 'queue_full' | null {
    const { source: guestIp, sourcePort: guestPort, destination: ip, destinationPort: remotePort } = d;
    let card = this.#cards.get(port);
    if (!card) {
      card = { flows: new Map(), opened: new TokenBucket(NEW_FLOWS, NEW_FLOWS_MS) };
      this.#cards.set(port, card);
    }
    const { flows } = card;
    const key = guestIp * 65_536 + guestPort;
    let flow = flows.get(key);
    if (flow) flows.delete(key);
    else {
      if (!card.opened.take(now)) return 'udp_flows';
      if (flows.size >= MAX_FLOWS) {
        this.#end(flows, flows.entries().next().value as [number, UdpFlow<P>]);
        this.#evicted++;
      }
      flow = { port, guestIp, guestPort, socket: null, peers: new Map(), lastAt: now, general: false };
      flow.socket = this.#open(flow);
      if (!flow.socket) return 'udp_flows';
    }
    flows.set(key, flow);
    flow.lastAt = now;
    if (remotePort !== DNS_PORT) flow.general = true;
    if (flow.peers.get(realIp) !== ip) {
      flow.peers.delete(realIp);
      flow.peers.set(realIp, ip);
      if (flow.peers.size > MAX_PEERS) flow.peers.delete(flow.peers.keys().next().value as number);
    }
    return flow.socket?.send(d.payload, realIp, remotePort, d.ttl, d.whole) === false ? 'queue_full' : null;
  }

  /**
   * Something came in by a flow: the address that the guest knows its sender by; null when the guest did not ask it.
   */
  peerOf(flow: UdpFlow<P>, realIp: number, now: number): number | null {
    const ip = flow.peers.get(realIp);
    if (ip === undefined) return null;
    flow.lastAt = now;
    return ip;
  }

  /** The address that the guest knows by that real one; null when it has not sent there, or long ago. */
  knownAs(flow: UdpFlow<P>, realIp: number): number | null {
    return flow.peers.get(realIp) ?? null;
  }

  /** The socket of a flow has failed for good. */
  failed(flow: UdpFlow<P>): void {
    const flows = this.#cards.get(flow.port)?.flows;
    const key = flow.guestIp * 65_536 + flow.guestPort;
    if (flows?.get(key) === flow) this.#end(flows, [key, flow]);
  }

  /** Ends what was silent for too long. */
  poll(now: number): void {
    for (const [port, { flows }] of this.#cards) {
      for (const e of [...flows]) if (now - e[1].lastAt >= (e[1].general ? this.#idle.general : this.#idle.dns)) this.#end(flows, e);
      if (flows.size === 0) this.#cards.delete(port);
    }
  }

  /** The card was unplugged, or one of its addresses is another's now. */
  forget(port: P, ip?: number): void {
    const flows = this.#cards.get(port)?.flows;
    if (!flows) return;
    for (const e of [...flows]) if (ip === undefined || e[1].guestIp === ip) this.#end(flows, e);
    if (flows.size === 0) this.#cards.delete(port);
  }

  close(): void {
    for (const port of [...this.#cards.keys()]) this.forget(port);
  }

  #end(flows: Map<number, UdpFlow<P>>, [key, flow]: [number, UdpFlow<P>]): void {
    flows.delete(key);
    flow.socket?.close();
    flow.socket = null;
  }
}
