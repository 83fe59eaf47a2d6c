/**
 * One TCP connection of a guest: what is known about it. Sequence numbers are signed 32-bit; times are milliseconds.
 * Behaviour is in the files beside this one.
 */

import { HalfOpenEntry, HalfOpenTable } from './half-open.ts';
import type { GuestPort, TcpRefusal } from './interface.ts';
import type { TcpReassembly } from './reassembly.ts';
import type { TcpResent } from './resent.ts';
import type { TcpScoreboard } from './scoreboard.ts';
import type { TcpSendBuffer } from './send-buffer.ts';

/** What has happened to a connection; a set, not a state: the textbook's states are sets of these. */
export const Happened = {
  /** The guest's SYN has been taken: `irs` and `rcvNxt` mean something. */
  synIn: 1,
  /** Our SYN, or SYN and ACK, has been sent. */
  synOut: 2,
  /** Both SYNs are acknowledged. */
  established: 4,
  /** The guest's FIN has been taken: it sends no more. */
  finIn: 8,
  /** Our FIN has been sent at least once. */
  finOut: 16,
  /** Our FIN is acknowledged. */
  finAcked: 32,
  /** The host's side sends no more. */
  hostEnd: 64,
  /** The host socket is done with, and forgotten. */
  hostDone: 128,
  /** Only waits for late segments of the guest (TIME-WAIT). */
  timeWait: 256,
  /** Removed from the table. */
  gone: 512,
  /** The guest's FIN has been seen, at `finSeq`; something before it may be missing. */
  finSeen: 1024,
} as const;

/** Bytes in flight to the guest at most: its link is local, so only losses make this smaller. */
export const MAX_FLIGHT = 4 << 20;
/** Retransmission timeout before there is a measurement (RFC 6298 2.1). */
export const FIRST_RTO = 1000;

export class TcpFlow {
  readonly serial: number;
  readonly owner: TcpPortState;
  /** The guest's address and the peer's, as signed 32-bit numbers, and both ports: guest's in the high half. */
  readonly guestIp: number;
  readonly peerIp: number;
  readonly ports: number;
  /** Frame header of 58 bytes in packet memory. */
  readonly template: number;
  templateMac = -1;
  readonly send: TcpSendBuffer;
  /** The host socket's handle; the machine does not look into it. */
  host: unknown = null;
  /** Set while a forwarded client waits for the guest's answer: told null when it was accepted. */
  onAnswer: ((why: TcpRefusal | null) => void) | null = null;
  /** It came from the host's side: we are the one who calls. */
  readonly forwarded: boolean;
  events = 0;

  irs = 0;
  rcvNxt = 0;
  /** Right edge of the window that the guest has been told; never moves left. */
  rcvEdge = 0;
  /** Where the guest's FIN stands, once it was seen. */
  finSeq = 0;
  /** How our windows are scaled; 0 when the guest does not scale. */
  shiftIn = 0;
  /** Payload that the host socket has not taken yet, bytes. */
  queued = 0;
  /** It owes an ACK; `ackNow`: one that cannot wait. */
  ackDue = false;
  ackNow = false;
  /**
   * Since when it is owed (ms), whether it is in the list of those that wait, and small segments that are acknowledged
   * at once. Owned by ack-delay.ts.
   */
  ackSince = 0;
  ackHeld = false;
  quickAcks = 0;
  /** The guest takes selective acknowledgements. */
  sack = false;
  /** Payload out of order; null until there is some. */
  early: TcpReassembly | null = null;

  iss = 0;
  sndUna = 0;
  /** The next byte to send: goes back to `sndUna` at a timeout. */
  sndNxt = 0;
  /** Behind the last byte ever sent. */
  sndMax = 0;
  /** Window that the guest told, bytes, and the segment that told it (RFC 9293 SND.WL1, WL2). */
  sndWnd = 0;
  wl1 = 0;
  wl2 = 0;
  shiftOut = 0;
  mss = 536;
  ipId = 0;
  /** Our FIN went out before the guest's came: TIME-WAIT is ours. */
  finFirst = false;
  dupAcks = 0;
  /** Recovery goes on until this is acknowledged; `restarted`: it began with a timeout, and the limit grows in it. */
  recover = 0;
  recovering = false;
  restarted = false;
  /** What the guest has received out of order; null until it tells of some. */
  board: TcpScoreboard | null = null;
  /** What was sent again; null as long as `board`. */
  resent: TcpResent | null = null;
  /** All before this that is not received is lost, whatever the guest has told; never before `sndUna`. */
  lostTo = 0;
  /**
   * When something was sent, or the guest told something new (ms); whether a probe has broken the silence since; and
   * where the probe's payload ended, never before `sndUna`.
   */
  quietSince = 0;
  probed = false;
  /** The deadline is that of a probe. */
  forProbe = false;
  probeEnd = 0;
  /** Bytes in flight that we allow ourselves, mss–MAX_FLIGHT. */
  limit = MAX_FLIGHT;

  /** Smoothed round trip and its deviation; srtt 0 = not measured. */
  srtt = 0;
  rttvar = 0;
  rto = FIRST_RTO;
  /** The one segment that is being timed: `timedSeq` when acknowledged gives a sample; timedAt 0 = none. */
  timedSeq = 0;
  timedAt = 0;
  /** Timeouts since something new was acknowledged: the timer doubles with each. */
  retries = 0;
  /** Timeouts since the guest said anything at all. */
  silent = 0;
  /** Challenge ACKs sent in the second that began at `challengeFrom` (RFC 5961 7). */
  challenges = 0;
  challengeFrom = 0;

  /** When it wants to be called, Infinity = never. Owned by timers.ts, as the three after it. */
  deadline = Number.POSITIVE_INFINITY;
  slot = -1;
  before: TcpFlow | null = null;
  after: TcpFlow | null = null;

  /** Its place among the half-open connections of its NIC. */
  readonly halfOpen: HalfOpenEntry<TcpFlow> = new HalfOpenEntry<TcpFlow>(this);

  /** The host socket is being read. */
  reading = true;
  /** In the list of those who wait for room to the guest. */
  waiting = false;
  /** In the list of those who owe an ACK at the end of this run. */
  marked = false;
  /** Next in the table's bucket. */
  chained: TcpFlow | null = null;

  constructor(serial: number, owner: TcpPortState, guestIp: number, peerIp: number, ports: number, template: number, send: TcpSendBuffer, forwarded: boolean) {
    this.serial = serial;
    this.owner = owner;
    this.guestIp = guestIp;
    this.peerIp = peerIp;
    this.ports = ports;
    this.template = template;
    this.send = send;
    this.forwarded = forwarded;
  }

  has(events: number): boolean {
    return (this.events & events) === events;
  }

  /** Nothing of it is left to cut. */
  get ended(): boolean {
    return this.has(Happened.gone);
  }

  /** Payload bytes behind `sndNxt` that were never sent, or are to be sent again. */
  get unsent(): number {
    return this.events & Happened.established ? Math.max(0, this.send.length - ((this.sndNxt - this.sndUna) | 0)) : this.send.length;
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
  gone = false;

  constructor(port: GuestPort) {
    this.port = port;
  }
}
