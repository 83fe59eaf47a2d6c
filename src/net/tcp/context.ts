/**
 * What the parts of the TCP machine share: limits, the seam to the host's sockets, the time of the event that is being
 * handled, counters, and the tools that all of them use.
 */
import { seqAdd } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import type { ChunkPool } from './chunks.ts';
import type { TcpEmitter } from './emit.ts';
import type { TcpFlow } from './flow.ts';
import type { GuestPort } from './interface.ts';
import type { TcpSender } from './send.ts';
import type { TcpTable } from './table.ts';
import type { TcpTimers } from './timers.ts';

/** What the machine asks of the host's sockets. None of these calls back before it returns. */
export interface HostSide {
  /**
   * Answered by `onConnected`, `onNotConnected` or `onNoSocket`. `priority`: what to dial first (half-open.ts).
   */
  connect(flow: TcpFlow, host: string, port: number, priority: number): void;
  /**
   * Payload for the socket, at an offset in packet memory that is good during the call; it is in the guest's run,
   * unless `queued`. Sets `flow.queued` to the bytes that are not taken yet.
   */
  write(flow: TcpFlow, at: number, length: number, queued: boolean): void;
  /** The guest sends no more: FIN, after what is queued. */
  end(flow: TcpFlow): void;
  /** Both directions have ended: what is queued goes out, then the socket is closed. The flow is forgotten. */
  close(flow: TcpFlow): void;
  /** RST, and forget. */
  reset(flow: TcpFlow): void;
  /** Read, or do not; tells whether it reads. What could not be put into the send buffer before is put there now. */
  read(flow: TcpFlow, on: boolean): boolean;
}

export interface TcpLimits {
  /** Connections per NIC. */
  flows: number;
  /** Of those, not yet connected, in either direction; half-open.ts says which makes room for a new one. */
  connecting: number;
  /**
   * Host sockets, all NICs together. A NIC may have as many as are still free: so there is always one left for another.
   */
  sockets: number;
  /** Of those, in TIME-WAIT; the oldest makes room. */
  timeWait: number;
  /**
   * Bytes of packet memory for what waits for acknowledgement, all NICs together. A NIC may take as much as is still
   * free: so there is always something left for one more.
   */
  sendMemory: number;
}

export const DEFAULT_LIMITS: TcpLimits = { flows: 16_384, connecting: 12_288, sockets: Number.POSITIVE_INFINITY, timeWait: 2048, sendMemory: 256 << 20 };

export interface TcpTools {
  host: HostSide;
  limits: TcpLimits;
  pool: ChunkPool;
  table: TcpTable;
  timers: TcpTimers;
  emit: TcpEmitter;
  sender: TcpSender;
}

export class TcpParts implements TcpTools {
  readonly host: HostSide;
  readonly limits: TcpLimits;
  readonly pool: ChunkPool;
  readonly table: TcpTable;
  readonly timers: TcpTimers;
  readonly emit: TcpEmitter;
  readonly sender: TcpSender;
  /** Of the event that is being handled, ms. */
  now: number;
  /** Flows in TIME-WAIT: those have no host socket. */
  lingering = 0;
  /** Flows to be looked at once more at the end of the run. */
  readonly marked: TcpFlow[] = [];
  readonly counts = {
    opened: 0,
    forwarded: 0,
    refused: 0,
    unreachable: 0,
    malformed: 0,
    badChecksum: 0,
    strays: 0,
    flowLimit: 0,
    evicted: 0,
    noSocket: 0,
    guestResets: 0,
    hostResets: 0,
    silent: 0,
    noRoom: 0,
  };

  constructor(tools: TcpTools, now: number) {
    this.host = tools.host;
    this.limits = tools.limits;
    this.pool = tools.pool;
    this.table = tools.table;
    this.timers = tools.timers;
    this.emit = tools.emit;
    this.sender = tools.sender;
    this.now = now;
  }

  /** At the end of this run an ACK is owed; a small segment's may wait for an answer that carries it. */
  mark(flow: TcpFlow, small: boolean): void {
    if (flow.ackDue || !small) flow.ackNow = true;
    else flow.ackSince = this.now;
    flow.ackDue = true;
    this.touch(flow);
  }

  /** To be looked at once more at the end of the run. */
  touch(flow: TcpFlow): void {
    if (flow.marked) return;
    flow.marked = true;
    this.marked.push(flow);
  }

  /** Answers a segment that belongs to no connection by a RST (RFC 9293 3.10.7.1). */
  stray(port: GuestPort, guestIp: number, peerIp: number, ports: number, flags: number, seq: number, ack: number, length: number): void {
    this.counts.strays++;
    if (flags & TcpFlag.rst) return;
    if (!port.queue.mayTell()) {
      this.counts.noRoom++;
      return;
    }
    if (flags & TcpFlag.ack) this.emit.resetStray(port, guestIp, peerIp, ports, ack, 0, TcpFlag.rst);
    else {
      const size = length + (flags & TcpFlag.syn ? 1 : 0) + (flags & TcpFlag.fin ? 1 : 0);
      this.emit.resetStray(port, guestIp, peerIp, ports, 0, seqAdd(seq, size), TcpFlag.rst | TcpFlag.ack);
    }
  }
}
