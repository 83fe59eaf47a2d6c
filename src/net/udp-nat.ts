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
 * each costs a socket. A flow remembers the 1024 peers that it sent to last, or up to twice as many. A NIC's flows
 * remember 16,384; beyond that, the flow that is idle longest is evicted.
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
/** Peers of a flow in each of its two generations. */
const PEERS = 1024;
/** Peers of all flows of a NIC. */
const MAX_PEERS = 16_384;
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
  peers: Map<number, number>;
  /** Those of the generation before. */
  olderPeers: Map<number, number>;
  lastAt: number;
  /** It was used for something other than DNS. */
  general: boolean;
}

/** The flows of one NIC. */
interface NicFlows<P> {
  /** By guest address and port; least recently used first. */
  readonly flows: Map<number, UdpFlow<P>>;
  readonly opened: TokenBucket;
  /** Peers that all of them remember. */
  peers: number;
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
      nic = { flows: new Map(), opened: new TokenBucket(NEW_FLOWS, NEW_FLOWS_MS), peers: 0 };
      this.#nics.set(port, nic);
    }
    const { flows } = nic;
    const key = guestIp * 65_536 + guestPort;
    let flow = flows.get(key);
    if (flow) flows.delete(key);
    else {
      if (!nic.opened.take(now)) return 'udp_flows';
      if (flows.size >= MAX_FLOWS) {
        this.#evictOldest(nic);
      }
      flow = { port, guestIp, guestPort, socket: null, peers: new Map(), olderPeers: new Map(), lastAt: now, general: false };
      flow.socket = this.#open(flow);
      if (!flow.socket) return 'udp_flows';
    }
    flows.set(key, flow);
    flow.lastAt = now;
    if (remotePort !== DNS_PORT) flow.general = true;
    if (flow.peers.get(realIp) !== ip) this.#remember(nic, flow, realIp, ip);
    return flow.socket?.send(d.payload, realIp, remotePort, d.ttl, d.whole) === false ? 'queue_full' : null;
  }

  #remember(nic: NicFlows<P>, flow: UdpFlow<P>, realIp: number, ip: number): void {
    if (!flow.peers.has(realIp)) nic.peers++;
    flow.peers.set(realIp, ip);
    if (flow.peers.size >= PEERS) {
      nic.peers -= flow.olderPeers.size;
      flow.olderPeers = flow.peers;
      flow.peers = new Map();
    }
    while (nic.peers > MAX_PEERS && nic.flows.size > 1) this.#evictOldest(nic);
  }

  #evictOldest(nic: NicFlows<P>): void {
    this.#close(nic, nic.flows.entries().next().value as [number, UdpFlow<P>]);
    this.#evicted++;
  }

  /** The address by which the guest knows the sender of an inbound datagram; null when it must be dropped. */
  peerOf(flow: UdpFlow<P>, realIp: number, now: number): number | null {
    const ip = this.knownAs(flow, realIp);
    if (ip === null) return null;
    flow.lastAt = now;
    return ip;
  }

  /** Like `peerOf`, but does not count as use of the flow. */
  knownAs(flow: UdpFlow<P>, realIp: number): number | null {
    return flow.peers.get(realIp) ?? flow.olderPeers.get(realIp) ?? null;
  }

  /** The socket of a flow has failed permanently. */
  failed(flow: UdpFlow<P>): void {
    const nic = this.#nics.get(flow.port);
    const key = flow.guestIp * 65_536 + flow.guestPort;
    if (nic?.flows.get(key) === flow) this.#close(nic, [key, flow]);
  }

  /** Closes expired flows. */
  poll(now: number): void {
    for (const [port, nic] of this.#nics) {
      for (const e of [...nic.flows]) if (now - e[1].lastAt >= (e[1].general ? this.#idle.general : this.#idle.dns)) this.#close(nic, e);
      if (nic.flows.size === 0) this.#nics.delete(port);
    }
  }

  /** Closes the flows of a NIC that was unplugged, or of an address that now belongs to another NIC. */
  forget(port: P, ip?: number): void {
    const nic = this.#nics.get(port);
    if (!nic) return;
    for (const e of [...nic.flows]) if (ip === undefined || e[1].guestIp === ip) this.#close(nic, e);
    if (nic.flows.size === 0) this.#nics.delete(port);
  }

  /** Forgets peers that the guest may not reach any more, by the address that it used. */
  removePeers(port: P, isBarred: (ip: number) => boolean): void {
    const nic = this.#nics.get(port);
    if (!nic) return;
    for (const entry of [...nic.flows]) {
      const [, flow] = entry;
      for (const peers of [flow.peers, flow.olderPeers]) {
        for (const [realIp, ip] of peers) {
          if (!isBarred(ip)) continue;
          peers.delete(realIp);
          nic.peers--;
        }
      }
      if (flow.peers.size + flow.olderPeers.size === 0) this.#close(nic, entry);
    }
    if (nic.flows.size === 0) this.#nics.delete(port);
  }

  close(): void {
    for (const port of [...this.#nics.keys()]) this.forget(port);
  }

  #close(nic: NicFlows<P>, [key, flow]: [number, UdpFlow<P>]): void {
    nic.flows.delete(key);
    nic.peers -= flow.peers.size + flow.olderPeers.size;
    flow.socket?.close();
    flow.socket = null;
  }
}
