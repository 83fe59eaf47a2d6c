/** What a flow knows of its host's peer; peer-watch.ts has the behaviour. */
import type { Timer } from './timers.ts';

/** ms without a sign of life, after which the host is asked. */
export const MIN_PATIENCE = 100;

/** What one flow knows of its peer. */
export class PeerLife<F> {
  /** When the peer was last heard, ms. */
  heardAt = 0;
  /** ms without a sign of life that need no question. */
  patience = MIN_PATIENCE;
  /** The guest gets no further ACK. */
  held = false;
  /** What the guest was last sent: `rcvNxt` when `held` was set. */
  acknowledged = 0;
  /** Since when it is held, ms. */
  since = 0;
  /** Interval to the next question, ms. */
  interval = 0;
  /** The host's kernel sends a keep-alive soon. */
  asked = false;
  timer: Timer<F> | null = null;
}
