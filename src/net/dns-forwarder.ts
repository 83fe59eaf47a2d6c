/**
 * The DNS forwarder of one network (B25), as a machine without sockets and clock.
 *
 * Theory of operation: `onQuery` either answers at once (our own names, forward and reverse) or says which upstream to
 * ask with which bytes. A forwarded query gets a fresh random id, so that an answer must match id, server and question.
 * A server that does not answer in time, or fails, is followed by the next; the one that last answered is asked first.
 * The names NAME.anka.internal and host.anka.internal never leave the host.
 *
 * Limits: no cache (the host's resolver has one); at most 256 queries on their way per guest, and 32,768 per network.
 * What is beyond is not heard, and asked again by its client, so that a guest cannot crowd out the others, nor have
 * more asked outside than is answered there.
 */
import { type SubnetLike, subnetContains } from '../wire/address.ts';
import { DnsType, emitDnsAnswer, parseDnsQuery, parseReverseName, Rcode } from '../wire/dns.ts';

export const DNS_SUFFIX = 'anka.internal';
const TTL_SECONDS = 5;
const TRY_MS = 2000;
const MAX_OF_GUEST = 256;
const MAX_PENDING = 32_768;

export interface DnsConfig {
  subnet: SubnetLike;
  gateway: number;
  /** False on the host network: nothing is asked outside. */
  forward: boolean;
}

/** What to do: send bytes to a client, ask an upstream, or forget a client's query. `client` names that. */
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
  /** How many of them each guest has. */
  #ofGuest = new Map<string, number>();
  #random: () => number;

  /** `random` gives 16 random bits. */
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

  /** A query of `client`'s, which is `guest`'s. */
  onQuery(bytes: Uint8Array, client: string, guest: string, now: number): DnsAction[] {
    const own = this.ownAnswer(bytes);
    if (own) return [{ kind: 'answer', client, bytes: own }];
    const q = parseDnsQuery(bytes);
    if (!q || this.#pending.size >= MAX_PENDING || (this.#ofGuest.get(guest) ?? 0) >= MAX_OF_GUEST) return [{ kind: 'forget', client }];
    let id = this.#random();
    while (this.#pending.has(id)) id = (id + 1) & 0xffff;
    const p: Pending = { guest, client, clientId: q.id, query: new Uint8Array(bytes), questionEnd: q.end, tried: [], deadline: 0 };
    return this.#ask(id, p, now);
  }

  /**
   * An answer for what needs no upstream: own names, the host network's refusals, no upstream at all; null when it is
   * to be forwarded.
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

  /** Upstreams in the order in which they are to be tried; the last good one first. */
  upstreams(): readonly string[] {
    return this.#upstreams;
  }

  /** An upstream's datagram. What matches no pending query is dropped. */
  onAnswer(bytes: Uint8Array, upstream: string, now: number): DnsAction[] {
    if (bytes.length < 12) return [];
    const id = (bytes[0] << 8) | bytes[1];
    const p = this.#pending.get(id);
    if (!p || p.tried.at(-1) !== upstream || !sameQuestion(bytes, p)) return [];
    const rcode = bytes[3] & 15;
    if ((rcode === Rcode.servFail || rcode === Rcode.refused) && this.#upstreams.some((u) => !p.tried.includes(u))) return this.#ask(id, p, now);
    this.#take(id, p);
    this.prefer(upstream);
    const answer = new Uint8Array(bytes);
    answer[0] = p.clientId >> 8;
    answer[1] = p.clientId;
    return [{ kind: 'answer', client: p.client, bytes: answer }];
  }

  /** Time has passed: servers that kept silent are followed by the next. */
  poll(now: number): DnsAction[] {
    const actions: DnsAction[] = [];
    for (const [id, p] of [...this.#pending]) if (p.deadline <= now) actions.push(...this.#ask(id, p, now));
    return actions;
  }

  /** This one answers: ask it first from now on. */
  prefer(upstream: string): void {
    if (this.#upstreams[0] === upstream || !this.#upstreams.includes(upstream)) return;
    this.#upstreams = [upstream, ...this.#upstreams.filter((u) => u !== upstream)];
  }

  /** It is not on its way any more. */
  #take(id: number, p: Pending): void {
    if (!this.#pending.delete(id)) return;
    const left = (this.#ofGuest.get(p.guest) ?? 1) - 1;
    if (left > 0) this.#ofGuest.set(p.guest, left);
    else this.#ofGuest.delete(p.guest);
  }

  #ask(id: number, p: Pending, now: number): DnsAction[] {
    this.#take(id, p);
    const upstream = this.#upstreams.find((u) => !p.tried.includes(u));
    if (upstream === undefined) {
      const q = parseDnsQuery(p.query);
      return q ? [{ kind: 'answer', client: p.client, bytes: emitDnsAnswer(p.query, q, Rcode.servFail) }] : [{ kind: 'forget', client: p.client }];
    }
    p.tried.push(upstream);
    p.deadline = now + TRY_MS;
    this.#pending.set(id, p);
    this.#ofGuest.set(p.guest, (this.#ofGuest.get(p.guest) ?? 0) + 1);
    const bytes = new Uint8Array(p.query);
    bytes[0] = id >> 8;
    bytes[1] = id;
    return [{ kind: 'ask', upstream, bytes }];
  }
}

function failure(query: Uint8Array): Uint8Array {
  const b = new Uint8Array(12);
  b.set(query.subarray(0, 4));
  b[2] |= 0x80;
  b[3] = (query[2] >> 3) & 15 ? Rcode.notImp : Rcode.formErr;
  return b;
}

/** The answer repeats the question, letter case included. */
function sameQuestion(answer: Uint8Array, p: Pending): boolean {
  if (!(answer[2] & 0x80) || answer.length < p.questionEnd) return (answer[2] & 0x80) !== 0 && answer.length === 12;
  for (let i = 12; i < p.questionEnd; i++) if (answer[i] !== p.query[i]) return false;
  return true;
}
