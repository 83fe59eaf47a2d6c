/** What the TCP path keeps per NIC: its flows, and the accounts that bound them. */
import type { TcpFlow } from './flow.ts';
import { TcpPending } from './half-open.ts';
import type { GuestPort } from './interface.ts';

export class TcpPortState {
  readonly port: GuestPort;
  readonly flows = new Set<TcpFlow>();
  /** Those whose outside connection is not made yet, or whose answer the guest has not acknowledged. */
  readonly dialling = new TcpPending();
  /** Those that came from outside, while the guest has not answered. */
  readonly calling = new TcpPending();
  /** Those in TIME-WAIT, oldest first. */
  readonly timeWait = new Set<TcpFlow>();
  /** Those who wait for room to the guest, or for memory. */
  waiting: TcpFlow[] = [];
  /** Bytes of payload that host sockets have not taken yet. */
  queued = 0;
  /** Bytes of packet memory in which payload waits for the guest's acknowledgement. */
  held = 0;
  /** Bytes of receive buffers that host sockets have from the host's kernel, as far as they were looked at. */
  buffers = 0;
  /** Those of the receive buffers that the host's kernel may enlarge. */
  readonly growing = new Set<{ hold(): void }>();
  gone = false;

  constructor(port: GuestPort) {
    this.port = port;
  }
}
