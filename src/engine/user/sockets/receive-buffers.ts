/**
 * How much the host's kernel may keep of what guests do not read, in the receive buffers of their host sockets.
 *
 * Theory of operation. Linux lets a buffer grow to `tcp_rmem`'s maximum (6 or 32 MiB) once it was read fast, and a peer
 * fills it when the guest stops. A long path needs that growth (200 ms at 200 Mbit/s: 5 MB under way), many stuck
 * connections must not have it. So a card has an account: as long as its sockets' buffers are below `SHARED` together,
 * each grows as the kernel likes. When they come to more, all of them are held at once: at what they have
 * (SO_BUF_LOCK), or at `OWN` where that is more (SO_RCVBUF, which locks as well, and which SO_BUF_LOCK undoes). Each is
 * let go when it is read again and the account is below. A buffer that grows is looked at after each quarter of its
 * size that was read, as the kernel enlarges it by what was read within a round trip; most connections never come to
 * the first look.
 *
 * SO_RCVBUF alone would end the kernel's own tuning for good, at what an ordinary user may ask for; TCP_WINDOW_CLAMP is
 * moved away by that tuning.
 *
 * Limits. The read before a look may let one buffer grow far: the account is exceeded by one such step. Where an
 * ordinary user may ask for less than `OWN` (`net.core.rmem_max`), it is that. Linux 5.14 and later; elsewhere buffers
 * are the kernel's alone. Read first: socket(7), tcp(7).
 */
import { enlargeReceiveBuffer, holdReceiveBuffer, receiveBuffer } from '../../../host/ffi/sockets.ts';

/** Bytes of receive buffers of one card's sockets, and what each of them may have in any case. */
const SHARED = 64 << 20;
const OWN = 512 << 10;
/** Bytes read until the first look, which is also the least between two; and the most between two. */
const LOOK_MIN = 64 << 10;
const LOOK_MAX = 1 << 20;

/** The receive buffers of one card's sockets. */
export interface ReceiveAccount {
  /** Bytes of all that were looked at. */
  buffers: number;
  /** Those of them that the kernel may enlarge. */
  readonly growing: Set<{ hold(): void }>;
}

/** What is known of one socket's receive buffer. */
export class ReceiveBuffer {
  readonly #account: ReceiveAccount;
  #socket: { readonly fd: number } | null = null;
  #read = 0;
  #lookAt = LOOK_MIN;
  #size = 0;
  #held = false;

  /** `account` is the card's. */
  constructor(account: ReceiveAccount) {
    this.#account = account;
  }

  /** So many bytes have been read from the socket: whether it is time to look. */
  read(bytes: number): boolean {
    this.#read += bytes;
    return this.#read >= this.#lookAt;
  }

  /** Counts the buffer as it is now; lets the kernel enlarge it, or holds it with all others of the card. */
  look(socket: { readonly fd: number }): void {
    const account = this.#account;
    this.#socket = socket;
    this.#count();
    this.#lookAt = this.#read + Math.min(LOOK_MAX, Math.max(LOOK_MIN, this.#size >> 2));
    if (account.buffers > SHARED) {
      if (!this.#held) account.growing.add(this);
      for (const one of account.growing) one.hold();
    } else {
      if (this.#held) holdReceiveBuffer(socket.fd, false);
      this.#held = false;
      account.growing.add(this);
    }
  }

  /** The kernel shall not enlarge it any more, until a later look. */
  hold(): void {
    const fd = this.#socket?.fd ?? -1;
    this.#held = true;
    this.#account.growing.delete(this);
    if (this.#size < OWN) enlargeReceiveBuffer(fd, OWN);
    else holdReceiveBuffer(fd, true);
    this.#count();
  }

  /** The socket is gone. */
  release(): void {
    this.#account.growing.delete(this);
    this.#account.buffers -= this.#size;
    this.#size = 0;
    this.#socket = null;
    this.#lookAt = Number.POSITIVE_INFINITY;
  }

  #count(): void {
    const size = receiveBuffer(this.#socket?.fd ?? -1);
    this.#account.buffers += size - this.#size;
    this.#size = size;
  }
}
