/**
 * The contract between the user engine and its network processes (`network-main.ts`): one process per network, which
 * holds the switch, the gateway and all host sockets, and outlives the daemon.
 *
 * Control protocol: JSON lines over a unix socket (0600), as in lib/json-lines. The process sends `{event: 'changed'}`
 * when addresses, rules or cables changed. A second socket, `CONTROL.dial`, carries streams: its first line is a
 * `StreamRequest`, answered by a `StreamAnswer` on a line of its own; then come bytes both ways (`dial`), or records of
 * frames (`capture`: u32 length of the frame, u64 microseconds since 1970, u8 direction with 0 = from the guest and 1 =
 * to the guest, the frame's bytes; all big-endian).
 */
import type { CaptureSide, DesiredNetwork, DesiredNic, NicStats, ObservedNetwork, ObservedNic, Subnet } from '../../engine.ts';
import type { HelperMethods } from '../../process/client.ts';

/** The whole of what one network process shall do. */
export interface NetworkConfig {
  network: DesiredNetwork;
  /** Overrides the host's resolvers when not empty. */
  dnsServers: string[];
  /** False on the host network: only our own names are answered. */
  dnsForward: boolean;
  nics: NetworkNic[];
  /** Subnets of our other networks: no guest reaches them through the gateway. */
  otherSubnets?: Subnet[];
}

/** One card that is plugged into the network. */
export interface NetworkNic extends DesiredNic {
  /** Unix socket on which QEMU listens; dialled again while it is gone. */
  socket: string;
}

export interface NetworkStatus {
  pid: number;
  observed: ObservedNetwork;
  nics: ObservedNic[];
  /** Resolvers that names are asked of now. */
  upstreams: string[];
}

/** What `explain` has to know of the process. */
export interface NetworkFacts {
  /** The host's address that the gateway stands for; null while it has none. */
  primary: number | null;
  /** Echoes to outside may be sent. */
  mayPing: boolean;
}

/** Methods of the control socket. */
export interface NetworkMethods extends HelperMethods {
  /** What is already as wanted is left alone: flows, leases and cables go on. */
  configure: { params: NetworkConfig; result: NetworkStatus };
  status: { params: Record<string, never>; result: NetworkStatus };
  stats: { params: Record<string, never>; result: NicStats[] };
  facts: { params: Record<string, never>; result: NetworkFacts };
}

/** First line of a stream. */
export type StreamRequest =
  /** To a port of a guest, seen there as coming from the gateway; `ip` chooses among its addresses. */
  { dial: { id: string; ip?: number; port: number } } | { capture: { id: string; side: CaptureSide } };

/** Its answer, before the first byte. */
export type StreamAnswer = { ok: true } | { error: string };
