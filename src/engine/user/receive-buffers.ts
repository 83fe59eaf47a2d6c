/**
 * How much the host's kernel may keep of what guests do not read, in the receive buffers of their host sockets.
 *
 * Theory of operation. Linux lets a buffer grow to `tcp_rmem`'s maximum (6 or 32 MiB) once it was read fast, and a peer fills it when the guest stops. A long path needs that growth (200 ms at 200 Mbit/s: 5 MB under way), many stuck connections
 * must not have it. So a card has an account: as long as its sockets' buffers are below `SHARED` together, each grows as the kernel likes; beyond that, a buffer of at least `OWN` is held at its size (SO_BUF_LOCK), until the account is below again.
 * A buffer is looked at as its bytes come: at 64 KiB, at twice as much each time, then at each MiB; most connections never come to the first.
 *
 * SO_RCVBUF would end the kernel's own tuning for good, at what an ordinary user may ask for; TCP_WINDOW_CLAMP is moved away by that tuning.
 *
 * Limits. Between two looks a buffer may grow past the account. Linux 5.14 and later; elsewhere buffers are the kernel's alone. Read first: socket(7), tcp(7).
 */
import { holdReceiveBuffer, receiveBuffer } from '../../host/ffi.ts';

/** Bytes of receive buffers of one card's sockets, and what each of them may have in any case. */
const SHARED = 64 << 20;
const OWN = 512 << 10;
/** Bytes read until the first look, and between two at most. */
const FIRST_LOOK = 64 << 10;
const LOOK = 1 << 20;

/** What is known of one socket's receive buffer. */
export class ReceiveBuffer {
  readonly #account: { buffers: number };
  #read = 0;
  #lookAt = FIRST_LOOK;
  #size = 0;
  #held = false;

  /** `account` is the card's. */
  constructor(account: { buffers: number }) {
    this.#account = account;
  }

  /** So many bytes have been read from the socket: whether it is time to look. */
  read(bytes: number): boolean {
    this.#read += bytes;
    return this.#read >= this.#lookAt;
  }

  /** `fd` is the socket's, -1 where it has none. */
  look(fd: number): void {
    this.#lookAt = this.#read + Math.min(LOOK, this.#read);
    const size = receiveBuffer(fd);
    this.#account.buffers += size - this.#size;
    this.#size = size;
    const hold = size >= OWN && this.#account.buffers > SHARED;
    if (hold === this.#held) return;
    this.#held = hold;
    holdReceiveBuffer(fd, hold);
  }

  /** The socket is gone. */
  release(): void {
    this.#account.buffers -= this.#size;
    this.#size = 0;
    this.#lookAt = Number.POSITIVE_INFINITY;
  }
}
