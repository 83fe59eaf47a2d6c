/**
 * Bounds what the host's kernel buffers for guests that do not read, in the receive buffers of their host sockets.
 *
 * Theory of operation: Linux lets a receive buffer grow to `tcp_rmem`'s maximum (6 or 32 MiB) once it was read fast,
 * and a peer fills it when the guest stops reading. A long path needs that growth (200 ms at 200 Mbit/s: 5 MB in
 * flight); many stuck connections must not have it. So each NIC has an account. While its sockets' buffers are below
 * `ACCOUNT_LIMIT` together, each grows as the kernel likes. Above it, all of them are frozen at once: at their size
 * (SO_BUF_LOCK), or at `SOCKET_MINIMUM` where that is more (SO_RCVBUF, which locks as well, and which SO_BUF_LOCK
 * undoes). Each is unfrozen when it is read again and the account is below the limit. A growing buffer is checked each
 * time a quarter of its size was read, as the kernel enlarges it by what is read within a round trip. Most connections
 * end before their first check.
 *
 * SO_RCVBUF alone would disable the kernel's tuning for good, at the size that an ordinary user may ask for. The
 * kernel's tuning overwrites TCP_WINDOW_CLAMP.
 *
 * Limits: the read before a check may let one buffer grow far; the account is exceeded by one such step. If
 * `net.core.rmem_max` is below `SOCKET_MINIMUM`, it is the minimum. Linux 5.14 and later; elsewhere the kernel alone
 * decides. Read first: socket(7), tcp(7).
 */
import { enlargeReceiveBuffer, holdReceiveBuffer, receiveBuffer } from '../../../host/ffi/sockets.ts';

/** Bytes of receive buffers of one NIC's sockets. */
const ACCOUNT_LIMIT = 64 << 20;
/** Bytes that each socket may have in any case. */
const SOCKET_MINIMUM = 512 << 10;
/** Bytes read until the first check; also the minimum between two checks, and the maximum. */
const CHECK_MIN = 64 << 10;
const CHECK_MAX = 1 << 20;

/** The receive buffers of one NIC's sockets. */
export interface ReceiveAccount {
  /** Bytes of all that were checked. */
  buffers: number;
  /** Those that the kernel may enlarge. */
  readonly growing: Set<{ hold(): void }>;
}

/** One socket's receive buffer. */
export class ReceiveBuffer {
  readonly #account: ReceiveAccount;
  #socket: { readonly fd: number } | null = null;
  #read = 0;
  #checkAt = CHECK_MIN;
  #size = 0;
  #frozen = false;

  /** `account`: that of its NIC. */
  constructor(account: ReceiveAccount) {
    this.#account = account;
  }

  /** So many bytes were read from the socket. Returns whether a check is due. */
  read(bytes: number): boolean {
    this.#read += bytes;
    return this.#read >= this.#checkAt;
  }

  /** Measures the buffer; lets the kernel enlarge it, or freezes it with all others of the NIC. */
  check(socket: { readonly fd: number }): void {
    const account = this.#account;
    this.#socket = socket;
    this.#measure();
    this.#checkAt = this.#read + Math.min(CHECK_MAX, Math.max(CHECK_MIN, this.#size >> 2));
    if (account.buffers > ACCOUNT_LIMIT) {
      if (!this.#frozen) account.growing.add(this);
      for (const one of account.growing) one.hold();
    } else {
      if (this.#frozen) holdReceiveBuffer(socket.fd, false);
      this.#frozen = false;
      account.growing.add(this);
    }
  }

  /** Keeps the kernel from enlarging it until a later check. */
  hold(): void {
    const fd = this.#socket?.fd ?? -1;
    this.#frozen = true;
    this.#account.growing.delete(this);
    if (this.#size < SOCKET_MINIMUM) enlargeReceiveBuffer(fd, SOCKET_MINIMUM);
    else holdReceiveBuffer(fd, true);
    this.#measure();
  }

  /** The socket was closed. */
  release(): void {
    this.#account.growing.delete(this);
    this.#account.buffers -= this.#size;
    this.#size = 0;
    this.#socket = null;
    this.#checkAt = Number.POSITIVE_INFINITY;
  }

  #measure(): void {
    const size = receiveBuffer(this.#socket?.fd ?? -1);
    this.#account.buffers += size - this.#size;
    this.#size = size;
  }
}
