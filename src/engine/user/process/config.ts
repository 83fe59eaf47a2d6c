/**
 * The contract between the user engine and its network processes (`network-main.ts`): one process per network, which
 * holds the switch, the gateway and all host sockets, and outlives the daemon.
 *
 * Control protocol: JSON lines over a unix socket (0600), as in lib/json-lines. The process sends `{event: 'changed'}`
 * when addresses, rules or links have changed. A second socket, `CONTROL.dial`, carries streams: the first line is a
 * `StreamRequest`, answered by a line with a `StreamAnswer`. Then follow bytes both ways (`dial`), or records of frames
 * (`capture`: u32 length of the frame, u64 microseconds since 1970, u8 direction with 0 = from the guest and 1 = to the
 * guest, the frame's bytes; all big-endian).
 */
import type { CaptureSide, DesiredNetwork, DesiredNic, NicStats, ObservedNetwork, ObservedNic, Subnet } from '../../engine.ts';
import type { HelperMethods } from '../../process/client.ts';

/** The whole configuration of one network process. */
export interface NetworkConfig {
  network: DesiredNetwork;
  /** Overrides the host's resolvers when not empty. */
  dnsServers: string[];
  /** Names of the host's hosts file are answered; yes when absent. */
  dnsHosts?: boolean;
  /** False on the host network: only our own names are resolved. */
  dnsForward: boolean;
  nics: NetworkNic[];
  /** Subnets of our other networks: no guest reaches them through the gateway. */
  otherSubnets?: Subnet[];
  /** Guests may reach the metadata service of the host's cloud. */
  metadata?: boolean;
}

/** One NIC that is attached to the network. */
export interface NetworkNic extends DesiredNic {
  /** Unix socket on which QEMU listens; the process reconnects to it. */
  socket: string;
}

export interface NetworkStatus {
  pid: number;
  observed: ObservedNetwork;
  nics: ObservedNic[];
  /** Resolvers that DNS queries are forwarded to now. */
  upstreams: string[];
}

/** Facts of the process for `explain`. */
export interface NetworkFacts {
  /** The host's address that the gateway stands for; null while it has none. */
  primary: number | null;
  /** The process may send echo requests to outside. */
  mayPing: boolean;
}

/** Methods of the control socket. */
export interface NetworkMethods extends HelperMethods {
  /** Leaves alone what is already as wanted: flows, leases and links continue. */
  configure: { params: NetworkConfig; result: NetworkStatus };
  status: { params: Record<string, never>; result: NetworkStatus };
  stats: { params: Record<string, never>; result: NicStats[] };
  facts: { params: Record<string, never>; result: NetworkFacts };
}

/** First line of a stream. */
export type StreamRequest =
  /** To a port of a guest, which sees the gateway as its peer; `ip` selects one of its addresses. */
  { dial: { id: string; ip?: number; port: number } } | { capture: { id: string; side: CaptureSide } };

/** Its answer, before the first byte. */
export type StreamAnswer = { ok: true } | { error: string };
