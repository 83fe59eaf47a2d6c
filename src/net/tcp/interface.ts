/**
 * The seam between a network process and its TCP path: what a guest's port offers, and what the path does for it.
 * Offsets are bytes in the packet memory.
 */
import type { Socket } from 'node:net';

/** The queue of frames to one guest. */
export interface SegmentQueue {
  /** Bytes with payload that may be queued to the guest now; 0 or less: wait for `TcpPath.onRoom`. */
  room(): number;
  /**
   * Whether a segment without payload may be sent, which can be true while payload must wait. False: wait for
   * `TcpPath.onRoom`.
   */
  canSendControl(): boolean;
  /** Offset where `bytes` may be written as length-prefixed frames; valid until `commit`. */
  reserve(bytes: number): number;
  /**
   * The first `bytes` at the last `reserve` are complete length-prefixed frames. They leave at the end of the turn, in
   * one write. 0 is allowed.
   */
  commit(bytes: number): void;
}

/** A guest's NIC, as the TCP path uses it: one per attached NIC. */
export interface GuestPort {
  /** Small integer, unique in the process. */
  readonly index: number;
  /** UUID of the VM. */
  readonly id: string;
  /** Bytes of an IP packet, 576–65520. */
  readonly mtu: number;
  /** Destination MAC address of frames to the guest: its outside MAC. */
  guestMac: number;
  readonly queue: SegmentQueue;
  /**
   * During `TcpPath.onRun`: keeps that run's memory unchanged until the returned function is called. Needed when a host
   * socket took only a part of a write, and the kernel reads the rest later. Null: it cannot be pinned now. Then, and
   * where a port lacks this method, payload is copied before it is written.
   */
  pinRun?(): (() => void) | null;
}

/** Why a connection could not be made. */
export interface TcpRefusal {
  kind: 'refused' | 'host-unreachable' | 'net-unreachable' | 'timeout' | 'prohibited';
}

/** Where a guest's connection is dialled to. */
export interface TcpDestination {
  host: string;
  port: number;
  /** The host's address to dial from; the kernel chooses when absent. */
  from?: string;
}

/** A service of this process, which no socket of the host leads to. It gets the other end of the connection. */
export interface TcpService {
  serve: (client: Socket) => void;
}

/** What a guest's connection leads to; `drop`: the SYN is ignored; `reset`: it is refused. */
export type TcpTarget = TcpDestination | TcpService | 'drop' | 'reset';

/** A forwarded connection, as `cut` takes it. */
export interface TcpFlowRef {
  readonly serial: number;
  /** It was removed, and cannot be cut. */
  readonly closed: boolean;
}

/** An accepted client without a socket object; nothing was read from it. */
export interface ClientHandle {
  /** Sends a RST and closes it. */
  reset(): number;
}

/** Addresses of an inbound connection; the source is what the guest sees as its peer. */
export interface InboundAddresses {
  guestIp: number;
  guestPort: number;
  sourceIp: number;
  sourcePort: number;
}

/** A client that came in by a forwarding rule or by `anka nc`. */
export interface InboundConnection extends InboundAddresses {
  /** Belongs to the path from now on. Accept a socket with `pauseOnConnect` and `allowHalfOpen`. */
  client: Socket | ClientHandle;
  /** Called once: null when the guest accepted, else the reason; the client is reset then. */
  onAnswer?: (why: TcpRefusal | null) => void;
}

/** A segment to a guest that did not arrive, by "destination unreachable" of the guest (RFC 792). */
export interface LostSegment {
  guestIp: number;
  peerIp: number;
  guestPort: number;
  peerPort: number;
  seq: number;
  /** Code of the error. */
  code: number;
  /** Bytes of the IP packet, and the most that the next hop takes; 0 = the error does not say. */
  size: number;
  mtu: number;
}

export interface TcpPath {
  /**
   * A run of length-prefixed IPv4/TCP frames to the gateway's MAC: unfragmented, and checked by the guard. Bytes may be
   * changed in place, and are not needed after the call (but see `GuestPort.pinRun`).
   */
  onRun(port: GuestPort, start: number, end: number): void;
  /** The port's queue has drained. */
  onRoom(port: GuestPort): void;
  /** An ICMP error of the guest, which may be forged: it counts if it is about what was sent. */
  onSegmentLost(port: GuestPort, lost: LostSegment): void;
  /** The NIC was unplugged: its host sockets are reset, nothing is sent to it. */
  removePort(port: GuestPort): void;
  removeGuestAddress(port: GuestPort, ip: number): void;
  /** Cuts connections that the NIC's guest has opened to peers that it may not reach any more. */
  removePeers(port: GuestPort, isBarred: (ip: number, tcpPort: number) => boolean): void;
  accept(port: GuestPort, connection: InboundConnection): TcpFlowRef;
  /** Resets both sides; does nothing when the connection is closed. */
  cut(ref: TcpFlowRef): void;
  stats(): Record<string, number>;
  /** Resets everything. */
  close(): void;
}

/**
 * Notifies the guest by ICMP that its connection cannot be made. `ipHeader` is the offset of the SYN's IPv4 header,
 * followed by at least the first 8 bytes of its TCP header.
 */
export type NotifyUnreachable = (port: GuestPort, why: TcpRefusal, ipHeader: number) => void;

/** Where to connect to for a guest: the policy of the network. */
export type ResolveTarget = (port: GuestPort, ip: number, tcpPort: number) => TcpTarget;
