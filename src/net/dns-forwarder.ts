/**
 * The DNS forwarder of one network (B25), as a machine without sockets and clock.
 *
 * Theory of operation: `onQuery` either answers at once (the network's own names, forward and reverse) or returns the
 * upstream server and the bytes to send it. A forwarded query gets a new random id, so that an answer must match id,
 * server and question. If a server does not answer in time, or fails, the next one is asked. The server that last
 * answered is asked first. The names NAME.anka.internal and host.anka.internal never leave the host.
 *
 * Limits: no cache (the host's resolver has one). At most 256 pending queries per guest, and 32,768 per network.
 * Queries beyond that are dropped, and their clients retry. So a guest cannot starve the others, nor exhaust the
 * upstream servers.
 */
import { type SubnetLike, subnetContains } from '../wire/address.ts';
import { DnsType, emitDnsAnswer, parseDnsQuery, parseReverseName, Rcode } from '../wire/dns.ts';

export const DNS_SUFFIX = 'anka.internal';
const TTL_SECONDS = 5;
const TRY_MS = 2000;
const MAX_PER_GUEST = 256;
const MAX_PENDING = 32_768;

export interface DnsConfig {
  subnet: SubnetLike;
  gateway: number;
  /** False on the host network: no query leaves the host. */
  forward: boolean;
}

/** What to do: answer a client, ask an upstream server, or drop a client's query. */
export type DnsAction =
  | { kind: 'answer'; client: string; bytes: Uint8Array }
  | { kind: 'ask'; upstream: string; bytes: Uint8Array }
  | { kind: 'forget'; client: string };

interface Pending {
  guest: string;
  client: string;
  clientId: number;
  query: Uint8Array;
  questionEnd: number;
  tried: string[];
  deadline: number;
}

export class DnsForwarder {
  #config: DnsConfig;
  #names = new Map<string, number>();
  #addresses = new Map<number, string>();
  #upstreams: string[] = [];
  #pending = new Map<number, Pending>();
  /** Pending queries per guest. */
  #perGuest = new Map<string, number>();
  #random: () => number;

  /** `random` returns 16 random bits. */
  constructor(config: DnsConfig, random: () => number) {
    this.#config = config;
    this.#random = random;
  }

  /** Own names (without suffix) and their addresses. */
  setNames(names: ReadonlyMap<string, number>): void {
    this.#names = new Map([...names].map(([n, ip]) => [n.toLowerCase(), ip]));
    this.#names.set('host', this.#config.gateway);
    this.#addresses = new Map([...this.#names].map(([n, ip]) => [ip, n]));
  }

  setUpstreams(upstreams: readonly string[]): void {
    this.#upstreams = [...upstreams];
  }

  /** When `poll` must be called, or null. */
  pollAt(): number | null {
    const first = this.#pending.values().next();
    return first.done ? null : first.value.deadline;
  }

  /** A query of `client`, which belongs to `guest`. */
  onQuery(bytes: Uint8Array, client: string, guest: string, now: number): DnsAction[] {
    const own = this.ownAnswer(bytes);
    if (own) return [{ kind: 'answer', client, bytes: own }];
    const q = parseDnsQuery(bytes);
    if (!q || this.#pending.size >= MAX_PENDING || (this.#perGuest.get(guest) ?? 0) >= MAX_PER_GUEST) return [{ kind: 'forget', client }];
    let id = this.#random();
    while (this.#pending.has(id)) id = (id + 1) & 0xffff;
    const p: Pending = { guest, client, clientId: q.id, query: new Uint8Array(bytes), questionEnd: q.end, tried: [], deadline: 0 };
    return this.#ask(id, p, now);
  }

  /**
   * The answer to a query that is not forwarded: own names, every other name on the host network, and no upstream
   * server. Null when the query must be forwarded.
   */
  ownAnswer(bytes: Uint8Array): Uint8Array | null {
    const q = parseDnsQuery(bytes);
    if (!q) return bytes.length >= 12 && !(bytes[2] & 0x80) ? failure(bytes) : null;
    const suffix = q.name === DNS_SUFFIX ? '' : q.name.endsWith(`.${DNS_SUFFIX}`) ? q.name.slice(0, -DNS_SUFFIX.length - 1) : null;
    if (suffix !== null) {
      const ip = this.#names.get(suffix);
      if (ip === undefined) return emitDnsAnswer(bytes, q, suffix === '' ? Rcode.ok : Rcode.nxDomain);
      if (q.type === DnsType.A || q.type === DnsType.ANY) return emitDnsAnswer(bytes, q, Rcode.ok, { type: DnsType.A, ttl: TTL_SECONDS, data: ip });
      return emitDnsAnswer(bytes, q, Rcode.ok);
    }
    const reverse = parseReverseName(q.name);
    if (reverse !== null && subnetContains(this.#config.subnet, reverse)) {
      const name = this.#addresses.get(reverse);
      if (name === undefined) return emitDnsAnswer(bytes, q, Rcode.nxDomain);
      if (q.type === DnsType.PTR || q.type === DnsType.ANY)
        return emitDnsAnswer(bytes, q, Rcode.ok, { type: DnsType.PTR, ttl: TTL_SECONDS, data: `${name}.${DNS_SUFFIX}` });
      return emitDnsAnswer(bytes, q, Rcode.ok);
    }
    if (!this.#config.forward) return emitDnsAnswer(bytes, q, Rcode.nxDomain);
    if (this.#upstreams.length === 0) return emitDnsAnswer(bytes, q, Rcode.servFail);
    return null;
  }

  /** Upstream servers in the order they are tried; the one that last answered is first. */
  upstreams(): readonly string[] {
    return this.#upstreams;
  }

  /** A datagram of an upstream server. It is dropped if it matches no pending query. */
  onAnswer(bytes: Uint8Array, upstream: string, now: number): DnsAction[] {
    if (bytes.length < 12) return [];
    const id = (bytes[0] << 8) | bytes[1];
    const p = this.#pending.get(id);
    if (!p || p.tried.at(-1) !== upstream || !sameQuestion(bytes, p)) return [];
    const rcode = bytes[3] & 15;
    if ((rcode === Rcode.servFail || rcode === Rcode.refused) && this.#upstreams.some((u) => !p.tried.includes(u))) return this.#ask(id, p, now);
    this.#remove(id, p);
    this.prefer(upstream);
    const answer = new Uint8Array(bytes);
    answer[0] = p.clientId >> 8;
    answer[1] = p.clientId;
    return [{ kind: 'answer', client: p.client, bytes: answer }];
  }

  /** Asks the next server for each query that was not answered in time. */
  poll(now: number): DnsAction[] {
    const actions: DnsAction[] = [];
    for (const [id, p] of [...this.#pending]) if (p.deadline <= now) actions.push(...this.#ask(id, p, now));
    return actions;
  }

  /** Asks this server first from now on. */
  prefer(upstream: string): void {
    if (this.#upstreams[0] === upstream || !this.#upstreams.includes(upstream)) return;
    this.#upstreams = [upstream, ...this.#upstreams.filter((u) => u !== upstream)];
  }

  /** Removes a pending query. */
  #remove(id: number, p: Pending): void {
    if (!this.#pending.delete(id)) return;
    const left = (this.#perGuest.get(p.guest) ?? 1) - 1;
    if (left > 0) this.#perGuest.set(p.guest, left);
    else this.#perGuest.delete(p.guest);
  }

  #ask(id: number, p: Pending, now: number): DnsAction[] {
    this.#remove(id, p);
    const upstream = this.#upstreams.find((u) => !p.tried.includes(u));
    if (upstream === undefined) {
      const q = parseDnsQuery(p.query);
      return q ? [{ kind: 'answer', client: p.client, bytes: emitDnsAnswer(p.query, q, Rcode.servFail) }] : [{ kind: 'forget', client: p.client }];
    }
    p.tried.push(upstream);
    p.deadline = now + TRY_MS;
    this.#pending.set(id, p);
    this.#perGuest.set(p.guest, (this.#perGuest.get(p.guest) ?? 0) + 1);
    const bytes = new Uint8Array(p.query);
    bytes[0] = id >> 8;
    bytes[1] = id;
    return [{ kind: 'ask', upstream, bytes }];
  }
}

/** FORMERR, or NOTIMP for an opcode other than QUERY. */
function failure(query: Uint8Array): Uint8Array {
  const b = new Uint8Array(12);
  b.set(query.subarray(0, 4));
  b[2] |= 0x80;
  b[3] = (query[2] >> 3) & 15 ? Rcode.notImp : Rcode.formErr;
  return b;
}

/** Whether the answer repeats the question, letter case included. */
function sameQuestion(answer: Uint8Array, p: Pending): boolean {
  if (!(answer[2] & 0x80) || answer.length < p.questionEnd) return (answer[2] & 0x80) !== 0 && answer.length === 12;
  for (let i = 12; i < p.questionEnd; i++) if (answer[i] !== p.query[i]) return false;
  return true;
}
