/**
 * The addresses of the host itself, as guests may meet them (B92).
 *
 * Theory of operation: the gateway's address stands for the host's primary one, from which packets to outside leave:
 * asked of the kernel by connecting a UDP socket, which sends nothing. Services bound to that address or to all are so
 * reached, those bound to the loopback are not. Looked at every two seconds.
 */
import { createSocket } from 'node:dgram';
import { networkInterfaces } from 'node:os';
import { isLoopback } from '../../net/policy/addresses.ts';
import { parseIpv4 } from '../../wire/address.ts';

const LOOK_MS = 2000;
/** Any address outside will do (TEST-NET-3 is routed nowhere, but has a route). */
const SOMEWHERE = '203.0.113.1';

export class HostAddresses {
  #own = new Set<number>();
  #first: number | null = null;
  #uplink: number | null = null;
  #timer: NodeJS.Timeout;

  constructor() {
    this.#look();
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** One of the host's own addresses, outside 127.0.0.0/8. */
  isOwn(ip: number): boolean {
    return this.#own.has(ip);
  }

  /** The one that the gateway stands for; null while the host has none but the loopback. */
  primary(): number | null {
    return this.#uplink !== null && this.#own.has(this.#uplink) ? this.#uplink : this.#first;
  }

  #look(): void {
    this.#own = new Set();
    this.#first = null;
    for (const addresses of Object.values(networkInterfaces())) {
      for (const a of addresses ?? []) {
        const ip = a.family === 'IPv4' ? parseIpv4(a.address) : null;
        if (ip === null || isLoopback(ip)) continue;
        this.#own.add(ip);
        if (!a.internal) this.#first ??= ip;
      }
    }
    const probe = createSocket('udp4');
    probe.once('error', () => {
      this.#uplink = null; // no route to outside
      probe.close();
    });
    probe.connect(53, SOMEWHERE, () => {
      this.#uplink = parseIpv4(probe.address().address);
      probe.close();
    });
  }
}
