/**
 * The sockets to one upstream DNS server.
 *
 * Theory of operation: a UDP query leaves by one of eight sockets, chosen at random, each with a port that the kernel
 * chose at random (RFC 5452, 9.2). They are connected: the kernel drops what others send, and a refusal is an error. A
 * socket is closed after 64 queries, or 10 s, once nothing is expected on it any more. Queries by TCP share up to four
 * connections, on which they are pipelined, and whose answers may come in any order (RFC 7766, 6.2.1). A connection is
 * closed after 10 s without a query. If it closes before a query is answered, and has answered others, that query is
 * sent once more, by another one.
 *
 * Limits: 8 UDP sockets in use, and those that close; 4 connections, each with 256 queries.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, isIPv6, type Socket } from 'node:net';
import { withNamedZone } from '../host/resolvers.ts';
import type { DnsTransport } from '../net/dns-forwarder.ts';
import { DNS_SERVICE_PORT } from '../net/policy/services.ts';
import { DnsFrames, framed } from './dns-frames.ts';

const UDP_SOCKETS = 8;
const UDP_QUERIES = 64;
const UDP_MS = 10_000;
/** As long as an answer may come; the forwarder waits no longer. */
const UDP_LINGER_MS = 15_000;
/** Queries that wait for their socket to be connected, which takes no time on the network. */
const MAX_CONNECTING = 256;
const CONNECTIONS = 4;
const CONNECTION_QUERIES = 256;
const TCP_IDLE_MS = 10_000;

export interface DnsUpstreamEvents {
  onAnswer: (bytes: Uint8Array, transport: DnsTransport) => void;
  /** A query with this id could not be sent, or will not be answered. */
  onLost: (id: number, transport: DnsTransport, why: Error | null) => void;
}

const idOf = (message: Uint8Array): number => (message[0] << 8) | message[1];

export class DnsUpstream {
  readonly #server: string;
  readonly #events: DnsUpstreamEvents;
  /** By slot, chosen at random. */
  readonly #udp = new Map<number, UdpPort>();
  /** Ports that send no more, until their answers can no longer come. */
  readonly #lingering = new Set<UdpPort>();
  readonly #tcp = new Set<Connection>();
  #closed = false;

  constructor(server: string, events: DnsUpstreamEvents) {
    this.#server = server;
    this.#events = events;
  }

  close(): void {
    this.#closed = true;
    for (const port of [...this.#udp.values(), ...this.#lingering]) port.close();
    for (const c of this.#tcp) c.close();
    this.#udp.clear();
    this.#lingering.clear();
    this.#tcp.clear();
  }

  /** `random`: 16 random bits. */
  ask(message: Uint8Array, transport: DnsTransport, random: number): void {
    if (transport === 'tcp') return void this.#connection().ask(message);
    const slot = random % UDP_SOCKETS;
    let port = this.#udp.get(slot);
    if (!port?.usable) {
      if (port) this.#retire(port);
      port = new UdpPort(this.#server, this.#events);
      this.#udp.set(slot, port);
    }
    port.send(message);
  }

  #retire(port: UdpPort): void {
    this.#lingering.add(port);
    const end = setTimeout(() => {
      port.close();
      this.#lingering.delete(port);
    }, UDP_LINGER_MS);
    end.unref();
  }

  /** The connection with the fewest queries. */
  #connection(): Connection {
    const open = [...this.#tcp].sort((a, b) => a.size - b.size);
    const best = open[0];
    if (best && (best.size === 0 || open.length >= CONNECTIONS)) return best;
    const connection: Connection = new Connection(this.#server, {
      onAnswer: this.#events.onAnswer,
      onLost: this.#events.onLost,
      onClose: (unanswered) => {
        this.#tcp.delete(connection);
        if (this.#closed) return;
        for (const message of unanswered) this.#connection().ask(message, true);
      },
    });
    this.#tcp.add(connection);
    return connection;
  }
}

/** A connected UDP socket. */
class UdpPort {
  readonly #socket: UdpSocket;
  readonly #events: DnsUpstreamEvents;
  readonly #until = performance.now() + UDP_MS;
  /** Ids of queries that may be unanswered; null once it is closed. */
  #asked: Set<number> | null = new Set();
  #sent = 0;
  /** Messages that wait for the connect; null once it is done. */
  #waiting: Uint8Array[] | null = [];

  constructor(server: string, events: DnsUpstreamEvents) {
    this.#events = events;
    this.#socket = createSocket(isIPv6(server) ? 'udp6' : 'udp4');
    this.#socket.on('message', (bytes) => {
      this.#asked?.delete(idOf(bytes));
      events.onAnswer(bytes, 'udp');
    });
    this.#socket.on('error', (e) => this.#fail(e));
    // the callback also gets the error of a connect without a route
    const connected = (error?: Error): void => {
      if (error) return void this.#fail(error);
      const waiting = this.#waiting ?? [];
      this.#waiting = null;
      for (const message of waiting) this.#transmit(message);
    };
    this.#socket.connect(DNS_SERVICE_PORT, withNamedZone(server), connected as () => void);
  }

  /** It accepts another query. */
  get usable(): boolean {
    return this.#asked !== null && this.#sent < UDP_QUERIES && performance.now() < this.#until;
  }

  send(message: Uint8Array): void {
    this.#sent++;
    this.#asked?.add(idOf(message));
    if (this.#waiting === null) this.#transmit(message);
    else if (this.#waiting.length < MAX_CONNECTING) this.#waiting.push(message);
  }

  #transmit(message: Uint8Array): void {
    if (this.#asked === null) return;
    this.#socket.send(message, (error) => {
      if (error) this.#fail(error);
    });
  }

  /** No route, refused, or the local address is gone: another socket is used from now on. */
  #fail(error: Error): void {
    const lost = this.#asked ?? [];
    this.close();
    for (const id of lost) this.#events.onLost(id, 'udp', error);
  }

  close(): void {
    if (this.#asked === null) return;
    this.#asked = null;
    this.#waiting = null;
    this.#socket.close();
  }
}

interface ConnectionEvents extends DnsUpstreamEvents {
  /** It is closed; these messages are to be sent once more. */
  onClose: (unanswered: Uint8Array[]) => void;
}

/** A TCP connection. */
class Connection {
  readonly #socket: Socket;
  readonly #events: ConnectionEvents;
  /** By id. */
  readonly #asked = new Map<number, { message: Uint8Array; again: boolean }>();
  #hasAnswered = false;

  constructor(server: string, events: ConnectionEvents) {
    this.#events = events;
    this.#socket = createConnection({ host: withNamedZone(server), port: DNS_SERVICE_PORT, timeout: TCP_IDLE_MS, noDelay: true });
    let why: Error | null = null;
    const frames = new DnsFrames();
    this.#socket.on('data', (chunk) => {
      frames.push(chunk);
      for (let message = frames.next(); message; message = frames.next()) {
        this.#hasAnswered = true;
        this.#asked.delete(idOf(message));
        events.onAnswer(message, 'tcp');
      }
    });
    this.#socket.on('timeout', () => this.#socket.destroy());
    this.#socket.on('end', () => this.#socket.destroy());
    this.#socket.on('error', (e) => {
      why = e;
    }); // 'close' follows
    this.#socket.on('close', () => this.#onClose(why));
  }

  /** Queries without an answer. */
  get size(): number {
    return this.#asked.size;
  }

  /** `again`: it was sent before, by a connection that closed. */
  ask(message: Uint8Array, again = false): void {
    if (this.#asked.size >= CONNECTION_QUERIES) {
      const [oldest] = this.#asked.keys();
      this.#asked.delete(oldest as number);
      this.#events.onLost(oldest as number, 'tcp', null);
    }
    this.#asked.set(idOf(message), { message, again });
    this.#socket.write(framed(message));
  }

  close(): void {
    this.#socket.destroy();
  }

  #onClose(why: Error | null): void {
    const asked = [...this.#asked];
    this.#asked.clear();
    const repeatable = this.#hasAnswered ? asked.filter(([, a]) => !a.again) : [];
    this.#events.onClose(repeatable.map(([, a]) => a.message));
    for (const [id, a] of asked) if (!this.#hasAnswered || a.again) this.#events.onLost(id, 'tcp', why);
  }
}
