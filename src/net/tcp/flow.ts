/**
 * One TCP connection of a guest, and the state of its NIC. Sequence numbers are signed 32-bit; times are milliseconds.
 * The behaviour is in the files beside this one.
 *
 * What every segment reads or writes is a field of the flow itself. The rest is grouped into objects that belong to one
 * file each, and are allocated with the flow.
 */
import { PendingAck } from './ack-delay.ts';
import type { ChallengeLimit } from './challenge-limit.ts';
import { HalfOpenEntry, HalfOpenTable } from './half-open.ts';
import type { GuestPort, TcpRefusal } from './interface.ts';
import { LossRecovery } from './loss-recovery.ts';
import { PeerLife } from './peer-life.ts';
import type { TcpReassembly } from './reassembly.ts';
import { RoundTrip } from './round-trip.ts';
import type { TcpSendBuffer } from './send-buffer.ts';
import { Timer } from './timers.ts';

/** Events of a connection. Its state is the set of those that have occurred; each textbook state is such a set. */
export const TcpEvents = {
  /** The guest's SYN was received: `irs` and `rcvNxt` are valid. */
  synReceived: 1,
  /** Our SYN, or SYN-ACK, was sent. */
  synSent: 2,
  /** Both SYNs are acknowledged. */
  established: 4,
  /** The guest's FIN was received in order: it sends no more. */
  finReceived: 8,
  /** Our FIN was sent at least once. */
  finSent: 16,
  /** Our FIN is acknowledged. */
  finAcked: 32,
  /** The host socket has reached its end of stream. */
  hostFin: 64,
  /** The host socket is closed and released. */
  hostClosed: 128,
  /** TIME-WAIT: only late segments of the guest are expected. */
  timeWait: 256,
  /** Removed from the table. */
  removed: 512,
  /** The guest's FIN was seen, at `finSeq`; payload before it may be missing. */
  finSeen: 1024,
  /** Our FIN was sent before the guest's was received: TIME-WAIT is ours. */
  finSentFirst: 2048,
} as const;

/** A flow's frame header of 58 bytes in packet memory. */
export interface FrameHeader {
  readonly at: number;
  /** The destination MAC that is written in it; −1 = none. */
  mac: number;
}

/** What a flow knows of a path that is narrower than its card; path-mtu.ts has the behaviour. */
export interface NarrowPath {
  /** The segment size before. */
  readonly mss: number;
  /** Routers may fragment. */
  fragments: boolean;
  /** When the former size is tried again, ms. */
  until: number;
}

/** What identifies a flow: addresses as signed 32-bit numbers, and both ports, the guest's in the high half. */
export interface TcpFlowKey {
  readonly guestIp: number;
  readonly peerIp: number;
  readonly ports: number;
}

export class TcpFlow {
  readonly serial: number;
  readonly owner: TcpPortState;
  readonly guestIp: number;
  readonly peerIp: number;
  readonly ports: number;
  /** Inbound: a client of the host's side opened it through a forwarding rule. */
  readonly forwarded: boolean;
  /** Set of TcpEvents. */
  events = 0;

  // the host's side

  /** The host socket's handle; opaque to the machine. */
  host: unknown = null;
  /** Pending answer to a forwarded client; called with null when the guest accepts. */
  onAnswer: ((why: TcpRefusal | null) => void) | null = null;
  /** Payload that the host socket has not taken yet, bytes. */
  queued = 0;
  /** The host socket is being read. */
  reading = true;

  // receiving from the guest (RFC 9293 3.3.1)

  irs = 0;
  rcvNxt = 0;
  /** Right edge of the advertised window; never moves left. */
  rcvEdge = 0;
  /** Window scale of our windows; 0 when the guest does not scale. */
  rcvShift = 0;
  /** Sequence number of the guest's FIN, once seen. */
  finSeq = 0;
  /** The guest supports selective acknowledgement. */
  sack = false;
  /** Out-of-order payload; null until there is some. */
  outOfOrder: TcpReassembly | null = null;

  // sending to the guest (RFC 9293 3.3.1)

  readonly send: TcpSendBuffer;
  readonly header: FrameHeader;
  iss = 0;
  sndUna = 0;
  /** Next byte to send: moves back to `sndUna` at a timeout. */
  sndNxt = 0;
  /** Behind the last byte ever sent. */
  sndMax = 0;
  /** Window that the guest advertised, bytes, and the segment that advertised it (SND.WL1, SND.WL2). */
  sndWnd = 0;
  wl1 = 0;
  wl2 = 0;
  sndShift = 0;
  /** Payload of a segment, bytes. */
  mss = 536;
  /** Null while segments have their full size. */
  path: NarrowPath | null = null;
  ipId = 0;
  /** Timeouts since the guest sent anything. */
  silent = 0;

  readonly life = new PeerLife<TcpFlow>();
  readonly roundTrip = new RoundTrip();
  readonly recovery = new LossRecovery();
  readonly ack: PendingAck<TcpFlow> = new PendingAck<TcpFlow>(this);
  readonly timer: Timer<TcpFlow> = new Timer<TcpFlow>(this);
  /** Position among the half-open connections of its NIC. */
  readonly halfOpen: HalfOpenEntry<TcpFlow> = new HalfOpenEntry<TcpFlow>(this);
  /** Null until the first challenge ACK. */
  challenges: ChallengeLimit | null = null;

  // membership in lists

  /** In its NIC's `waiting`. */
  waiting = false;
  /** In the context's `marked`. */
  marked = false;
  /** Next in the table's bucket. */
  chained: TcpFlow | null = null;

  constructor(serial: number, owner: TcpPortState, key: TcpFlowKey, forwarded: boolean, buffers: { header: FrameHeader; send: TcpSendBuffer }) {
    this.serial = serial;
    this.owner = owner;
    this.guestIp = key.guestIp;
    this.peerIp = key.peerIp;
    this.ports = key.ports;
    this.forwarded = forwarded;
    this.header = buffers.header;
    this.send = buffers.send;
  }

  has(events: number): boolean {
    return (this.events & events) === events;
  }

  /** It was removed, and cannot be cut. */
  get closed(): boolean {
    return this.has(TcpEvents.removed);
  }

  /** Payload bytes behind `sndNxt`: never sent, or to be retransmitted. */
  get unsent(): number {
    return this.events & TcpEvents.established ? Math.max(0, this.send.length - ((this.sndNxt - this.sndUna) | 0)) : this.send.length;
  }

  get flight(): number {
    return (this.sndNxt - this.sndUna) | 0;
  }
}

/** The flows of one NIC, and the accounts that bound them. */
export class TcpPortState {
  readonly port: GuestPort;
  readonly flows = new Set<TcpFlow>();
  /** Opened by the guest: the host socket is not connected, or the guest has not acknowledged our SYN. */
  readonly halfOpenOut = new HalfOpenTable<TcpFlow>();
  /** Forwarded to the guest, which has not answered our SYN. */
  readonly halfOpenIn = new HalfOpenTable<TcpFlow>();
  /** In TIME-WAIT, oldest first. */
  readonly timeWait = new Set<TcpFlow>();
  /** Blocked on room to the guest, or on memory. */
  waiting: TcpFlow[] = [];
  /** Payload that host sockets have not taken yet, bytes. */
  queued = 0;
  /** Packet memory in which payload waits for the guest's acknowledgement, bytes. */
  held = 0;
  /** Receive buffers that the kernel has given the host sockets, bytes, as far as they were sampled. */
  buffers = 0;
  /** Receive buffers that the kernel may still enlarge. */
  readonly growing = new Set<{ hold(): void }>();
  /** The NIC was unplugged. */
  removed = false;

  constructor(port: GuestPort) {
    this.port = port;
  }
}
