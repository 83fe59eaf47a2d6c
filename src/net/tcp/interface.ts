/**
 * The seam between a network process and its TCP path: what a guest's port offers, and what the path does for it.
 * Offsets are bytes in the packet memory.
 */
import type { Socket } from 'node:net';

/** Frames to one guest. */
export interface SegmentQueue {
  /** Bytes with payload that may be queued to the guest now; 0 or less: wait for `TcpPath.onRoom`. */
  room(): number;
  /**
   * Whether a segment without payload may be: it may also where payload has to wait. False: wait for `TcpPath.onRoom`.
   */
  mayTell(): boolean;
  /** Offset where `bytes` may be written as length-prefixed frames; valid until `commit`. */
  reserve(bytes: number): number;
  /**
   * The first `bytes` at the last `reserve` are whole framed frames. They leave at the end of the turn, in one write. 0
   * is allowed.
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
   * During `TcpPath.onRun`: keeps that run's memory unchanged until the returned function is called. It is needed when
   * a host socket took only a part of a write, whose rest the kernel reads later. Null: it cannot be kept just now.
   * Then, and where a port lacks it, payload is copied before it is written.
   */
  pinRun?(): (() => void) | null;
}

/** Why a connection could not be made. */
export interface TcpRefusal {
  kind: 'refused' | 'host-unreachable' | 'net-unreachable' | 'timeout' | 'prohibited';
}

/** Where a connection of a guest really goes; `drop`: as if nobody were there; `reset`: refused. */
export type TcpTarget = { host: string; port: number } | 'drop' | 'reset';

/** Names one forwarded connection to `cut`. */
export interface TcpFlowRef {
  readonly serial: number;
  /** Nothing of it is left to cut. */
  readonly ended: boolean;
}

/** A client that no socket was made around, and from which nothing was read. */
export interface ClientHandle {
  /** RST, and it is closed. */
  reset(): number;
}

export interface TcpPath {
  /**
   * A framed run of IPv4/TCP frames to the gateway's MAC: unfragmented, guarded. Bytes may be changed in place, and are
   * not needed after the call (but see `GuestPort.pinRun`).
   */
  onRun(port: GuestPort, start: number, end: number): void;
  /** The port's queue has drained. */
  onRoom(port: GuestPort): void;
  /** Unplugged: its host sockets are reset, nothing is sent to it. */
  portGone(port: GuestPort): void;
  guestAddressGone(port: GuestPort, ip: number): void;
  /**
   * A client that came in by a forwarding rule or by `anka nc`; `source` and `sourcePort` are what the guest shall see
   * as its peer. It belongs to the path from now on; accept a socket with `pauseOnConnect` and `allowHalfOpen`.
   * `onAnswer` tells once: null when the guest accepted, else why not; the client is reset then.
   */
  accept(
    port: GuestPort,
    guestIp: number,
    guestPort: number,
    source: number,
    sourcePort: number,
    client: Socket | ClientHandle,
    onAnswer?: (why: TcpRefusal | null) => void,
  ): TcpFlowRef;
  /** Resets both sides of it; nothing when it has ended. */
  cut(ref: TcpFlowRef): void;
  stats(): Record<string, number>;
  /** Resets everything. */
  close(): void;
}

/**
 * Tells the guest by ICMP that its connection cannot be made: `ipHeader` is the offset of the SYN's IPv4 header,
 * followed by at least the first 8 bytes of its TCP header.
 */
export type TellUnreachable = (port: GuestPort, why: TcpRefusal, ipHeader: number) => void;

/** Where to connect to for a guest: the policy of the network. */
export type ResolveTarget = (port: GuestPort, ip: number, tcpPort: number) => TcpTarget;
