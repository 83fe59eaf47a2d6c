/**
 * The addresses of the host itself, as guests may reach them (B92).
 *
 * Theory of operation: the gateway's address stands for the host's primary one, the source address of packets to
 * outside. Connecting a UDP socket finds it, and sends nothing. Guests so reach services bound to that address or to
 * all, and none bound to the loopback. Refreshed every two seconds.
 */
import { createSocket } from 'node:dgram';
import { networkInterfaces } from 'node:os';
import { isLoopback } from '../../net/policy/addresses.ts';
import { parseIpv4 } from '../../wire/address.ts';

const REFRESH_MS = 2000;
/** Any address outside: TEST-NET-3 (RFC 5737) matches the default route. */
const OUTSIDE_ADDRESS = '203.0.113.1';

export class HostAddresses {
  #own = new Set<number>();
  #firstExternal: number | null = null;
  #uplink: number | null = null;
  #timer: NodeJS.Timeout;

  constructor() {
    this.#refresh();
    this.#timer = setInterval(() => this.#refresh(), REFRESH_MS);
  }

  close(): void {
    clearInterval(this.#timer);
  }

  /** One of the host's own addresses, outside 127.0.0.0/8. */
  isOwn(ip: number): boolean {
    return this.#own.has(ip);
  }

  /** The one that the gateway stands for; null while the host has only the loopback. */
  primary(): number | null {
    return this.#uplink !== null && this.#own.has(this.#uplink) ? this.#uplink : this.#firstExternal;
  }

  #refresh(): void {
    this.#own = new Set();
    this.#firstExternal = null;
    for (const addresses of Object.values(networkInterfaces())) {
      for (const a of addresses ?? []) {
        const ip = a.family === 'IPv4' ? parseIpv4(a.address) : null;
        if (ip === null || isLoopback(ip)) continue;
        this.#own.add(ip);
        if (!a.internal) this.#firstExternal ??= ip;
      }
    }
    const probe = createSocket('udp4');
    probe.on('error', () => {}); // the callback gets the error of a connect
    probe.connect(53, OUTSIDE_ADDRESS, ((error?: Error) => {
      // an error: no route to outside
      this.#uplink = error ? null : parseIpv4(probe.address().address);
      probe.close();
    }) as () => void);
  }
}
