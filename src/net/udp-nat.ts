/**
 * UDP flows of guests to outside (RFC 4787): which host socket stands for which port of a guest.
 *
 * Theory of operation: one host socket per (guest address, guest port) for all destinations: endpoint-independent
 * mapping. Inbound datagrams are accepted only from addresses that the guest has sent to through it: address-dependent
 * filtering. If a destination was translated (the gateway's address to the host's own), answers are translated back. A
 * flow expires after five minutes of silence, or after 30 seconds when it has only asked DNS servers. The machine opens
 * and closes sockets through `open`. Time is an argument.
 *
 * Limits: 1024 flows per NIC, the longest idle one is evicted. 512 new flows in a burst and per eighth of a second, as
 * each costs a socket. 64 peers per flow, the oldest is forgotten.
 */
import type { GuestDatagram } from './gateway/gateway.ts';
import { TokenBucket } from './token-bucket.ts';

/** Idle time after which a flow expires, ms; `dns`: one that has only asked DNS servers. */
export interface UdpIdle {
  general: number;
  dns: number;
}

const IDLE: UdpIdle = { general: 300_000, dns: 30_000 };
const MAX_FLOWS = 1024;
const MAX_PEERS = 64;
/** New flows of a NIC: burst size, and the time in ms that refills it. */
const NEW_FLOWS = 512;
const NEW_FLOWS_MS = 125;
const DNS_PORT = 53;

/** The host's side of one flow. */
export interface HostDatagrams {
  /**
   * `bytes` is not kept after the call. `ttl`: remaining hops; `whole`: it must not be fragmented. False when it was
   * dropped, as too much is queued to the host's link.
   */
  send(bytes: Uint8Array, ip: number, port: number, ttl: number, whole: boolean): boolean;
  close(): void;
}

export interface UdpFlow<P> {
  readonly port: P;
  readonly guestIp: number;
  readonly guestPort: number;
  socket: HostDatagrams | null;
  /** Destinations of this flow: real address → address that the guest used. */
  readonly peers: Map<number, number>;
  lastAt: number;
  /** It was used for something other than DNS. */
  general: boolean;
}

/** The flows of one NIC. */
interface NicFlows<P> {
  /** By guest address and port; least recently used first. */
  readonly flows: Map<number, UdpFlow<P>>;
  readonly opened: TokenBucket;
}

export class UdpNat<P extends object> {
  readonly #open: (flow: UdpFlow<P>) => HostDatagrams | null;
  readonly #nics = new Map<P, NicFlows<P>>();
  readonly #idle: UdpIdle;
  #evicted = 0;

  /** `open` returns a bound socket, or null when none is available. */
  constructor(open: (flow: UdpFlow<P>) => HostDatagrams | null, idle = IDLE) {
    this.#open = open;
    this.#idle = idle;
  }

  get size(): number {
    let n = 0;
    for (const { flows } of this.#nics.values()) n += flows.size;
    return n;
  }

  get evicted(): number {
    return this.#evicted;
  }

  /**
   * Sends a guest's datagram to `realIp`. Returns why it was dropped, or null. `udp_flows`: no socket is available, or
   * its NIC opens flows too fast.
   */
  send(port: P, d: GuestDatagram, realIp: number, now: number): 'udp_flows' | 'queue_full' | null {
    const { source: guestIp, sourcePort: guestPort, destination: ip, destinationPort: remotePort } = d;
    let nic = this.#nics.get(port);
    if (!nic) {
      nic = { flows: new Map(), opened: new TokenBucket(NEW_FLOWS, NEW_FLOWS_MS) };
      this.#nics.set(port, nic);
    }
    const { flows } = nic;
    const key = guestIp * 65_536 + guestPort;
    let flow = flows.get(key);
    if (flow) flows.delete(key);
    else {
      if (!nic.opened.take(now)) return 'udp_flows';
      if (flows.size >= MAX_FLOWS) {
        this.#close(flows, flows.entries().next().value as [number, UdpFlow<P>]);
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

  /** The address by which the guest knows the sender of an inbound datagram; null when it must be dropped. */
  peerOf(flow: UdpFlow<P>, realIp: number, now: number): number | null {
    const ip = flow.peers.get(realIp);
    if (ip === undefined) return null;
    flow.lastAt = now;
    return ip;
  }

  /** Like `peerOf`, but does not count as use of the flow. */
  knownAs(flow: UdpFlow<P>, realIp: number): number | null {
    return flow.peers.get(realIp) ?? null;
  }

  /** The socket of a flow has failed permanently. */
  failed(flow: UdpFlow<P>): void {
    const flows = this.#nics.get(flow.port)?.flows;
    const key = flow.guestIp * 65_536 + flow.guestPort;
    if (flows?.get(key) === flow) this.#close(flows, [key, flow]);
  }

  /** Closes expired flows. */
  poll(now: number): void {
    for (const [port, { flows }] of this.#nics) {
      for (const e of [...flows]) if (now - e[1].lastAt >= (e[1].general ? this.#idle.general : this.#idle.dns)) this.#close(flows, e);
      if (flows.size === 0) this.#nics.delete(port);
    }
  }

  /** Closes the flows of a NIC that was unplugged, or of an address that now belongs to another NIC. */
  forget(port: P, ip?: number): void {
    const flows = this.#nics.get(port)?.flows;
    if (!flows) return;
    for (const e of [...flows]) if (ip === undefined || e[1].guestIp === ip) this.#close(flows, e);
    if (flows.size === 0) this.#nics.delete(port);
  }

  close(): void {
    for (const port of [...this.#nics.keys()]) this.forget(port);
  }

  #close(flows: Map<number, UdpFlow<P>>, [key, flow]: [number, UdpFlow<P>]): void {
    flows.delete(key);
    flow.socket?.close();
    flow.socket = null;
  }
}
