/**
 * Messages that the kernel sends by itself when something changes (netlink(7), multicast groups).
 *
 * Theory of operation: one socket for each protocol, opened once, is read when the kernel announces messages
 * (readable-descriptors.ts). At most 64 datagrams are read in one turn of the event loop.
 *
 * Limits: the kernel drops messages when more than 4 MiB wait. Then `onLost` is called once: what changed must be read.
 */
import { closeSync, readSync } from 'node:fs';
import { openNetlinkGroups } from '../ffi/netlink.ts';
import { addReadable, installSignalHandler, removeReadable } from '../readable-descriptors.ts';
import { type NetlinkMessage, parseMessages } from './netlink.ts';

const BUFFER_BYTES = 4 << 20;
/** Datagrams in one turn. */
const TURN = 64;
/** No message is longer: the kernel builds them in a page, or in a buffer of up to 32 KiB. */
const received = Buffer.allocUnsafeSlow(1 << 16);

export interface SubscriptionOptions {
  protocol: number;
  /** Multicast groups, 1–32. */
  groups: readonly number[];
  /** The message's bytes are valid during the call. */
  onMessage: (message: NetlinkMessage) => void;
  onLost: () => void;
}

export class Subscription {
  readonly #options: SubscriptionOptions;
  #fd: number;

  /** Throws where the kernel has no such protocol. */
  constructor(options: SubscriptionOptions) {
    this.#options = options;
    installSignalHandler();
    this.#fd = openNetlinkGroups(options.protocol, options.groups, BUFFER_BYTES);
    addReadable(this);
  }

  read(): void {
    for (let n = 0; n < TURN; n++) {
      const bytes = this.#next();
      if (bytes === null) return;
      for (const m of parseMessages(bytes)) this.#options.onMessage(m);
    }
    setImmediate(() => this.read());
  }

  /** The next datagram; null if none waits, or messages were lost. */
  #next(): Buffer | null {
    if (this.#fd < 0) return null;
    try {
      return received.subarray(0, readSync(this.#fd, received));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'EAGAIN') return null;
      // ENOBUFS; what waited before it can be read in the next turn
      setImmediate(() => this.read());
      this.#options.onLost();
      return null;
    }
  }

  close(): void {
    if (this.#fd < 0) return;
    removeReadable(this);
    closeSync(this.#fd);
    this.#fd = -1;
  }
}
