/**
 * What the files of the TCP machine share: limits, the seam to the host's sockets, the time of the current event,
 * counters and tools.
 */
import { seqAdd } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import type { ChunkPool } from './chunks.ts';
import type { TcpEmitter } from './emit.ts';
import { TcpEvents, type TcpFlow } from './flow.ts';
import type { GuestPort, TcpDestination, TcpService } from './interface.ts';
import { type PeerSigns, PeerWatch } from './peer-watch.ts';
import type { TcpSender } from './send.ts';
import type { TcpTable } from './table.ts';
import type { TimerWheel } from './timers.ts';

/** What the machine requests of the host's sockets. None of these calls back before it returns. */
export interface HostSide extends PeerSigns {
  /**
   * Answered by `onConnected`, `onNotConnected` or `onNoSocket`. `priority`: what to dial first (half-open.ts).
   */
  connect(flow: TcpFlow, to: TcpDestination | TcpService, priority: number): void;
  /**
   * Payload for the socket, at an offset in packet memory that is valid during the call. It lies in the guest's run,
   * unless `queued`. Sets `flow.queued` to the bytes that are not taken yet.
   */
  write(flow: TcpFlow, at: number, length: number, queued: boolean): void;
  /** Sends a FIN after what is queued: the guest sends no more. */
  end(flow: TcpFlow): void;
  /** Both directions are finished: closes the socket once the queue is empty, and forgets the flow. */
  close(flow: TcpFlow): void;
  /** Sends a RST, and forgets the flow. */
  reset(flow: TcpFlow): void;
  /**
   * Starts or stops reading, and returns whether the socket is read. Starting first moves into the send buffer what did
   * not fit before.
   */
  read(flow: TcpFlow, on: boolean): boolean;
}

export interface TcpLimits {
  /** Connections per NIC. */
  flows: number;
  /** Half-open connections per NIC and direction; half-open.ts selects which is evicted for a new one. */
  connecting: number;
  /** Host sockets of all NICs. A NIC may have as many as are still free, so one is always left for another NIC. */
  sockets: number;
  /** Connections in TIME-WAIT per NIC; the oldest is evicted. */
  timeWait: number;
  /**
   * Packet memory for unacknowledged payload of all NICs, bytes. A NIC may take as much as is still free, so some is
   * always left for another NIC.
   */
  sendMemory: number;
}

export const DEFAULT_LIMITS: TcpLimits = { flows: 16_384, connecting: 12_288, sockets: Number.POSITIVE_INFINITY, timeWait: 2048, sendMemory: 256 << 20 };

interface TcpTools {
  host: HostSide;
  limits: TcpLimits;
  pool: ChunkPool;
  table: TcpTable;
  timers: TimerWheel<TcpFlow>;
  emit: TcpEmitter;
  sender: TcpSender;
}

export class TcpContext implements TcpTools {
  readonly host: HostSide;
  readonly limits: TcpLimits;
  readonly pool: ChunkPool;
  readonly table: TcpTable;
  readonly timers: TimerWheel<TcpFlow>;
  readonly emit: TcpEmitter;
  readonly sender: TcpSender;
  readonly peers: PeerWatch;
  /** Time of the current event, ms. */
  now: number;
  /** Flows in TIME-WAIT: these have no host socket. */
  lingering = 0;
  /** Flows to be visited at the end of the run. */
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
    /** Segment sizes lowered, as the path behind the guest is narrower. */
    narrowed: 0,
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
    this.peers = new PeerWatch(tools.host, (flow) => this.sender.acknowledge(flow), now);
    this.now = now;
  }

  /**
   * An ACK is due at the end of this run, unless the peer must show a sign of life first. That of a single small
   * segment may be delayed, to be sent with an answer. `bare`: the segment has nothing new for the peer.
   */
  ackAtEnd(flow: TcpFlow, small: boolean, bare: boolean): void {
    const ack = flow.ack;
    if (!(flow.events & TcpEvents.hostClosed)) this.peers.acknowledging(flow, bare, this.now);
    if (ack.due || !small) ack.urgent = true;
    else ack.since = this.now;
    ack.due = true;
    this.mark(flow);
  }

  /** The flow is visited at the end of this run. */
  mark(flow: TcpFlow): void {
    if (flow.marked) return;
    flow.marked = true;
    this.marked.push(flow);
  }

  /**
   * Answers a segment that belongs to no connection by a RST (RFC 9293 3.10.7.1). Positional arguments: a scan or a
   * flood comes here with each segment, and allocates nothing.
   */
  rejectStray(port: GuestPort, guestIp: number, peerIp: number, ports: number, flags: number, seq: number, ack: number, length: number): void {
    this.counts.strays++;
    if (flags & TcpFlag.rst) return;
    if (!port.queue.canSendControl()) {
      this.counts.noRoom++;
      return;
    }
    if (flags & TcpFlag.ack) this.emit.reset(port, guestIp, peerIp, ports, ack, 0, TcpFlag.rst);
    else {
      const size = length + (flags & TcpFlag.syn ? 1 : 0) + (flags & TcpFlag.fin ? 1 : 0);
      this.emit.reset(port, guestIp, peerIp, ports, 0, seqAdd(seq, size), TcpFlag.rst | TcpFlag.ack);
    }
  }

  /** Rejects the guest's SYN of this flow. */
  rejectSyn(flow: TcpFlow): void {
    this.rejectStray(flow.owner.port, flow.guestIp, flow.peerIp, flow.ports, TcpFlag.syn, flow.irs, 0, 0);
  }
}
