/**
 * The host's side of a network's DNS (B25), for both engines: guests' queries by UDP and TCP, and upstream servers.
 *
 * Theory of operation: net/dns-forwarder decides what to answer and where to forward; dns-upstream has the sockets. A
 * guest may pipeline queries on a TCP connection, and each is answered as soon as its answer is there, in any order
 * (RFC 7766, 6.2.1.1). The connection is not read while 64 queries wait, or 64 KiB of answers.
 *
 * Limits: those of the forwarder, and 16 upstream servers. A guest may have 16 connections at once, each closed after
 * 10 idle seconds; all guests together 1024.
 */
import { randomInt } from 'node:crypto';
import type { Socket } from 'node:net';
import type { DnsAction, DnsForwarder, DnsTransport, DnsUpstreams } from '../net/dns-forwarder.ts';
import { parseDnsQuery, truncateDns } from '../wire/dns.ts';
import { DnsFrames, framed } from './dns-frames.ts';
import { DnsUpstream } from './dns-upstream.ts';

const TCP_IDLE_MS = 10_000;
const TCP_PER_GUEST = 16;
const TCP_CLIENTS = 1024;
/** Of one connection. */
const TCP_WAITING = 64;
const TCP_UNSENT_BYTES = 64 << 10;
const UPSTREAMS = 16;

/** A query that waits; `null`: it is dropped. */
type Answer = (bytes: Uint8Array | null) => void;

export class DnsService {
  readonly #dns: DnsForwarder;
  readonly #log: (o: object, m: string) => void;
  /** By the number under which the forwarder knows them. */
  #clients = new Map<number, Answer>();
  #nextClient = 1;
  #upstreams = new Map<string, DnsUpstream>();
  #pollTimer: NodeJS.Timeout | null = null;
  #pollAt = Number.POSITIVE_INFINITY;
  /** TCP connections by guest. */
  readonly #tcpOfGuest = new Map<string, number>();
  /** TCP connections of all guests. */
  readonly #tcpClients = new Set<Socket>();

  constructor(dns: DnsForwarder, log: (o: object, m: string) => void) {
    this.#dns = dns;
    this.#log = log;
  }

  close(): void {
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    this.#pollTimer = null;
    for (const u of this.#upstreams.values()) u.close();
    this.#upstreams.clear();
    for (const s of this.#tcpClients) s.destroy();
  }

  setUpstreams(upstreams: DnsUpstreams): void {
    const now = performance.now();
    this.#dns.setUpstreams(upstreams, now);
    for (const [server, u] of this.#upstreams) {
      if (upstreams.servers.includes(server)) continue;
      this.#upstreams.delete(server);
      u.close();
    }
    this.#perform(this.#dns.poll(now));
  }

  /** Handles a query by UDP from a guest's port. */
  onQuery(bytes: Uint8Array, guest: string, answer: (bytes: Uint8Array) => void): void {
    const q = parseDnsQuery(bytes);
    const size = q === null || typeof q === 'number' ? 512 : q.udpSize;
    this.#ask(bytes, guest, 'udp', (a) => {
      if (a) answer(a.length > size ? truncateDns(a) : a);
    });
  }

  #ask(bytes: Uint8Array, guest: string, transport: DnsTransport, answer: Answer): void {
    const client = this.#nextClient++;
    this.#clients.set(client, answer);
    this.#perform(this.#dns.onQuery(bytes, { client, guest, transport }, performance.now()));
  }

  #perform(actions: DnsAction[]): void {
    for (const a of actions) {
      if (a.kind === 'ask') {
        this.#upstream(a.upstream).ask(a.bytes, a.transport, randomInt(65_536));
        continue;
      }
      const answer = this.#clients.get(a.client);
      this.#clients.delete(a.client);
      answer?.(a.kind === 'answer' ? a.bytes : null);
    }
    this.#planPoll();
  }

  #planPoll(): void {
    const at = this.#dns.pollAt() ?? Number.POSITIVE_INFINITY;
    if (at === this.#pollAt) return;
    this.#pollAt = at;
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    this.#pollTimer = null;
    if (at === Number.POSITIVE_INFINITY) return;
    const poll = (): void => {
      this.#pollAt = Number.POSITIVE_INFINITY;
      try {
        this.#perform(this.#dns.poll(performance.now()));
      } finally {
        this.#planPoll();
      }
    };
    this.#pollTimer = setTimeout(poll, Math.max(1, at - performance.now()));
  }

  #upstream(server: string): DnsUpstream {
    const known = this.#upstreams.get(server);
    if (known) return known;
    const upstream = new DnsUpstream(server, {
      onAnswer: (bytes, transport) => this.#perform(this.#dns.onAnswer(bytes, { upstream: server, transport }, performance.now())),
      onLost: (id, transport, why) => {
        if (why) this.#log({ upstream: server, transport, error: why.message }, 'dns upstream');
        this.#perform(this.#dns.onLost(id, { upstream: server, transport }, performance.now()));
      },
    });
    const [oldest] = this.#upstreams;
    if (oldest && this.#upstreams.size >= UPSTREAMS) {
      this.#upstreams.delete(oldest[0]);
      oldest[1].close();
    }
    this.#upstreams.set(server, upstream);
    return upstream;
  }

  /** Serves one TCP connection of a guest. */
  serveTcp(socket: Socket, guest: string): void {
    const others = this.#tcpOfGuest.get(guest) ?? 0;
    if (others >= TCP_PER_GUEST || this.#tcpClients.size >= TCP_CLIENTS) return void socket.destroy();
    this.#tcpOfGuest.set(guest, others + 1);
    this.#tcpClients.add(socket);
    let waiting = 0;
    const frames = new DnsFrames();
    const serve = (): void => {
      while (!socket.destroyed && waiting < TCP_WAITING && socket.writableLength <= TCP_UNSENT_BYTES) {
        const query = frames.next();
        if (!query) return void socket.resume();
        waiting++;
        this.#ask(query, guest, 'tcp', (answer) => {
          waiting--;
          if (!answer) return void socket.destroy(); // no query
          if (!socket.destroyed) socket.write(framed(answer));
          // not from within this function, which continues by itself
          setImmediate(serve);
        });
      }
      socket.pause();
    };
    socket.on('data', (chunk) => {
      frames.push(chunk);
      serve();
    });
    socket.on('drain', serve);
    // queries that wait are answered, which counts as activity
    socket.setTimeout(TCP_IDLE_MS, () => {
      if (waiting === 0 || socket.writableLength > 0) socket.destroy();
    });
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      this.#tcpClients.delete(socket);
      const left = (this.#tcpOfGuest.get(guest) ?? 1) - 1;
      if (left > 0) this.#tcpOfGuest.set(guest, left);
      else this.#tcpOfGuest.delete(guest);
    });
  }
}
