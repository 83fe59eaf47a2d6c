/**
 * How long the kernel engine keeps a silent connection of a guest, and how many a guest may have open through the host.
 *
 * Theory of operation: the times are those of RFC 4787 REQ-5 (UDP), RFC 5382 REQ-5 and RFC 7857 2 (TCP). The host's own
 * settings of connection tracking are shorter, serve other traffic too, and stay as they are.
 */

/** Seconds of silence after which the kernel forgets a UDP flow, whether or not it was answered. */
export const UDP_SECONDS = 300;
/** The same for queries to DNS servers, which RFC 4787 REQ-5a permits. */
export const NAMES_SECONDS = 30;
/** A connection that opens or closes. */
const TRANSITORY_SECONDS = 240;
/** Seconds of silence after which the kernel forgets a TCP connection, by its state. */
export const TCP_SECONDS = {
  syn_sent: TRANSITORY_SECONDS,
  syn_recv: TRANSITORY_SECONDS,
  // as Linux's default: five days; 2 h 4 min are due
  established: 432_000,
  fin_wait: TRANSITORY_SECONDS,
  // half-closed: open in the other direction, so for as long as an open connection at least
  close_wait: 7440,
  last_ack: TRANSITORY_SECONDS,
  time_wait: TRANSITORY_SECONDS,
  close: TRANSITORY_SECONDS,
  syn_sent2: TRANSITORY_SECONDS,
  // while a segment is not acknowledged; its sender repeats it every two minutes at least
  retrans: 300,
  unack: 300,
} as const;

/** Connections that a guest may have open through the host, and to it. Closed ones do not count. */
export const MAX_CONNECTIONS = 16_384;
/** They are counted in so many groups, by a hash of addresses and ports. */
export const CONNECTION_GROUPS = 256;
/** Connections of one group: half as many again as the mean, so that no group is full before most others. */
export const MAX_IN_GROUP = 96;
