/**
 * The host port of one forwarding rule (B60 to B65), for both engines; each handles the clients in its own way.
 *
 * Theory of operation: the port is opened at once, and retried every second while another program holds it or its
 * address does not exist; `reason` says why it is not open. Connections are passed on paused, half-open allowed.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createServer, type Server, type Socket } from 'node:net';
import { sendDatagram, takesDatagrams } from '../../lib/datagram-room.ts';
import { formatIpv4 } from '../../wire/address.ts';
import type { DesiredRule } from '../engine.ts';

const RETRY_MS = 1000;

export abstract class RulePort {
  readonly rule: DesiredRule;
  listening = false;
  reason = 'opening the port';
  #onChange: () => void;
  #server: Server | null = null;
  #udp: UdpSocket | null = null;
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
  protected abstract onDatagram(bytes: Buffer, from: RemoteInfo): void;
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

  /** Sends a datagram to a client from the rule's port; false when it was dropped. */
  protected answer(bytes: Uint8Array, port: number, address: string): boolean {
    // errors about a client that closed its port are ignored
    return this.#udp !== null && takesDatagrams(this.#udp) && sendDatagram(this.#udp, bytes, port, address);
  }

  #setState(listening: boolean, reason: string): void {
    if (this.listening === listening && this.reason === reason) return;
    this.listening = listening;
    this.reason = reason;
    this.#onChange();
  }

  #failed(e: NodeJS.ErrnoException): void {
    const at = `${formatIpv4(this.rule.hostIp)}:${this.rule.hostPort}`;
    const why: Record<string, string> = {
      EADDRINUSE: `another program holds ${this.rule.protocol} port ${this.rule.hostPort}`,
      EADDRNOTAVAIL: `this host has no address ${formatIpv4(this.rule.hostIp)}`,
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
    server.listen({ host: formatIpv4(this.rule.hostIp), port: this.rule.hostPort, backlog: 1024, exclusive: true }, () => {
      this.onListening(server);
      this.#setState(true, '');
    });
  }

  #openUdp(): void {
    const udp = createSocket('udp4');
    this.#udp = udp;
    udp.on('error', (e) => {
      udp.close();
      this.#udp = null;
      this.#failed(e as NodeJS.ErrnoException);
    });
    udp.on('message', (bytes, from) => this.onDatagram(bytes, from));
    udp.bind({ address: formatIpv4(this.rule.hostIp), port: this.rule.hostPort, exclusive: true }, () => this.#setState(true, ''));
  }
}
