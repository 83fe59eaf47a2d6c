/**
 * The host's side of a network's DNS (B25), for both engines: sockets to upstream servers, for queries by UDP and TCP.
 *
 * Theory of operation: net/dns-forwarder decides what to answer and where to forward. There is one UDP socket per
 * upstream server, with a random source port, replaced when it fails. Queries by TCP for outside names are forwarded by
 * TCP.
 *
 * Limits: as many UDP queries in flight as the forwarder allows, to 16 upstream servers. A guest may have 16
 * connections at once, each with 16 queries and closed after 10 idle seconds; all guests together 1024 connections.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, type Socket } from 'node:net';
import { sendDatagram } from '../lib/datagram-room.ts';
import type { DnsForwarder } from '../net/dns-forwarder.ts';
import { DNS_SERVICE_PORT } from '../net/policy/services.ts';
import { parseDnsQuery, truncateDns } from '../wire/dns.ts';

const TCP_IDLE_MS = 10_000;
const TCP_PER_GUEST = 16;
const TCP_CLIENTS = 1024;
const TCP_QUERIES = 16;
const UPSTREAM_SOCKETS = 16;

interface Client {
  /** Longest answer, bytes; a longer one is truncated, so that the client retries by TCP. */
  size: number;
  answer: (bytes: Uint8Array) => void;
}

export class DnsService {
  readonly #dns: DnsForwarder;
  readonly #log: (o: object, m: string) => void;
  #clients = new Map<string, Client>();
  #upstreamSockets = new Map<string, UdpSocket>();
  #pollTimer: NodeJS.Timeout | null = null;
  /** TCP connections by guest. */
  readonly #tcpOfGuest = new Map<string, number>();
  /** TCP connections of all guests. */
  #tcpClients = 0;

  constructor(dns: DnsForwarder, log: (o: object, m: string) => void) {
    this.#dns = dns;
    this.#log = log;
  }

  close(): void {
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    for (const s of this.#upstreamSockets.values()) s.close();
    this.#upstreamSockets.clear();
  }

  /** Handles a query by UDP from a guest's port. */
  onQuery(bytes: Uint8Array, guest: string, port: number, answer: (bytes: Uint8Array) => void): void {
    const q = parseDnsQuery(bytes);
    const key = `${guest}:${port}:${q?.id ?? 0}`;
    this.#clients.set(key, { size: q?.udpSize ?? 512, answer });
    this.#perform(this.#dns.onQuery(bytes, key, guest, Date.now()));
  }

  #perform(actions: ReturnType<DnsForwarder['onQuery']>): void {
    for (const a of actions) {
      if (a.kind === 'ask') {
        sendDatagram(this.#upstream(a.upstream), a.bytes, DNS_SERVICE_PORT, a.upstream, (e) =>
          this.#log({ upstream: a.upstream, error: e.message }, 'dns upstream'),
        );
        continue;
      }
      const c = this.#clients.get(a.client);
      this.#clients.delete(a.client);
      if (!c || a.kind === 'forget') continue;
      const q = a.bytes.length > c.size ? parseDnsQuery(Uint8Array.from(a.bytes, (b, i) => (i === 2 ? b & 0x7f : b))) : null;
      c.answer(a.bytes.length > c.size ? truncateDns(a.bytes, q?.end ?? 12) : a.bytes);
    }
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    const at = this.#dns.pollAt();
    this.#pollTimer = at === null ? null : setTimeout(() => this.#perform(this.#dns.poll(Date.now())), Math.max(1, at - Date.now()));
  }

  #upstream(server: string): UdpSocket {
    const known = this.#upstreamSockets.get(server);
    if (known) return known;
    const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (bytes, from) => {
      if (from.port === 53 && from.address === server.split('%')[0]) this.#perform(this.#dns.onAnswer(bytes, server, Date.now()));
    });
    socket.on('error', () => {
      if (this.#upstreamSockets.get(server) !== socket) return; // replaced
      this.#upstreamSockets.delete(server);
      socket.close();
    });
    const [oldest] = this.#upstreamSockets;
    if (oldest && this.#upstreamSockets.size >= UPSTREAM_SOCKETS) {
      this.#upstreamSockets.delete(oldest[0]);
      oldest[1].close();
    }
    this.#upstreamSockets.set(server, socket);
    return socket;
  }

  /** Serves one TCP connection of a guest: queries with two bytes of length each (RFC 1035, 4.2.2). */
  serveTcp(socket: Socket, guest: string): void {
    const others = this.#tcpOfGuest.get(guest) ?? 0;
    if (others >= TCP_PER_GUEST || this.#tcpClients >= TCP_CLIENTS) return void socket.destroy();
    this.#tcpOfGuest.set(guest, others + 1);
    this.#tcpClients++;
    let rest = Buffer.alloc(0);
    let asked = 0;
    socket.setTimeout(TCP_IDLE_MS, () => socket.destroy());
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => {
      this.#tcpClients--;
      const left = (this.#tcpOfGuest.get(guest) ?? 1) - 1;
      if (left > 0) this.#tcpOfGuest.set(guest, left);
      else this.#tcpOfGuest.delete(guest);
    });
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const query = Buffer.from(rest.subarray(2, 2 + rest.readUInt16BE(0)));
        rest = rest.subarray(2 + query.length);
        if (++asked > TCP_QUERIES) return void socket.destroy();
        const own = this.#dns.ownAnswer(query);
        if (own) socket.write(framed(own));
        else if (parseDnsQuery(query)) this.#queryByTcp(query, [...this.#dns.upstreams()], socket);
      }
    });
  }

  #queryByTcp(query: Buffer, servers: string[], client: Socket): void {
    const server = servers.shift();
    if (server === undefined) return void client.destroy();
    const up = createConnection({ host: server, port: 53, timeout: TCP_IDLE_MS });
    let rest = Buffer.alloc(0);
    let answered = false;
    up.on('timeout', () => up.destroy());
    up.on('error', () => {}); // 'close' follows
    up.on('connect', () => up.write(framed(query)));
    up.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      if (rest.length < 2 || rest.length < 2 + rest.readUInt16BE(0)) return;
      answered = true;
      if (!client.destroyed) client.write(rest.subarray(0, 2 + rest.readUInt16BE(0)));
      up.destroy();
    });
    up.on('close', () => {
      if (!answered && !client.destroyed) this.#queryByTcp(query, servers, client);
    });
  }
}

function framed(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]);
}
