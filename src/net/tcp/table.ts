/**
 * Finds a flow by its addresses and ports. A chained hash table with a seeded hash, so that a guest cannot provoke
 * collisions.
 */
import type { TcpFlow } from './flow.ts';

const BUCKETS = 1 << 14;

export class TcpTable {
  readonly #buckets: (TcpFlow | null)[] = new Array<TcpFlow | null>(BUCKETS).fill(null);
  readonly #seed: number;
  #last: TcpFlow | null = null;
  size = 0;

  /** `seed`: 32 bits that guests do not know. */
  constructor(seed: number) {
    this.#seed = seed | 1;
  }

  /** Positional arguments here and in `find`: both run per segment. */
  #hash(index: number, guestIp: number, peerIp: number, ports: number): number {
    let h = Math.imul(peerIp ^ this.#seed, 0x9e3779b1) ^ Math.imul(ports, 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 15) ^ guestIp, 0xc2b2ae35);
    return (h ^ (h >>> 13) ^ Math.imul(index, 0x27d4eb2f)) & (BUCKETS - 1);
  }

  find(index: number, guestIp: number, peerIp: number, ports: number): TcpFlow | null {
    const last = this.#last;
    if (last && last.ports === ports && last.peerIp === peerIp && last.guestIp === guestIp && last.owner.port.index === index) return last;
    let f: TcpFlow | null = this.#buckets[this.#hash(index, guestIp, peerIp, ports)];
    while (f && !(f.ports === ports && f.peerIp === peerIp && f.guestIp === guestIp && f.owner.port.index === index)) f = f.chained;
    if (f) this.#last = f;
    return f;
  }

  add(flow: TcpFlow): void {
    const h = this.#hash(flow.owner.port.index, flow.guestIp, flow.peerIp, flow.ports);
    flow.chained = this.#buckets[h];
    this.#buckets[h] = flow;
    this.size++;
  }

  remove(flow: TcpFlow): void {
    const h = this.#hash(flow.owner.port.index, flow.guestIp, flow.peerIp, flow.ports);
    let f: TcpFlow | null = this.#buckets[h];
    if (f === flow) this.#buckets[h] = flow.chained;
    else {
      while (f && f.chained !== flow) f = f.chained;
      if (!f) return;
      f.chained = flow.chained;
    }
    flow.chained = null;
    this.size--;
    if (this.#last === flow) this.#last = null;
  }
}
