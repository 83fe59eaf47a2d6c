/**
 * The addresses of the host itself, as guests may reach them (B92).
 *
 * Theory of operation: the gateway's address stands for the host's primary one, the source address of packets to
 * outside. Connecting a UDP socket finds it, and sends nothing. Guests so reach services bound to that address or to
 * all, and none bound to the loopback. Where the host has only its loopback, an address in 127.0.0.0/8 that nobody uses
 * stands for it (Linux, where all of them are the host's). Refreshed every two seconds.
 */
import { createSocket } from 'node:dgram';
import { networkInterfaces } from 'node:os';
import { onLinux } from '../../host/ffi/koffi.ts';
import { HOST_ON_LOOPBACK, isLoopback } from '../../net/policy/addresses.ts';
import { parseIpv4 } from '../../wire/address.ts';

const REFRESH_MS = 2000;
/** Any address outside: TEST-NET-3 (RFC 5737) matches the default route. */
const OUTSIDE_ADDRESS = '203.0.113.1';

type Interfaces = ReturnType<typeof networkInterfaces>;

/** Null while the system does not say, e.g. because no descriptor is left. */
function readInterfaces(): Interfaces | null {
  try {
    return networkInterfaces();
  } catch {
    return null;
  }
}

export class HostAddresses {
  #own = new Set<number>();
  #firstExternal: number | null = null;
  /** On the loopback interface, outside 127.0.0.0/8. */
  #firstInternal: number | null = null;
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

  /** The one that the gateway stands for; null while there is none. */
  primary(): number | null {
    if (this.#uplink !== null && this.#own.has(this.#uplink)) return this.#uplink;
    return this.#firstExternal ?? this.#firstInternal ?? (onLinux ? HOST_ON_LOOPBACK : null);
  }

  #refresh(): void {
    const interfaces = readInterfaces();
    if (interfaces) this.#readAddresses(interfaces);
    const probe = createSocket('udp4');
    // no socket can be opened: the address that is known is kept
    probe.on('error', () => probe.close());
    // the callback also gets the error of a connect without a route
    probe.connect(53, OUTSIDE_ADDRESS, ((error?: Error) => {
      this.#uplink = error ? null : parseIpv4(probe.address().address);
      probe.close();
    }) as () => void);
  }

  #readAddresses(interfaces: Interfaces): void {
    this.#own = new Set();
    this.#firstExternal = this.#firstInternal = null;
    for (const addresses of Object.values(interfaces)) {
      for (const a of addresses ?? []) {
        const ip = a.family === 'IPv4' ? parseIpv4(a.address) : null;
        if (ip === null || isLoopback(ip)) continue;
        this.#own.add(ip);
        if (a.internal) this.#firstInternal ??= ip;
        else this.#firstExternal ??= ip;
      }
    }
  }
}
