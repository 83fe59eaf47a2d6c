/**
 * Round-trip time and retransmission timeout of one connection (RFC 6298). Times are milliseconds.
 *
 * Limits. One segment is timed at a time. A retransmitted one is never timed (Karn's algorithm).
 */

/** Retransmission timeout before the first measurement (RFC 6298 2.1). */
const INITIAL_RTO = 1000;
/**
 * Bounds of the retransmission timeout. RFC 6298 2.4 asks for at least a second. The guest's link is local, so Linux's
 * 200 ms is conservative enough.
 */
const MIN_RTO = 200;
const MAX_RTO = 60_000;
/** Shortest silence before a probe. */
const MIN_PROBE = 10;
/** How long a guest may delay the ACK of a single segment (Linux and Windows: 40). */
const MAX_ACK_DELAY = 50;

export class RoundTrip {
  /** Smoothed round trip and its variation; srtt 0 = not measured. */
  srtt = 0;
  rttvar = 0;
  rto = INITIAL_RTO;
  /** The segment being timed: an ACK of `timedSeq` gives a sample. timedAt 0 = none. */
  timedSeq = 0;
  timedAt = 0;
  /** Timeouts since new data was acknowledged; each doubles the timeout. */
  retries = 0;

  /** The timed segment was acknowledged. */
  measure(now: number): void {
    const sample = now - this.timedAt;
    this.timedAt = 0;
    if (this.srtt === 0) {
      this.srtt = sample || 0.001;
      this.rttvar = sample / 2;
    } else {
      this.rttvar = 0.75 * this.rttvar + 0.25 * Math.abs(this.srtt - sample);
      this.srtt = 0.875 * this.srtt + 0.125 * sample;
    }
    this.rto = Math.min(MAX_RTO, Math.max(MIN_RTO, this.srtt + 4 * this.rttvar));
  }

  /** The timeout with its backoff (RFC 6298 5.5). */
  get timeout(): number {
    return Math.min(MAX_RTO, this.rto * 2 ** this.retries);
  }

  /** Silence after the last segment that triggers a probe (RFC 8985 7.2); `single`: one segment is in flight. */
  probeTimeout(single: boolean): number {
    return Math.min(this.rto, Math.max(MIN_PROBE, 2 * this.srtt) + (single ? MAX_ACK_DELAY : 0));
  }
}
