/** What the TCP path keeps per NIC: its flows, and the accounts that bound them. */
import type { TcpFlow } from './tcp-flow.ts';
import type { GuestPort } from './tcp-path.ts';

export class TcpPortState {
  readonly port: GuestPort;
  readonly flows = new Set<TcpFlow>();
  /** Those whose outside connection is not made yet, oldest first. */
  readonly connecting = new Set<TcpFlow>();
  /** Those in TIME-WAIT, oldest first. */
  readonly timeWait = new Set<TcpFlow>();
  /** Those who wait for room to the guest, or for memory. */
  waiting: TcpFlow[] = [];
  /** Bytes of payload that host sockets have not taken yet. */
  queued = 0;
  /** Bytes of packet memory in which payload waits for the guest's acknowledgement. */
  held = 0;
  gone = false;

  constructor(port: GuestPort) {
    this.port = port;
  }
}
