/**
 * The host port of one forwarding rule (B60 to B65), for both engines; each handles the clients in its own way.
 *
 * Theory of operation: the port is opened at once, and retried every second while another program holds it or its
 * address does not exist; `reason` says why it is not open. Connections are passed on paused, half-open allowed. An
 * IPv6 listener takes no IPv4 clients: `::` and 0.0.0.0 are two rules. A UDP client is answered from the address
 * that it asked, also where the rule is for every address of the host.
 *
 * Limits: except on Linux, a rule for every address answers UDP from the address that the route selects.
 */
import { createSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import { AnyAddressSocket, type DatagramClient } from '../../host/any-address-socket.ts';
import { keepUrgentInline } from '../../host/urgent.ts';
import { sendDatagram, takesDatagrams } from '../../lib/datagram-room.ts';
import { ANY_ADDRESS, ANY_ADDRESS6 } from '../../net/policy/forwarding.ts';
import { formatIp, formatIpPort } from '../../wire/ip-address.ts';
import type { DesiredRule } from '../engine.ts';

const RETRY_MS = 1000;

/** An open UDP port. */
interface UdpPort {
  /** False when the datagram was dropped. */
  send(bytes: Uint8Array, to: DatagramClient): boolean;
  close(): void;
}

export abstract class RulePort {
  readonly rule: DesiredRule;
  listening = false;
  reason = 'opening the port';
  #onChange: () => void;
  #server: Server | null = null;
  #udp: UdpPort | null = null;
  #retry: NodeJS.Timeout | null = null;
  #closed = false;

  constructor(rule: DesiredRule, onChange: () => void) {
    this.rule = rule;
    this.#onChange = onChange;
    this.#open();
  }

  /** A TCP client has connected; the socket is paused. */
  protected abstract onClient(client: Socket): void;
  /** The TCP port is open. */
  protected onListening(_server: Server): void {}
  protected abstract onDatagram(bytes: Buffer, from: DatagramClient): void;
  /** Cuts all flows of the rule. */
  abstract cutFlows(): void;

  /** Frees the port and cuts every flow. */
  close(): void {
    this.#closed = true;
    if (this.#retry) clearTimeout(this.#retry);
    this.#server?.close();
    this.#udp?.close();
    this.#udp = null;
    this.cutFlows();
  }

  /** Sends a datagram to a client from the rule's port, and the address that it asked; false when it was dropped. */
  protected answer(bytes: Uint8Array, to: DatagramClient): boolean {
    return this.#udp?.send(bytes, to) ?? false;
  }

  #setState(listening: boolean, reason: string): void {
    if (this.listening === listening && this.reason === reason) return;
    this.listening = listening;
    this.reason = reason;
    this.#onChange();
  }

  #failed(e: NodeJS.ErrnoException): void {
    const { hostIp, hostPort } = this.rule;
    const at = formatIpPort(hostIp, hostPort);
    const none = `this host has no ${hostIp === ANY_ADDRESS6 ? 'IPv6' : `address ${formatIp(hostIp)}`}`;
    const why: Record<string, string> = {
      EADDRINUSE: `another program holds ${this.rule.protocol} port ${hostPort}`,
      EADDRNOTAVAIL: none,
      EAFNOSUPPORT: none,
      EACCES: `no right to open ${at}`,
    };
    this.#setState(false, why[e.code ?? ''] ?? `${at}: ${e.message}`);
    if (this.#closed) return;
    this.#retry = setTimeout(() => this.#open(), RETRY_MS);
  }

  #open(): void {
    if (this.#closed) return;
    if (this.rule.protocol === 'udp') this.#openUdp();
    else this.#openTcp();
  }

  #openTcp(): void {
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true, pauseOnConnect: true }, (client) => {
      client.on('error', () => {}); // 'close' follows
      this.onClient(client);
    });
    this.#server = server;
    server.on('error', (e) => {
      server.close();
      this.#failed(e);
    });
    const { hostIp, hostPort } = this.rule;
    server.listen({ host: formatIp(hostIp), port: hostPort, ipv6Only: true, backlog: 1024, exclusive: true }, () => {
      keepUrgentInline(server);
      this.onListening(server);
      this.#setState(true, '');
    });
  }

  #openUdp(): void {
    const { hostIp, hostPort } = this.rule;
    if (AnyAddressSocket.available && (hostIp === ANY_ADDRESS || hostIp === ANY_ADDRESS6)) this.#openOnAllAddresses(hostIp === ANY_ADDRESS6);
    else this.#openOnAddress(formatIp(hostIp), hostPort, typeof hostIp === 'string');
  }

  #openOnAllAddresses(isIpv6: boolean): void {
    const opened = AnyAddressSocket.open(isIpv6, this.rule.hostPort, (bytes, from) => this.onDatagram(bytes, from));
    // the constructor of the rule has not finished
    if ('code' in opened) setImmediate(() => !this.#closed && this.#failed(Object.assign(new Error(opened.code), opened)));
    else {
      this.#udp = opened;
      setImmediate(() => !this.#closed && this.#setState(true, ''));
    }
  }

  #openOnAddress(address: string, port: number, isIpv6: boolean): void {
    const udp = createSocket({ type: isIpv6 ? 'udp6' : 'udp4', ipv6Only: isIpv6 });
    this.#udp = {
      // errors about a client that closed its port are ignored
      send: (bytes, to) => takesDatagrams(udp) && sendDatagram(udp, Buffer.from(bytes), to.port, to.address),
      close: () => void udp.close(),
    };
    udp.on('error', (e) => {
      udp.close();
      this.#udp = null;
      this.#failed(e as NodeJS.ErrnoException);
    });
    udp.on('message', (bytes, { address, port }) => this.onDatagram(bytes, { address, port, key: `${address} ${port}` }));
    udp.bind({ address, port, exclusive: true }, () => this.#setState(true, ''));
  }
}
