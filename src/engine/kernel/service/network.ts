/**
 * The sockets of one served network: DHCP and DNS.
 *
 * Theory of operation: DHCP needs two sockets, one that gets broadcasts (bound to 255.255.255.255) and one bound to the
 * gateway's address, from which answers leave on the right bridge; nft rewrites the ports (docs/decisions/0002). DNS is
 * served by UDP and TCP on the gateway. A socket whose address is not there yet, or has gone with its bridge, is bound
 * again every half second.
 */

import { randomInt } from 'node:crypto';
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server } from 'node:net';
import { probeAddress } from '../../../host/arp-probe.ts';
import { DhcpServer } from '../../../net/dhcp/server.ts';
import { DnsForwarder } from '../../../net/dns-forwarder.ts';
import { formatIpv4, formatMac, gatewayOf } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import { DnsService } from '../../dns-service.ts';
import type { ServiceNetwork } from './config.ts';

export const LEASE_SECONDS = 3600;
const REBIND_MS = 500;
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
  #dnsService: DnsService;
  #timers = new Set<NodeJS.Timeout>();
  #wasExhausted = false;

  constructor(config: ServiceNetwork, log: Log, onLease: () => void) {
    this.config = config;
    this.#log = log;
    this.#onLease = onLease;
    this.#gateway = formatIpv4(gatewayOf(config.subnet));
    this.dhcp = new DhcpServer({ subnet: config.subnet, leaseSeconds: LEASE_SECONDS, domain: 'anka.internal' });
    this.dns = new DnsForwarder({ subnet: config.subnet, gateway: gatewayOf(config.subnet), forward: config.dnsForward }, () => randomInt(65_536));
    this.#dnsService = new DnsService(this.dns, (o, m) => log.info({ network: config.name, ...o }, m));
    this.#openDhcp('255.255.255.255');
    this.#openDhcp(this.#gateway);
    this.#openDnsUdp();
    this.#openDnsTcp();
  }

  close(): void {
    this.#closed = true;
    for (const t of this.#timers) clearTimeout(t);
    this.#dnsService.close();
    for (const s of [...this.#dhcpSockets, ...(this.#dnsSocket ? [this.#dnsSocket] : [])]) s.close();
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

  /**
   * An address that its client did not have before is asked for by ARP first; what the client repeats meanwhile is not
   * heard.
   */
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
      this.dhcp.probed(c.ip, inUse ? mac : null, Date.now());
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
      this.#dnsService.onQuery(bytes, from.address, from.port, (answer) => this.#dnsSocket?.send(answer, from.port, from.address));
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

  #openDnsTcp(): void {
    const server = createServer((socket) => this.#dnsService.serveTcp(socket, socket.remoteAddress ?? ''));
    this.#dnsServer = server;
    server.on('error', (e) => {
      this.#log.info({ network: this.config.name, error: e.message }, 'dns tcp');
      this.#later(() => this.#openDnsTcp());
    });
    server.listen({ host: this.#gateway, port: this.config.dnsPort, exclusive: true });
  }
}
