/**
 * One forwarding rule's listener: it reserves the port on the host, and carries the connections that the kernel's DNAT
 * does not (B63): from the host's loopback, and from VMs.
 *
 * Theory of operation: bytes are piped both ways with back-pressure; an end on one side half-closes the other, an error
 * resets it. UDP keeps one socket per client and gives it up after a minute of silence. Limits: 512 TCP connections and
 * 512 UDP clients per rule; what comes beyond is refused, so that one rule cannot use up the process.
 */
import { createSocket, type RemoteInfo, type Socket as UdpSocket } from 'node:dgram';
import { createConnection, type Socket } from 'node:net';
import { takesDatagrams } from '../../../lib/datagram-room.ts';
import { formatIpv4 } from '../../../wire/address.ts';
import type { DesiredRule } from '../../engine.ts';
import { RulePort } from '../../port-forwarding/rule-port.ts';

const MAX_FLOWS = 512;
const UDP_SILENCE_MS = 60_000;

export class RuleListener extends RulePort {
  #target: () => number | null;
  /** Address that the flows lead to. */
  #carriedTo: number | null = null;
  #flows = new Set<Socket>();
  #clients = new Map<string, { socket: UdpSocket; timer: NodeJS.Timeout }>();

  /** `target` gives the guest's address now, or null while it has none. */
  constructor(rule: DesiredRule, target: () => number | null, onChange: () => void) {
    super(rule, onChange);
    this.#target = target;
  }

  /** Ends all flows when the guest's address is another than they lead to. */
  follow(): void {
    const ip = this.#target();
    if (ip === this.#carriedTo) return;
    this.cutFlows();
    this.#carriedTo = ip;
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
    const tie = (a: Socket, b: Socket): void => {
      a.once('close', (hadError) => {
        this.#flows.delete(a);
        if (b.destroyed) return;
        if (hadError || !a.readableEnded) b.resetAndDestroy();
      });
    };
    tie(client, guest);
    tie(guest, client);
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
      c = { socket, timer: setTimeout(() => this.#dropClient(key), UDP_SILENCE_MS) };
      this.#clients.set(key, c);
    }
    c.timer.refresh();
    // an unreachable guest is silence to a UDP client
    if (takesDatagrams(c.socket)) c.socket.send(bytes, this.rule.guestPort, formatIpv4(ip), () => {});
  }

  #dropClient(key: string): void {
    const c = this.#clients.get(key);
    if (!c) return;
    this.#clients.delete(key);
    clearTimeout(c.timer);
    c.socket.close();
  }
}
