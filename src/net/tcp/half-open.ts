/**
 * Connections of one guest that are begun and not yet made, and which of them makes room when there are too many.
 *
 * Theory of operation. They stand in lanes, one for each /24 network that is asked, and a lane's oldest is the first to
 * go: who has not answered by now is the least likely to. Room is made in one of the lanes that hold the most (within a
 * factor of two: lanes are kept by the power of two of their size, so that none has to be searched for). So a burst to
 * addresses where nobody answers pushes out its own, not the one connection beside it. Where something has answered
 * before, a lane of its own kind is used, and the kind that holds less is spared: a known server is reached through a
 * burst of any width.
 *
 * Limits. What has answered is remembered for KNOWN ends, the oldest is forgotten. A burst that is wider than the limit
 * and asks every network but once pushes out the oldest of all that were never reached before.
 */
import type { TcpFlow } from './flow.ts';

/** Ends that have answered, remembered for one guest. */
const KNOWN = 1024;
/** A lane of at most this many is asked before longer ones. */
const FEW = 8;

/** When a connection is dialled: those with a lower number first. */
export const Urgency = { known: 0, few: 1, many: 2 } as const;

export class TcpLane {
  readonly key: number;
  readonly kind: Kind;
  size = 0;
  /** Power of two of its size. */
  rank = -1;
  first: TcpFlow | null = null;
  last: TcpFlow | null = null;
  before: TcpLane | null = null;
  after: TcpLane | null = null;

  constructor(key: number, kind: Kind) {
    this.key = key;
    this.kind = kind;
  }
}

/** The lanes of those that were reached before, or of the others. */
class Kind {
  readonly lanes = new Map<number, TcpLane>();
  /** The first and last lane of each rank. */
  readonly heads: (TcpLane | null)[] = new Array<TcpLane | null>(32).fill(null);
  readonly tails: (TcpLane | null)[] = new Array<TcpLane | null>(32).fill(null);
  size = 0;

  /** The oldest flow of one of the longest lanes. */
  get victim(): TcpFlow | null {
    for (let rank = 31; rank >= 0; rank--) {
      const head = this.heads[rank];
      if (head) return head.first;
    }
    return null;
  }

  rank(lane: TcpLane): void {
    const rank = 31 - Math.clz32(lane.size);
    if (rank === lane.rank) return;
    if (lane.rank >= 0) {
      if (lane.before) lane.before.after = lane.after;
      else this.heads[lane.rank] = lane.after;
      if (lane.after) lane.after.before = lane.before;
      else this.tails[lane.rank] = lane.before;
    }
    lane.rank = rank;
    if (rank < 0) {
      this.lanes.delete(lane.key);
      return;
    }
    lane.before = this.tails[rank];
    lane.after = null;
    if (lane.before) lane.before.after = lane;
    else this.heads[rank] = lane;
    this.tails[rank] = lane;
  }
}

export class TcpPending {
  readonly #others = new Kind();
  readonly #reached = new Kind();
  readonly #known = new Set<number>();

  get size(): number {
    return this.#others.size + this.#reached.size;
  }

  /** `lane`: the address that is asked. `end`: any number that names what is to answer. Returns how urgent it is. */
  add(flow: TcpFlow, lane: number, end: number): number {
    const known = this.#known.has(end);
    const kind = known ? this.#reached : this.#others;
    const key = lane >>> 8;
    let l = kind.lanes.get(key);
    if (!l) {
      l = new TcpLane(key, kind);
      kind.lanes.set(key, l);
    }
    flow.lane = l;
    flow.laneBefore = l.last;
    if (l.last) l.last.laneAfter = flow;
    else l.first = flow;
    l.last = flow;
    l.size++;
    kind.size++;
    kind.rank(l);
    if (known) return Urgency.known;
    return l.size <= FEW ? Urgency.few : Urgency.many;
  }

  /** It is made, or given up; nothing when it is not here. */
  delete(flow: TcpFlow): void {
    const l = flow.lane;
    if (!l) return;
    if (flow.laneBefore) flow.laneBefore.laneAfter = flow.laneAfter;
    else l.first = flow.laneAfter;
    if (flow.laneAfter) flow.laneAfter.laneBefore = flow.laneBefore;
    else l.last = flow.laneBefore;
    flow.lane = flow.laneBefore = flow.laneAfter = null;
    l.size--;
    l.kind.size--;
    l.kind.rank(l);
  }

  /** Something has answered there. */
  answered(end: number): void {
    if (this.#known.has(end)) return;
    this.#known.add(end);
    if (this.#known.size > KNOWN) this.#known.delete(this.#known.values().next().value as number);
  }

  /** Nothing answers there any more. */
  unanswered(end: number): void {
    this.#known.delete(end);
  }

  /** Who makes room; null when there is nobody. */
  victim(): TcpFlow | null {
    const spared = this.#reached.size <= this.#others.size;
    return spared ? this.#others.victim : this.#reached.victim;
  }
}
