/**
 * The DNS forwarder of one network (B25), as a machine without sockets and clock.
 *
 * Theory of operation: `onQuery` answers at once, or forwards: it returns the server and the bytes to send. Equivalent
 * queries that wait share one (RFC 5452, 5). Each query that is sent has a random id, and letters in random case
 * (0x20). An answer must match server, id and question; letters compare without case (RFC 4343). A server that returns
 * the question in another case is asked again without 0x20, and for an hour from then on; so is one that refuses the
 * query with 0x20 only. One that answers only without is asked so for ten minutes. Guests get their own id and case.
 *
 * If a server does not answer within 2 s, the next one is asked, or the same again; the first answer counts, from
 * whichever server. A failure of one (SERVFAIL, REFUSED, NOTIMP) counts when no other server answers. A silent server
 * is asked last for 30 s. What a guest asks by TCP is asked by TCP, and by UDP from servers that do not serve it.
 *
 * Limits: no cache (the host's resolver has one). At most 256 queries of one guest wait, and 32,768 of a network.
 * Queries beyond that are dropped, and their clients retry; by TCP they get SERVFAIL. So a guest cannot starve the
 * others, nor exhaust the upstream servers. A query waits for 2 s for each of the servers, and 5 s for the last.
 */
import { parseIpv4 } from '../wire/address.ts';
import { type DnsQuestion, emitDnsAnswer, emitDnsError, mixCase, parseDnsQuery, queryKey, Rcode, sameCase, sameQuestion } from '../wire/dns.ts';
import { isPrivateServer, LocalZones, type LocalZonesConfig, refusalOf } from './dns-local-zones.ts';

const TRY_MS = 2000;
const MIN_TRY_MS = 1000;
const LAST_TRY_MS = 5000;
/** Queries sent for one of a guest, if there are fewer servers. */
const TRIES = 4;
const MAX_ATTEMPTS = 4;
const MAX_PER_GUEST = 256;
const MAX_WAITING = 32_768;
/** Queries sent that may still be answered; beyond that, only the last one sent for a guest's query is. */
const MAX_ASKS = 32_768;
/** Bytes of a query. Real ones have less than 1 KiB. */
const MAX_QUERY = 4096;
const SILENT_MS = 30_000;
const CASE_LOST_MS = 3_600_000;
/** The same for a server that answered only when it was asked without: the first query may have been lost. */
const CASE_DOUBTED_MS = 600_000;
/** How a server may answer a name in mixed case. SERVFAIL has other causes most often, and comes late. */
const REFUSALS: readonly number[] = [Rcode.formErr, Rcode.notImp, Rcode.refused];
/** Draws of a random id before the next free one is taken. */
const ID_DRAWS = 16;

export interface DnsConfig extends Omit<LocalZonesConfig, 'closed'> {
  /** False on the host network: no query leaves the host. */
  forward: boolean;
}

/** Servers, and how they are used: as of resolv.conf(5). */
export interface DnsUpstreams {
  servers: readonly string[];
  timeoutSeconds?: number | undefined;
  attempts?: number | undefined;
  /** Begin with the next server for each query. */
  rotate?: boolean;
}

export type DnsTransport = 'udp' | 'tcp';

/** What to do: answer a client, ask an upstream server, or drop a client's query. */
export type DnsAction =
  | { kind: 'answer'; client: number; bytes: Uint8Array }
  | { kind: 'ask'; upstream: string; transport: DnsTransport; bytes: Uint8Array }
  | { kind: 'forget'; client: number };

/** A guest's query that waits. */
interface Client {
  client: number;
  guest: string;
  query: Uint8Array;
}

/** A query sent to a server. */
interface Ask {
  pending: Pending;
  id: number;
  upstream: string;
  transport: DnsTransport;
  bytes: Uint8Array;
  /** Its letters are in random case. */
  mixed: boolean;
  /** The server has refused the same query with mixed case. */
  repeats: boolean;
  sentAt: number;
}

interface Pending {
  key: string;
  transport: DnsTransport;
  clients: Client[];
  question: DnsQuestion;
  /** Of those whose answer still counts. */
  asks: Ask[];
  /** Servers to ask next. */
  plan: { upstream: string; transport: DnsTransport; again: boolean; repeats?: boolean }[];
  /** Answer of a server that failed. */
  failure: Uint8Array | null;
  deadline: number;
}

/** What is known of a server. */
interface ServerState {
  /** When it last answered. */
  heardAt: number;
  /** Until when it is asked last. */
  silentUntil: number;
  /** Until when it is asked without 0x20. */
  caseLostUntil: number;
}

export class DnsForwarder {
  readonly zones: LocalZones;
  #upstreams: DnsUpstreams = { servers: [] };
  #servers = new Map<string, ServerState>();
  #asks = new Map<number, Ask>();
  #byKey = new Map<string, Pending>();
  /** Pending queries, by whether their last try has begun; each in the order of their deadlines. */
  #trying = new Set<Pending>();
  #lastTry = new Set<Pending>();
  /** Waiting queries per guest. */
  #perGuest = new Map<string, number>();
  #waiting = 0;
  #rotation = 0;
  #random: () => number;

  /** `random` returns 16 random bits. */
  constructor({ forward, ...zones }: DnsConfig, random: () => number) {
    this.zones = new LocalZones({ ...zones, closed: !forward });
    this.#random = random;
  }

  /** To be followed by `poll`: after a change of the servers, waiting queries go to the new ones. */
  setUpstreams(upstreams: DnsUpstreams, now: number): void {
    const { servers } = upstreams;
    const differ = servers.join() !== this.#upstreams.servers.join();
    this.#upstreams = { ...upstreams, servers: [...servers] };
    this.#servers = new Map(servers.map((s) => [s, this.#servers.get(s) ?? { heardAt: -1, silentUntil: 0, caseLostUntil: 0 }]));
    this.zones.forwardPrivate = servers.some((s) => isPrivateServer(parseIpv4(s) ?? s));
    if (!differ) return;
    for (const p of this.#byKey.values()) {
      p.plan = this.#plan(p.transport, now);
      p.deadline = now;
    }
  }

  /** When `poll` must be called, or null. */
  pollAt(): number | null {
    const heads = [this.#trying, this.#lastTry].flatMap((queue) => queue.values().next().value?.deadline ?? []);
    return heads.length === 0 ? null : Math.min(...heads);
  }

  /** A query of a guest. `client` is returned with its answer. */
  onQuery(bytes: Uint8Array, from: { client: number; guest: string; transport: DnsTransport }, now: number): DnsAction[] {
    const { client, guest, transport } = from;
    const q = bytes.length > MAX_QUERY ? Rcode.formErr : parseDnsQuery(bytes);
    if (q === null || (bytes[2] & 0x80) !== 0) return [{ kind: 'forget', client }];
    const own = typeof q === 'number' ? emitDnsError(bytes, q) : this.#ownAnswer(bytes, q);
    if (own) return [{ kind: 'answer', client, bytes: own }];
    if (this.#waiting >= MAX_WAITING || (this.#perGuest.get(guest) ?? 0) >= MAX_PER_GUEST)
      return [transport === 'udp' ? { kind: 'forget', client } : { kind: 'answer', client, bytes: emitServFail(bytes) }];
    const question = q as DnsQuestion;
    const key = `${transport}${queryKey(bytes, question.end)}`;
    const known = this.#byKey.get(key);
    const pending = known ?? { key, transport, clients: [], question, asks: [], plan: this.#plan(transport, now), failure: null, deadline: 0 };
    pending.clients.push({ client, guest, query: new Uint8Array(bytes) });
    this.#waiting++;
    this.#perGuest.set(guest, (this.#perGuest.get(guest) ?? 0) + 1);
    if (known) return [];
    this.#byKey.set(key, pending);
    return this.#askNext(pending, now);
  }

  /** The answer to a query that is not forwarded; null when it must be. */
  #ownAnswer(bytes: Uint8Array, q: DnsQuestion): Uint8Array | null {
    const refusal = refusalOf(q);
    if (refusal !== null) return emitDnsAnswer(bytes, q, refusal);
    return this.zones.answer(bytes, q) ?? (this.#upstreams.servers.length === 0 ? emitDnsAnswer(bytes, q, Rcode.servFail) : null);
  }

  /** Upstream servers as configured. */
  upstreams(): readonly string[] {
    return this.#upstreams.servers;
  }

  /** The servers in the order in which they are asked, silent ones last; by TCP first if the guest used it. */
  #plan(transport: DnsTransport, now: number): Pending['plan'] {
    const { servers, attempts = 2, rotate } = this.#upstreams;
    const first = rotate ? this.#rotation++ % servers.length : 0;
    const inOrder = [...servers.slice(first), ...servers.slice(0, first)];
    const silent = (s: string): boolean => (this.#servers.get(s)?.silentUntil ?? 0) > now;
    const order = [...inOrder.filter((s) => !silent(s)), ...inOrder.filter(silent)];
    const rounds = Math.max(transport === 'tcp' ? 2 : 1, Math.min(attempts, MAX_ATTEMPTS));
    const plan = Array.from({ length: rounds }, (_, round) =>
      order.map((upstream) => ({ upstream, transport: round === 0 ? transport : ('udp' as const), again: round > 0 })),
    );
    return plan.flat().slice(0, Math.max(TRIES, transport === 'tcp' ? 2 * order.length : order.length));
  }

  /** A message of an upstream server. It is dropped if it does not answer a pending query. */
  onAnswer(bytes: Uint8Array, from: { upstream: string; transport: DnsTransport }, now: number): DnsAction[] {
    if (bytes.length < 12 || !(bytes[2] & 0x80)) return [];
    const ask = this.#asks.get((bytes[0] << 8) | bytes[1]);
    if (!ask || ask.upstream !== from.upstream || ask.transport !== from.transport) return [];
    const { pending } = ask;
    const { end } = pending.question;
    const rcode = bytes[3] & 15;
    const repeated = sameQuestion(bytes, ask.bytes, end);
    // a server that does not understand a query may leave the question out
    if (!repeated && !(bytes.length === 12 && rcode !== Rcode.ok && rcode !== Rcode.nxDomain)) return [];
    const server = this.#servers.get(ask.upstream);
    if (server) Object.assign(server, { heardAt: now, silentUntil: 0 });
    const isCaseLost = repeated && !sameCase(bytes, ask.bytes, end);
    const isRefusal = REFUSALS.includes(rcode);
    if (server && (ask.mixed ? isCaseLost : ask.repeats && (rcode === Rcode.ok || rcode === Rcode.nxDomain))) server.caseLostUntil = now + CASE_LOST_MS;
    if (ask.mixed && (isCaseLost || isRefusal)) {
      const action = this.#send(pending, { upstream: ask.upstream, transport: 'udp', again: true, repeats: !isCaseLost }, now);
      this.#endAsk(ask);
      return [action];
    }
    const ignored = !ask.mixed && pending.asks.some((other) => other.mixed && other.upstream === ask.upstream);
    if (server && ignored) server.caseLostUntil = now + CASE_DOUBTED_MS;
    if (rcode === Rcode.servFail || rcode === Rcode.refused || rcode === Rcode.notImp) return this.#onFailure(ask, bytes, now);
    return this.#finish(pending, bytes);
  }

  /** A query could not be sent, or its connection closed before the answer. `id` is that of the bytes to be sent. */
  onLost(id: number, from: { upstream: string; transport: DnsTransport }, now: number): DnsAction[] {
    const ask = this.#asks.get(id);
    if (!ask || ask.upstream !== from.upstream || ask.transport !== from.transport) return [];
    if (ask.transport === 'udp') this.#wasSilent(ask, now);
    return this.#onFailure(ask, null, now);
  }

  /** The query goes to the next server, if there is one; else the answers that may still come decide. */
  #onFailure(ask: Ask, answer: Uint8Array | null, now: number): DnsAction[] {
    const { pending } = ask;
    this.#endAsk(ask);
    pending.failure = answer ?? pending.failure;
    if (answer) pending.plan = pending.plan.filter((p) => p.upstream !== ask.upstream);
    if (pending.plan.length > 0) return this.#askNext(pending, now);
    return pending.asks.length > 0 ? [] : this.#finish(pending, pending.failure);
  }

  /** Asks the next server for each query that was not answered in time. */
  poll(now: number): DnsAction[] {
    const actions: DnsAction[] = [];
    for (const queue of [this.#trying, this.#lastTry]) {
      for (const p of queue) {
        if (p.deadline > now) break;
        const last = p.asks.at(-1);
        if (last && now - last.sentAt >= MIN_TRY_MS) this.#wasSilent(last, now);
        actions.push(...(p.plan.length > 0 ? this.#askNext(p, now) : this.#finish(p, p.failure)));
      }
    }
    return actions;
  }

  /** A server that has answered others meanwhile is not silent. */
  #wasSilent(ask: Ask, now: number): void {
    const server = this.#servers.get(ask.upstream);
    if (server && server.heardAt < ask.sentAt) server.silentUntil = now + SILENT_MS;
  }

  #askNext(pending: Pending, now: number): DnsAction[] {
    const next = pending.plan.shift();
    if (!next) return this.#finish(pending, pending.failure);
    const isLast = pending.plan.length === 0;
    const tryMs = Math.min(TRY_MS, Math.max(MIN_TRY_MS, 1000 * (this.#upstreams.timeoutSeconds ?? 2)));
    pending.deadline = now + (isLast ? LAST_TRY_MS : tryMs);
    this.#trying.delete(pending);
    this.#lastTry.delete(pending);
    (isLast ? this.#lastTry : this.#trying).add(pending);
    return [this.#send(pending, next, now)];
  }

  #send(pending: Pending, to: Pending['plan'][number], now: number): DnsAction {
    const { upstream, transport } = to;
    const bytes = new Uint8Array((pending.clients[0] as Client).query);
    const mixed = transport === 'udp' && !to.again && (this.#servers.get(upstream)?.caseLostUntil ?? 0) <= now;
    if (mixed) mixCase(bytes, pending.question.end, this.#random);
    const id = this.#freeId();
    bytes[0] = id >> 8;
    bytes[1] = id;
    if (this.#asks.size >= MAX_ASKS) for (const old of pending.asks) this.#endAsk(old);
    const ask = { pending, id, upstream, transport, bytes, mixed, repeats: to.repeats ?? false, sentAt: now };
    pending.asks.push(ask);
    this.#asks.set(id, ask);
    return { kind: 'ask', upstream, transport, bytes };
  }

  #freeId(): number {
    let id = this.#random();
    for (let draws = 1; this.#asks.has(id); draws++) id = draws < ID_DRAWS ? this.#random() : (id + 1) & 0xffff;
    return id;
  }

  #endAsk(ask: Ask): void {
    this.#asks.delete(ask.id);
    ask.pending.asks = ask.pending.asks.filter((a) => a !== ask);
  }

  /** Answers all clients of a query, by SERVFAIL without an answer of a server. */
  #finish(pending: Pending, answer: Uint8Array | null): DnsAction[] {
    for (const ask of pending.asks) this.#asks.delete(ask.id);
    this.#byKey.delete(pending.key);
    this.#trying.delete(pending);
    this.#lastTry.delete(pending);
    return pending.clients.map(({ client, guest, query }) => {
      this.#waiting--;
      const left = (this.#perGuest.get(guest) ?? 1) - 1;
      if (left > 0) this.#perGuest.set(guest, left);
      else this.#perGuest.delete(guest);
      return { kind: 'answer', client, bytes: answer ? forClient(answer, query, pending.question.end) : emitServFail(query) };
    });
  }
}

/** A server's answer with the client's id, and its question in the client's case. */
function forClient(answer: Uint8Array, query: Uint8Array, end: number): Uint8Array {
  const bytes = new Uint8Array(answer);
  if (bytes.length >= end) bytes.set(query.subarray(12, end), 12);
  bytes[0] = query[0];
  bytes[1] = query[1];
  return bytes;
}

function emitServFail(query: Uint8Array): Uint8Array {
  const q = parseDnsQuery(query);
  return q !== null && typeof q !== 'number' ? emitDnsAnswer(query, q, Rcode.servFail) : emitDnsError(query, Rcode.servFail);
}
