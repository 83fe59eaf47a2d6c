/**
 * The sockets of one served network: DHCP and DNS.
 *
 * Theory of operation: DHCP needs two sockets, one that receives broadcasts (bound to 255.255.255.255) and one bound to
 * the gateway's address, from which answers leave on the right bridge; nft rewrites the ports (docs/decisions/0002).
 * DNS is served by UDP and TCP on the gateway. Only guests are answered: other users of the host could use up their
 * share, and give their leases back. Programs of the host send from its own addresses, and nft drops what arrives from
 * elsewhere. A socket whose address does not exist yet, or was removed with its
 * bridge, is bound again every 500 ms.
 *
 * Limits: 3 addresses are probed for one DHCP message.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server } from 'node:net';
import { probeAddress } from '../../../host/arp-probe.ts';
import { monotonicMs } from '../../../lib/clock.ts';
import { sendDatagram } from '../../../lib/datagram-room.ts';
import { formatIpv4, formatMac, gatewayOf, parseIpv4, subnetContains } from '../../../wire/address.ts';
import { DHCP_CLIENT_PORT } from '../../../wire/dhcpv4.ts';
import { NetworkServices } from '../../network-services.ts';
import type { ServiceNetwork } from './config.ts';

const REBIND_MS = 500;
const MAX_PROBES = 3;
const BROADCAST = '255.255.255.255';

interface Log {
  info(o: object, m: string): void;
  warn(o: object, m: string): void;
}

export class ServedNetwork {
  readonly config: ServiceNetwork;
  readonly services: NetworkServices;
  dhcpListening = false;
  dnsListening = false;
  #log: Log;
  #gateway: string;
  #closed = false;
  #dhcpSockets: UdpSocket[] = [];
  /** Bound to the gateway's address. */
  #dhcpSender: UdpSocket | null = null;
  #dnsSocket: UdpSocket | null = null;
  #dnsServer: Server | null = null;
  #timers = new Set<NodeJS.Timeout>();
  /** NICs whose next address is being probed. */
  #probing = new Set<string>();

  constructor(config: ServiceNetwork, log: Log, onLeases: () => void) {
    this.config = config;
    this.#log = log;
    this.#gateway = formatIpv4(gatewayOf(config.subnet));
    this.services = new NetworkServices({ network: config, dnsForward: config.dnsForward, log, onLeases });
    this.#openDhcp(BROADCAST);
    this.#openDhcp(this.#gateway);
    this.#openDnsUdp();
    this.#openDnsTcp();
  }

  close(): void {
    this.#closed = true;
    for (const t of this.#timers) clearTimeout(t);
    this.services.close();
    for (const s of [...this.#dhcpSockets, ...(this.#dnsSocket ? [this.#dnsSocket] : [])]) s.close();
    this.#dnsServer?.close();
  }

  #retry(open: () => void): void {
    if (this.#closed) return;
    const t = setTimeout(() => {
      this.#timers.delete(t);
      if (!this.#closed) open();
    }, REBIND_MS);
    this.#timers.add(t);
  }

  #openDhcp(address: string): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    this.#dhcpSockets.push(socket);
    const isSender = address === this.#gateway;
    socket.on('message', (bytes, { address: from }) => {
      if (from === '0.0.0.0' || this.#isGuest(from)) this.#onDhcp(bytes);
    });
    socket.on('error', (e) => {
      if (isSender) this.dhcpListening = false;
      this.#dhcpSockets = this.#dhcpSockets.filter((s) => s !== socket);
      socket.close();
      this.#log.info({ network: this.config.name, address, error: e.message }, 'dhcp socket');
      this.#retry(() => this.#openDhcp(address));
    });
    socket.bind({ address, port: this.config.dhcpPort, exclusive: true }, () => {
      socket.setBroadcast(true);
      if (isSender) this.dhcpListening = true;
    });
    if (isSender) this.#dhcpSender = socket;
  }

  /**
   * An address that its client did not have before is probed by ARP first; meanwhile the client's messages are dropped.
   */
  #onDhcp(bytes: Buffer): void {
    const candidate = this.services.dhcp.candidate(bytes, monotonicMs());
    if (!candidate) this.#answerDhcp(bytes);
    if (!candidate || this.#probing.has(candidate.nic)) return;
    this.#probing.add(candidate.nic);
    void this.#probe(bytes)
      .catch((e: Error) => this.#log.warn({ network: this.config.name, error: e.message }, 'probing an address'))
      .finally(() => this.#probing.delete(candidate.nic));
  }

  async #probe(bytes: Buffer): Promise<void> {
    const { dhcp } = this.services;
    for (let i = 0; i < MAX_PROBES; i++) {
      const c = dhcp.candidate(bytes, monotonicMs());
      if (!c) return this.#answerDhcp(bytes);
      const mac = await probeAddress(c.ip, this.config.interface);
      if (this.#closed) return;
      const inUse = mac !== null && mac !== c.mac;
      dhcp.probed(c.ip, inUse ? mac : null, monotonicMs());
      if (inUse) this.#log.warn({ network: this.config.name, ip: formatIpv4(c.ip), mac: formatMac(mac) }, 'an address of the pool is in use');
    }
    // else the client retransmits, and the addresses found in use are skipped then
    if (!dhcp.candidate(bytes, monotonicMs())) this.#answerDhcp(bytes);
  }

  #answerDhcp(bytes: Buffer): void {
    this.services.answerDhcp(bytes, (answer) => {
      const sender = this.#dhcpSender;
      if (sender) sendDatagram(sender, answer.bytes, DHCP_CLIENT_PORT, formatIpv4(answer.to), (e) => this.#logUnsent('dhcp', e));
    });
  }

  #logUnsent(service: string, error: Error): void {
    this.#log.info({ network: this.config.name, error: error.message }, `${service} answer not sent`);
  }

  /** An address of the network that is not the host's own. */
  #isGuest(address: string): boolean {
    const ip = parseIpv4(address);
    return ip !== null && subnetContains(this.config.subnet, ip) && address !== this.#gateway;
  }

  #openDnsUdp(): void {
    const socket = createSocket({ type: 'udp4', reuseAddr: true });
    this.#dnsSocket = socket;
    socket.on('message', (bytes, from) => {
      if (!this.#isGuest(from.address)) return;
      this.services.dns.onQuery(bytes, from.address, (answer) => {
        if (this.#dnsSocket) sendDatagram(this.#dnsSocket, answer, from.port, from.address, (e) => this.#logUnsent('dns', e));
      });
    });
    socket.on('error', (e) => {
      this.dnsListening = false;
      socket.close();
      this.#dnsSocket = null;
      this.#log.info({ network: this.config.name, error: e.message }, 'dns socket');
      this.#retry(() => this.#openDnsUdp());
    });
    socket.bind({ address: this.#gateway, port: this.config.dnsPort, exclusive: true }, () => {
      this.dnsListening = true;
    });
  }

  #openDnsTcp(): void {
    const server = createServer((socket) => {
      const guest = socket.remoteAddress ?? '';
      if (this.#isGuest(guest)) this.services.dns.serveTcp(socket, guest);
      else socket.destroy();
    });
    this.#dnsServer = server;
    server.on('error', (e) => {
      server.close();
      this.#log.info({ network: this.config.name, error: e.message }, 'dns tcp');
      this.#retry(() => this.#openDnsTcp());
    });
    server.listen({ host: this.#gateway, port: this.config.dnsPort, exclusive: true });
  }
}
