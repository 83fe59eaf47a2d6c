/**
 * The listener of one forwarding rule: it reserves the port on the host, and carries the connections that the kernel's
 * DNAT does not (B63), from the host's loopback and from VMs.
 *
 * Theory of operation: the port is open before the DNAT is in force, so that it is never another program's. A client
 * that comes meanwhile, and that DNAT takes from then on, is reset: the guest would see the gateway for as long as the
 * connection lives. Its connection is tracked and not translated; one that another program's rules redirected to the
 * port is carried. Bytes are piped both ways with back-pressure. A FIN on one side half-closes the other, an error
 * resets it. UDP has one socket per client and address that it asked, which is closed after five idle minutes (RFC 4787
 * REQ-5).
 *
 * Limits: 512 TCP connections and 512 UDP clients per rule, so that one rule cannot exhaust the process. Further TCP
 * connections are reset; a further UDP client replaces the one that is idle longest.
 */
import { createSocket, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, type Socket } from 'node:net';
import type { DatagramClient } from '../../../host/any-address-socket.ts';
import { descriptorOf } from '../../../host/descriptor.ts';
import { originalDestination } from '../../../host/ffi/sockets.ts';
import { onEnd } from '../../../host/hidden-reset.ts';
import { keepUrgentInline } from '../../../host/urgent.ts';
import { sendDatagram, takesDatagrams } from '../../../lib/datagram-room.ts';
import { isLoopback } from '../../../net/policy/addresses.ts';
import { formatIpv4, parseIpv4 } from '../../../wire/address.ts';
import type { DesiredRule } from '../../engine.ts';
import { RulePort } from '../../port-forwarding/rule-port.ts';

/** Where a rule leads to. */
export interface ListenerTarget {
  /** The guest's main address. */
  ip: number;
  /** All addresses that it has: connections to them go on. */
  live: readonly number[];
}

const MAX_FLOWS = 512;
const UDP_IDLE_MS = 300_000;

interface UdpClient {
  socket: UdpSocket;
  timer: NodeJS.Timeout;
}

export class RuleListener extends RulePort {
  readonly #target: () => ListenerTarget | null;
  readonly #isCarried: (address: string) => boolean;
  /** Address of the guest's end of UDP flows. */
  #udpTarget: number | null = null;
  /** Both ends of each connection, with the guest's address. */
  readonly #flows = new Map<Socket, number>();
  /** Least recently used first. */
  readonly #clients = new Map<string, UdpClient>();

  /**
   * `target` is null while the guest has no address. `isCarried`: whether a client of an IPv4 rule comes from the
   * loopback or from a VM.
   */
  constructor(rule: DesiredRule, target: () => ListenerTarget | null, isCarried: (address: string) => boolean, onChange: () => void) {
    super(rule, onChange);
    this.#target = target;
    this.#isCarried = isCarried;
  }

  /** Resets connections to addresses that the guest does not have any more. */
  follow(): void {
    const target = this.#target();
    for (const [socket, ip] of this.#flows) if (!target?.live.includes(ip)) socket.resetAndDestroy();
    if (this.#udpTarget !== (target?.ip ?? null)) this.#dropClients();
    this.#udpTarget = target?.ip ?? null;
  }

  override cutFlows(): void {
    for (const s of this.#flows.keys()) s.resetAndDestroy();
    this.#dropClients();
  }

  #dropClients(): void {
    for (const c of this.#clients.values()) {
      clearTimeout(c.timer);
      c.socket.close();
    }
    this.#clients.clear();
  }

  protected override onClient(client: Socket): void {
    const ip = this.#target()?.ip ?? null;
    if (ip === null || this.#flows.size >= MAX_FLOWS * 2 || this.#isEarly(client)) {
      client.resetAndDestroy();
      return;
    }
    const guest = createConnection({ host: formatIpv4(ip), port: this.rule.guestPort, allowHalfOpen: true, noDelay: true, keepAlive: true });
    guest.on('error', () => {});
    this.#flows.set(client, ip).set(guest, ip);
    const pass = (from: Socket, to: Socket): void => {
      onEnd(from, () => void to.end());
      from.pipe(to, { end: false });
    };
    guest.once('connect', () => {
      keepUrgentInline(guest);
      pass(client, guest);
      pass(guest, client);
    });
    // an abnormal close of one side resets the other
    const resetWith = (a: Socket, b: Socket): void => {
      a.once('close', (hadError) => {
        this.#flows.delete(a);
        if (b.destroyed) return;
        if (hadError || !a.readableEnded) b.resetAndDestroy();
      });
    };
    resetWith(client, guest);
    resetWith(guest, client);
  }

  /** It connected before the DNAT that takes its next connections. */
  #isEarly(client: Socket): boolean {
    const { localAddress = '', localPort, remoteAddress = '' } = client;
    if (typeof this.rule.hostIp !== 'number' || this.#isCarried(remoteAddress)) return false;
    const asked = parseIpv4(localAddress);
    // a program of the host may reach its loopback from another address of the host
    if (asked === null || isLoopback(asked)) return false;
    const original = originalDestination(descriptorOf(client));
    return original !== null && original.ip === asked && original.port === localPort;
  }

  protected override onDatagram(bytes: Buffer, from: DatagramClient): void {
    const ip = this.#target()?.ip ?? null;
    // a client from outside whose entry of connection tracking is older than the rule: DNAT has its next datagrams
    if (ip === null || (typeof this.rule.hostIp === 'number' && !this.#isCarried(from.address))) return;
    const { socket } = this.#clientOf(from, formatIpv4(ip));
    // UDP clients get no error for an unreachable guest
    if (takesDatagrams(socket)) sendDatagram(socket, bytes, this.rule.guestPort, formatIpv4(ip));
  }

  #clientOf(from: DatagramClient, guest: string): UdpClient {
    const { key } = from;
    const known = this.#clients.get(key);
    if (known) {
      this.#used(key, known);
      return known;
    }
    if (this.#clients.size >= MAX_FLOWS) this.#dropClient(this.#clients.keys().next().value as string);
    const socket = createSocket('udp4');
    const c = { socket, timer: setTimeout(() => this.#dropClient(key), UDP_IDLE_MS) };
    socket.on('error', () => this.#dropClient(key));
    socket.on('message', (answer, peer) => {
      if (peer.port !== this.rule.guestPort || peer.address !== guest) return;
      this.#used(key, c);
      this.answer(answer, from);
    });
    this.#clients.set(key, c);
    return c;
  }

  #used(key: string, client: UdpClient): void {
    if (this.#clients.get(key) !== client) return;
    client.timer.refresh();
    this.#clients.delete(key);
    this.#clients.set(key, client);
  }

  #dropClient(key: string): void {
    const c = this.#clients.get(key);
    if (!c) return;
    this.#clients.delete(key);
    clearTimeout(c.timer);
    c.socket.close();
  }
}
