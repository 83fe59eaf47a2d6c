/**
 * The flows that a VM's filter has let through, so that answers pass: connections of TCP, datagrams between two ports,
 * and echoes.
 *
 * Theory of operation: a hash table in typed arrays. A flow is known by its protocol, the peer, and the ports of both
 * ends; an echo's identifier stands for both ports. The VM's own address does not distinguish flows, as in the kernel
 * engine. Each packet of a flow renews it. A FIN or RST shortens its time: what is left of a TCP connection is over in
 * seconds. The hash has a secret, so that a guest cannot choose ports that collide.
 *
 * Limits: 16,384 flows. A new one beyond that finds no room until others expire; the table is searched for expired
 * flows at most once a second.
 */
import { randomBytes } from 'node:crypto';
import { IpProtocol } from '../../wire/ipv4.ts';
import { DNS_SERVICE_PORT } from '../policy/services.ts';

export const MAX_FILTER_FLOWS = 16_384;
/** Seconds of silence after which a flow is forgotten. */
export const FLOW_SECONDS = {
  /** As RFC 5382 REQ-5 asks for. */
  tcp: 7440,
  /** Nothing but its first segment was seen. */
  opening: 240,
  /** After a FIN or RST. */
  closing: 120,
  /** RFC 4787 REQ-5. */
  udp: 300,
  /** A query to a DNS server. */
  names: 30,
  echo: 60,
} as const;

const BUCKETS = 16_384;
const SWEEP_MS = 1000;
const NONE = -1;

/** A flow, as its VM sees it. */
export interface Flow {
  protocol: number;
  peer: number;
  ownPort: number;
  peerPort: number;
}

export class FilterFlows {
  readonly #heads = new Int32Array(BUCKETS).fill(NONE);
  readonly #next = new Int32Array(MAX_FILTER_FLOWS);
  readonly #peers = new Uint32Array(MAX_FILTER_FLOWS);
  /** Own port in the upper half. */
  readonly #ports = new Uint32Array(MAX_FILTER_FLOWS);
  readonly #protocols = new Uint8Array(MAX_FILTER_FLOWS);
  /** The VM's address when the flow began. */
  readonly #own = new Uint32Array(MAX_FILTER_FLOWS);
  /** 1: the VM began it. */
  readonly #outbound = new Uint8Array(MAX_FILTER_FLOWS);
  readonly #closing = new Uint8Array(MAX_FILTER_FLOWS);
  /** Milliseconds. */
  readonly #until = new Float64Array(MAX_FILTER_FLOWS);
  readonly #secret = randomBytes(4).readUInt32LE() | 1;
  #free = 0;
  #size = 0;
  #sweptAt = Number.NEGATIVE_INFINITY;

  constructor() {
    for (let i = 0; i < MAX_FILTER_FLOWS; i++) this.#next[i] = i + 1 < MAX_FILTER_FLOWS ? i + 1 : NONE;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * Renews the flow of a packet. False: it is not known, or `opens` and the flow is closing, so that a new one may
   * begin.
   */
  renew(f: Flow, { opens, closes }: { opens: boolean; closes: boolean }, now: number): boolean {
    const i = this.#find(f);
    if (i === NONE || (this.#until[i] as number) <= now) return false;
    if (this.#closing[i] === 1 && opens) return false;
    if (closes) this.#closing[i] = 1;
    this.#until[i] = now + 1000 * this.#secondsOf(i);
    return true;
  }

  /** Whether the flow is known. */
  has(f: Flow, now: number): boolean {
    const i = this.#find(f);
    return i !== NONE && (this.#until[i] as number) > now;
  }

  /** Adds a flow, or begins it again. False if there is no room. `own`: the VM's address. */
  add(f: Flow, { outbound, own, opens }: { outbound: boolean; own: number; opens: boolean }, now: number): boolean {
    let i = this.#find(f);
    if (i === NONE) {
      if (this.#free === NONE) this.#sweep(now);
      if (this.#free === NONE) return false;
      i = this.#free;
      this.#free = this.#next[i] as number;
      this.#size++;
      this.#protocols[i] = f.protocol;
      this.#peers[i] = f.peer;
      this.#ports[i] = portsOf(f);
      const bucket = this.#bucket(f.protocol, f.peer, portsOf(f));
      this.#next[i] = this.#heads[bucket] as number;
      this.#heads[bucket] = i;
    }
    this.#own[i] = own;
    this.#outbound[i] = outbound ? 1 : 0;
    this.#closing[i] = 0;
    this.#until[i] = now + 1000 * (opens ? FLOW_SECONDS.opening : this.#secondsOf(i));
    return true;
  }

  /** Forgets the flows for which `keeps` is false. */
  retain(keeps: (f: Flow, begun: { outbound: boolean; own: number }) => boolean): void {
    this.#removeWhere((i) => {
      const f = { protocol: this.#protocols[i] as number, peer: this.#peers[i] as number, ...splitPorts(this.#ports[i] as number) };
      return !keeps(f, { outbound: this.#outbound[i] === 1, own: this.#own[i] as number });
    });
  }

  #secondsOf(i: number): number {
    const protocol = this.#protocols[i];
    if (protocol === IpProtocol.tcp) return this.#closing[i] === 1 ? FLOW_SECONDS.closing : FLOW_SECONDS.tcp;
    if (protocol === IpProtocol.icmp) return FLOW_SECONDS.echo;
    return this.#outbound[i] === 1 && ((this.#ports[i] as number) & 0xffff) === DNS_SERVICE_PORT ? FLOW_SECONDS.names : FLOW_SECONDS.udp;
  }

  #find(f: Flow): number {
    const ports = portsOf(f);
    for (let i = this.#heads[this.#bucket(f.protocol, f.peer, ports)] as number; i !== NONE; i = this.#next[i] as number)
      if (this.#ports[i] === ports && this.#peers[i] === f.peer && this.#protocols[i] === f.protocol) return i;
    return NONE;
  }

  #bucket(protocol: number, peer: number, ports: number): number {
    let h = Math.imul(peer ^ this.#secret, 0x9e3779b1);
    h = Math.imul((h ^ (h >>> 15)) + ports, 0x85ebca6b) ^ this.#secret;
    h = Math.imul((h ^ (h >>> 13)) + protocol, 0xc2b2ae35);
    return ((h ^ (h >>> 16)) >>> 0) % BUCKETS;
  }

  #sweep(now: number): void {
    if (now - this.#sweptAt < SWEEP_MS) return;
    this.#sweptAt = now;
    this.#removeWhere((i) => (this.#until[i] as number) <= now);
  }

  #removeWhere(isRemoved: (i: number) => boolean): void {
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      let before = NONE;
      for (let i = this.#heads[bucket] as number; i !== NONE; ) {
        const next = this.#next[i] as number;
        if (!isRemoved(i)) before = i;
        else {
          if (before === NONE) this.#heads[bucket] = next;
          else this.#next[before] = next;
          this.#next[i] = this.#free;
          this.#free = i;
          this.#size--;
        }
        i = next;
      }
    }
  }
}

const portsOf = (f: Flow): number => ((f.ownPort << 16) | f.peerPort) >>> 0;
const splitPorts = (ports: number) => ({ ownPort: ports >>> 16, peerPort: ports & 0xffff });
