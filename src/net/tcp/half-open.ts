/**
 * Half-open connections of one guest, and which of them is evicted when there are too many.
 *
 * Theory of operation. Connections are kept in lanes, one per destination /24, oldest first. A lane's oldest entry is
 * evicted first: a host that has not answered by now is the least likely to. The victim comes from one of the longest
 * lanes. Lanes are indexed by the power of two of their size, so none has to be searched for, and "longest" is exact
 * within a factor of two. A burst to addresses that do not answer therefore evicts its own connections, not others.
 *
 * Endpoints that have answered before are kept in lanes of their own. The smaller of the two groups is spared, so a
 * known server stays reachable through a burst of any width.
 *
 * Limits. MAX_KNOWN answering endpoints are remembered, the oldest is forgotten first. A burst wider than the limit
 * that sends one SYN per network evicts the oldest connections to endpoints that were never reached before.
 */

/** Answering endpoints remembered per guest. */
const MAX_KNOWN = 1024;
/** A lane with at most this many entries is short. */
const SHORT_LANE = 8;

/** Order in which connections are dialled: lower numbers first. */
export const DialPriority = { known: 0, shortLane: 1, longLane: 2 } as const;

/** Connections to one /24, oldest first. */
class Lane<F> {
  readonly key: number;
  readonly group: LaneGroup<F>;
  size = 0;
  /** Power of two of its size; −1 = empty. */
  rank = -1;
  first: HalfOpenEntry<F> | null = null;
  last: HalfOpenEntry<F> | null = null;
  before: Lane<F> | null = null;
  after: Lane<F> | null = null;

  constructor(key: number, group: LaneGroup<F>) {
    this.key = key;
    this.group = group;
  }
}

/** The lanes of known endpoints, or those of all others. */
class LaneGroup<F> {
  readonly lanes = new Map<number, Lane<F>>();
  /** The first and the last lane of each rank. */
  readonly heads: (Lane<F> | null)[] = new Array<Lane<F> | null>(32).fill(null);
  readonly tails: (Lane<F> | null)[] = new Array<Lane<F> | null>(32).fill(null);
  size = 0;

  /** The oldest connection of one of the longest lanes. */
  victim(): F | null {
    for (let rank = 31; rank >= 0; rank--) {
      const entry = this.heads[rank]?.first;
      if (entry) return entry.flow;
    }
    return null;
  }

  /** Moves the lane to the list of its size. */
  updateRank(lane: Lane<F>): void {
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

/** A connection's links in its lane. */
export class HalfOpenEntry<F> {
  readonly flow: F;
  lane: Lane<F> | null = null;
  before: HalfOpenEntry<F> | null = null;
  after: HalfOpenEntry<F> | null = null;

  constructor(flow: F) {
    this.flow = flow;
  }
}

export class HalfOpenTable<F> {
  readonly #unknownLanes = new LaneGroup<F>();
  readonly #knownLanes = new LaneGroup<F>();
  readonly #known = new Set<number>();

  get size(): number {
    return this.#unknownLanes.size + this.#knownLanes.size;
  }

  /**
   * `address` selects the lane; `endpoint` is any number that identifies who is to answer. Returns its DialPriority.
   */
  add(entry: HalfOpenEntry<F>, address: number, endpoint: number): number {
    const known = this.#known.has(endpoint);
    const group = known ? this.#knownLanes : this.#unknownLanes;
    const key = address >>> 8;
    let lane = group.lanes.get(key);
    if (!lane) {
      lane = new Lane(key, group);
      group.lanes.set(key, lane);
    }
    entry.lane = lane;
    entry.before = lane.last;
    if (lane.last) lane.last.after = entry;
    else lane.first = entry;
    lane.last = entry;
    lane.size++;
    group.size++;
    group.updateRank(lane);
    if (known) return DialPriority.known;
    return lane.size <= SHORT_LANE ? DialPriority.shortLane : DialPriority.longLane;
  }

  /** The connection is established, or was abandoned. Does nothing for an entry that is in no lane. */
  delete(entry: HalfOpenEntry<F>): void {
    const lane = entry.lane;
    if (!lane) return;
    if (entry.before) entry.before.after = entry.after;
    else lane.first = entry.after;
    if (entry.after) entry.after.before = entry.before;
    else lane.last = entry.before;
    entry.lane = entry.before = entry.after = null;
    lane.size--;
    lane.group.size--;
    lane.group.updateRank(lane);
  }

  /** The endpoint has answered. */
  remember(endpoint: number): void {
    if (this.#known.has(endpoint)) return;
    this.#known.add(endpoint);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value as number);
  }

  /** The endpoint no longer answers. */
  forget(endpoint: number): void {
    this.#known.delete(endpoint);
  }

  /** The connection to evict; null when there is none. */
  victim(): F | null {
    const spareKnown = this.#knownLanes.size <= this.#unknownLanes.size;
    return spareKnown ? this.#unknownLanes.victim() : this.#knownLanes.victim();
  }
}
