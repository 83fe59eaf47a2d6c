/**
 * What one connection knows about losses: congestion window, recovery, and the tail-loss probe. send.ts acts on it.
 *
 * Read first: RFC 5681, RFC 6582, RFC 6675, RFC 8985 7.
 */
import { TcpResent } from './resent.ts';
import { TcpScoreboard } from './scoreboard.ts';

/**
 * Largest congestion window, bytes. It is also the initial one: the guest's link is local, so only losses reduce it.
 */
export const MAX_CWND = 4 << 20;

export class LossRecovery {
  /** Congestion window: bytes in flight at most, mss–MAX_CWND. */
  cwnd = MAX_CWND;
  dupAcks = 0;
  /** In recovery until `until` is acknowledged. */
  active = false;
  until = 0;
  /** This recovery began with a timeout, so the congestion window grows during it. */
  afterTimeout = false;
  /** What the guest has received out of order; null until it reports some. */
  board: TcpScoreboard | null = null;
  /** What was retransmitted; null as long as `board`. */
  resent: TcpResent | null = null;
  /** Everything below this that is not received is lost, whatever the guest has reported; never below `sndUna`. */
  lostBelow = 0;
  /** When something was last sent, or the guest reported something new, ms. */
  quietSince = 0;
  /** A probe was sent since then. */
  probed = false;
  /** The flow's deadline is that of a probe. */
  forProbe = false;
  /** Sequence number behind the probe's payload; never below `sndUna`. */
  probeEnd = 0;

  /** The scoreboard, allocated at the first loss or selective acknowledgement. */
  openBoard(): TcpScoreboard {
    this.resent ??= new TcpResent();
    this.board ??= new TcpScoreboard();
    return this.board;
  }
}
