/**
 * The sockets of one served network: DHCP and DNS.
 *
 * Theory of operation: DHCP needs two sockets, one that gets broadcasts (bound to 255.255.255.255) and one bound to the gateway's address, from which
 * answers leave on the right bridge; nft rewrites the ports (docs/decisions/0002). DNS is served by UDP and TCP on the gateway. A socket whose address is
 * not there yet, or has gone with its bridge, is bound again every half second.
 * Limits: a DNS client by TCP may have 16 queries on one connection, 64 connections at once per network, ended after 10 s of silence.
 */

import { randomInt } from 'node:crypto';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { probeAddress } from '../../host/arp-probe.ts';
import { DhcpServer } from '../../net/dhcp-server.ts';
import { DnsForwarder } from '../../net/dns.ts';
import { formatIpv4, formatMac, gatewayOf } from '../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../wire/dhcpv4.ts';
import { parseDnsQuery, truncateDns } from '../../wire/dns.ts';
import type { ServiceNetwork } from './service-config.ts';

export const LEASE_SECONDS = 3600;
const REBIND_MS = 500;
const TCP_SILENCE_MS = 10_000;
const TCP_CLIENTS = 64;
const TCP_QUERIES = 16;
/** Addresses probed for one DHCP message. */
const MAX_PROBES = 3;

interface Log {
  info(o: object, m: string): void;
  warn(o: object, m: string): void;
}

export class ServedNetwork {
  readonly config: ServiceNetwork;
  readonly dhcp: DhcpServer;
  readonly dns: DnsForwarder;
  dhcpListening = false;
  dnsListening = false;
  #log: Log;
  #onLease: () => void;
  #gateway: string;
  #closed = false;
  #dhcpSockets: UdpSocket[] = [];
  #dnsSocket: UdpSocket | null = null;
  #dnsServer: Server | null = null;
  #upstreamSockets = new Map<string, UdpSocket>();
  #clients = new Map<string, { port: number; address: string; size: number }>();
  #timers = new Set<NodeJS.Timeout>();
  #pollTimer: NodeJS.Timeout | null = null;
  #tcpClients = 0;
  #wasExhausted = false;

  constructor(config: ServiceNetwork, log: Log, onLease: () => void) {
    this.config = config;
    this.#log = log;
    this.#onLease = onLease;
    this.#gateway = formatIpv4(gatewayOf(config.subnet));
    this.dhcp = new DhcpServer({ subnet: config.subnet, mtu: config.mtu, leaseSeconds: LEASE_SECONDS, domain: 'anka.internal' });
    this.dns = new DnsForwarder({ subnet: config.subnet, gateway: gatewayOf(config.subnet), forward: config.dnsForward }, () => randomInt(65_536));
    this.#openDhcp('255.255.255.255');
    this.#openDhcp(this.#gateway);
    this.#openDnsUdp();
    this.#openDnsTcp();
  }

  close(): void {
    this.#closed = true;
    for (const t of this.#timers) clearTimeout(t);
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    for (const s of [...this.#dhcpSockets, ...(this.#dnsSocket ? [this.#dnsSocket] : []), ...this.#upstreamSockets.values()]) s.close();
    this.#dnsServer?.close();
  }

  #later(what: () => void): void {
    if (this.#closed) return;
    const t = setTimeout(() => {
      this.#timers.delete(t);
      if (!this.#closed) what();
    }, REBIND_MS);
    this.#timers.add(t);
  }

  #openDhcp(address: string): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    this.#dhcpSockets.push(socket);
    const main = address === this.#gateway;
    socket.on('message', (bytes) => this.#onDhcp(bytes));
    socket.on('error', (e) => {
      if (main) this.dhcpListening = false;
      this.#dhcpSockets = this.#dhcpSockets.filter((s) => s !== socket);
      socket.close();
      this.#log.info({ network: this.config.name, address, error: e.message }, 'dhcp socket');
      this.#later(() => this.#openDhcp(address));
    });
    socket.bind({ address, port: this.config.dhcpPort, exclusive: true }, () => {
      socket.setBroadcast(true);
      if (main) this.dhcpListening = true;
    });
    if (main) this.#sender = socket;
  }

  #sender: UdpSocket | null = null;

  #probing = new Set<string>();

  /** An address that its client did not have before is asked for by ARP first; what the client repeats meanwhile is not heard. */
  #onDhcp(bytes: Buffer): void {
    const candidate = this.dhcp.candidate(bytes, Date.now());
    if (!candidate) this.#answerDhcp(bytes);
    if (!candidate || this.#probing.has(candidate.nic)) return;
    this.#probing.add(candidate.nic);
    void this.#probe(bytes)
      .catch((e: Error) => this.#log.warn({ network: this.config.name, error: e.message }, 'probing an address'))
      .finally(() => this.#probing.delete(candidate.nic));
  }

  async #probe(bytes: Buffer): Promise<void> {
    for (let i = 0; i < MAX_PROBES; i++) {
      const c = this.dhcp.candidate(bytes, Date.now());
      if (!c) return this.#answerDhcp(bytes);
      const mac = await probeAddress(c.ip, this.config.interface);
      if (this.#closed) return;
      const inUse = mac !== null && mac !== c.mac;
      this.dhcp.probed(c.ip, inUse, Date.now());
      if (inUse) this.#log.warn({ network: this.config.name, ip: formatIpv4(c.ip), mac: formatMac(mac) }, 'an address of the pool is in use');
    }
    // the client asks again; all found in use until now are passed over then
    if (!this.dhcp.candidate(bytes, Date.now())) this.#answerDhcp(bytes);
  }

  #answerDhcp(bytes: Buffer): void {
    const answer = this.dhcp.onMessage(bytes, Date.now());
    if (this.dhcp.exhausted && !this.#wasExhausted) this.#log.warn({ network: this.config.name }, 'the address pool is exhausted');
    this.#wasExhausted = this.dhcp.exhausted;
    if (typeof answer === 'string') {
      if (answer === 'released' || answer === 'declined') this.#onLease();
      return;
    }
    this.#sender?.send(answer.bytes, DHCP_CLIENT_PORT, formatIpv4(answer.to), (e) => {
      if (e) this.#log.info({ network: this.config.name, error: e.message }, 'dhcp answer not sent');
    });
    this.#log.info({ network: this.config.name, nic: answer.nic, type: answer.type, ip: formatIpv4(answer.ip) }, 'dhcp');
    this.#onLease();
  }

  #openDnsUdp(): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    this.#dnsSocket = socket;
    socket.on('message', (bytes, from) => {
      const q = parseDnsQuery(bytes);
      const client = `${from.address}:${from.port}:${q?.id ?? 0}`;
      this.#clients.set(client, { port: from.port, address: from.address, size: q?.udpSize ?? 512 });
      this.#act(this.dns.onQuery(bytes, client, Date.now()));
    });
    socket.on('error', (e) => {
      this.dnsListening = false;
      socket.close();
      this.#dnsSocket = null;
      this.#log.info({ network: this.config.name, error: e.message }, 'dns socket');
      this.#later(() => this.#openDnsUdp());
    });
    socket.bind({ address: this.#gateway, port: this.config.dnsPort, exclusive: true }, () => {
      this.dnsListening = true;
    });
  }

  #act(actions: ReturnType<DnsForwarder['onQuery']>): void {
    for (const a of actions) {
      if (a.kind === 'ask') {
        this.#upstream(a.upstream)?.send(a.bytes, 53, a.upstream, (e) => {
          if (e) this.#log.info({ upstream: a.upstream, error: e.message }, 'dns upstream');
        });
        continue;
      }
      const c = this.#clients.get(a.client);
      this.#clients.delete(a.client);
      if (!c) continue;
      const q = a.bytes.length > c.size ? parseDnsQuery(Uint8Array.from(a.bytes, (b, i) => (i === 2 ? b & 0x7f : b))) : null;
      this.#dnsSocket?.send(a.bytes.length > c.size ? truncateDns(a.bytes, q?.end ?? 12) : a.bytes, c.port, c.address);
    }
    if (this.#clients.size > 4096) this.#clients.delete(this.#clients.keys().next().value as string);
    if (this.#pollTimer) clearTimeout(this.#pollTimer);
    const at = this.dns.pollAt();
    this.#pollTimer = at === null ? null : setTimeout(() => this.#act(this.dns.poll(Date.now())), Math.max(1, at - Date.now()));
  }

  /** One socket per upstream, with a random source port of its own; renewed when it fails. */
  #upstream(server: string): UdpSocket | null {
    const known = this.#upstreamSockets.get(server);
    if (known) return known;
    const socket = createSocket(server.includes(':') ? 'udp6' : 'udp4');
    socket.on('message', (bytes, from) => {
      if (from.port === 53 && from.address === server.split('%')[0]) this.#act(this.dns.onAnswer(bytes, server, Date.now()));
    });
    socket.on('error', () => {
      this.#upstreamSockets.delete(server);
      socket.close();
    });
    this.#upstreamSockets.set(server, socket);
    return socket;
  }

  #openDnsTcp(): void {
    const server = createServer((socket) => this.#serveTcp(socket));
    this.#dnsServer = server;
    server.on('error', (e) => {
      this.#log.info({ network: this.config.name, error: e.message }, 'dns tcp');
      this.#later(() => this.#openDnsTcp());
    });
    server.listen({ host: this.#gateway, port: this.config.dnsPort, exclusive: true });
  }

  /** Queries of one connection, each with two bytes of length (RFC 1035, 4.2.2). Those for outside are carried by TCP as well. */
  #serveTcp(socket: Socket): void {
    if (this.#tcpClients >= TCP_CLIENTS) return void socket.destroy();
    this.#tcpClients++;
    let rest = Buffer.alloc(0);
    let asked = 0;
    socket.setTimeout(TCP_SILENCE_MS, () => socket.destroy());
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => this.#tcpClients--);
    socket.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const query = Buffer.from(rest.subarray(2, 2 + rest.readUInt16BE(0)));
        rest = rest.subarray(2 + query.length);
        if (++asked > TCP_QUERIES) return void socket.destroy();
        const own = this.dns.ownAnswer(query);
        if (own) socket.write(framed(own));
        else if (parseDnsQuery(query)) this.#askByTcp(query, [...this.dns.upstreams()], socket);
      }
    });
  }

  #askByTcp(query: Buffer, servers: string[], client: Socket): void {
    const server = servers.shift();
    if (server === undefined) return void client.destroy();
    const up = createConnection({ host: server, port: 53, timeout: TCP_SILENCE_MS });
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
      if (!answered && !client.destroyed) this.#askByTcp(query, servers, client);
    });
  }
}

function framed(message: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from([message.length >> 8, message.length & 255]), message]);
}
