/**
 * The listener of one forwarding rule: it reserves the port on the host, and carries the connections that the kernel's
 * DNAT does not (B63), from the host's loopback and from VMs.
 *
 * Theory of operation: bytes are piped both ways with back-pressure. A FIN on one side half-closes the other, an error
 * resets it. UDP has one socket per client, which is closed after 60 s idle.
 *
 * Limits: 512 TCP connections and 512 UDP clients per rule, so that one rule cannot exhaust the process. Further TCP
 * connections are reset; a further UDP client replaces the oldest.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, type Socket } from 'node:net';
import { sendDatagram, takesDatagrams } from '../../../lib/datagram-room.ts';
import { formatIpv4 } from '../../../wire/address.ts';
import type { DesiredRule } from '../../engine.ts';
import { RulePort } from '../../port-forwarding/rule-port.ts';

const MAX_FLOWS = 512;
const UDP_IDLE_MS = 60_000;

export class RuleListener extends RulePort {
  #target: () => number | null;
  /** Address of the guest's end of all flows. */
  #flowTarget: number | null = null;
  #flows = new Set<Socket>();
  #clients = new Map<string, { socket: UdpSocket; timer: NodeJS.Timeout }>();

  /** `target`: the current address of the guest; null while it has none. */
  constructor(rule: DesiredRule, target: () => number | null, onChange: () => void) {
    super(rule, onChange);
    this.#target = target;
  }

  /** Resets all flows when the guest has another address now. */
  follow(): void {
    const ip = this.#target();
    if (ip === this.#flowTarget) return;
    this.cutFlows();
    this.#flowTarget = ip;
  }

  override cutFlows(): void {
    for (const s of this.#flows) s.resetAndDestroy();
    for (const c of this.#clients.values()) {
      clearTimeout(c.timer);
      c.socket.close();
    }
    this.#clients.clear();
  }

  protected override onClient(client: Socket): void {
    const ip = this.#target();
    if (ip === null || this.#flows.size >= MAX_FLOWS * 2) {
      client.resetAndDestroy();
      return;
    }
    const guest = createConnection({ host: formatIpv4(ip), port: this.rule.guestPort, allowHalfOpen: true, noDelay: true, keepAlive: true });
    guest.on('error', () => {});
    this.#flows.add(client).add(guest);
    guest.once('connect', () => {
      client.pipe(guest);
      guest.pipe(client);
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

  protected override onDatagram(bytes: Buffer, from: RemoteInfo): void {
    const ip = this.#target();
    if (ip === null) return;
    const key = `${from.address}:${from.port}`;
    let c = this.#clients.get(key);
    if (!c) {
      if (this.#clients.size >= MAX_FLOWS) this.#dropClient(this.#clients.keys().next().value as string);
      const socket = createSocket('udp4');
      socket.on('error', () => this.#dropClient(key));
      socket.on('message', (answer, peer) => {
        if (peer.port === this.rule.guestPort) this.answer(answer, from.port, from.address);
      });
      c = { socket, timer: setTimeout(() => this.#dropClient(key), UDP_IDLE_MS) };
      this.#clients.set(key, c);
    }
    c.timer.refresh();
    // UDP clients get no error for an unreachable guest
    if (takesDatagrams(c.socket)) sendDatagram(c.socket, bytes, this.rule.guestPort, formatIpv4(ip));
  }

  #dropClient(key: string): void {
    const c = this.#clients.get(key);
    if (!c) return;
    this.#clients.delete(key);
    clearTimeout(c.timer);
    c.socket.close();
  }
}
