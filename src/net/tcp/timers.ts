/**
 * When flows want to be called, and how long a retransmission waits.
 *
 * Theory of operation. A wheel of slots; a flow is in one slot at most, the one of the deadline it had when it was put
 * there. A deadline that moves later costs nothing: the slot is looked at, the flow moved on. So the usual case, every
 * ACK pushing the retransmission timer away, is one store. `nextAt` is the one deadline of the whole path.
 *
 * Limits. Deadlines are kept to the slot's width: a call comes up to 16 ms late, never early.
 *
 * Read first: RFC 6298, RFC 8985 7.
 */
import type { TcpFlow } from './flow.ts';

/** Milliseconds of a slot, and the count of slots. */
const WIDTH = 16;
const SLOTS = 1024;
/**
 * Bounds of a retransmission timeout, ms. RFC 6298 2.4 asks for a second; the guest's link is local, so that Linux's
 * 200 ms is already cautious.
 */
export const MIN_RTO = 200;
export const MAX_RTO = 60_000;
/**
 * Silence before a probe, ms, at least; and how long the ACK of a single segment may be kept back by the guest (Linux
 * and Windows: 40).
 */
const MIN_PROBE = 10;
const MAX_ACK_DELAY = 50;

export class TcpTimers {
  readonly #slots: (TcpFlow | null)[] = new Array<TcpFlow | null>(SLOTS).fill(null);
  /** The slot, counted from the beginning of time, up to which all is done. */
  #done: number;
  #count = 0;

  constructor(now: number) {
    this.#done = Math.floor(now / WIDTH);
  }

  /** The flow wants to be called at `deadline` (ms; Infinity = not at all). */
  set(flow: TcpFlow, deadline: number): void {
    flow.deadline = deadline;
    if (deadline === Number.POSITIVE_INFINITY) return;
    const slot = this.#slotOf(deadline);
    if (flow.slot >= 0) {
      if (flow.slot <= slot) return;
      this.remove(flow);
    }
    this.#insert(flow, slot);
  }

  #slotOf(deadline: number): number {
    const slot = Math.floor(deadline / WIDTH) + 1;
    return Math.min(Math.max(slot, this.#done + 1), this.#done + SLOTS - 1);
  }

  #insert(flow: TcpFlow, slot: number): void {
    const i = slot % SLOTS;
    flow.slot = slot;
    flow.before = null;
    flow.after = this.#slots[i];
    if (flow.after) flow.after.before = flow;
    this.#slots[i] = flow;
    this.#count++;
  }

  remove(flow: TcpFlow): void {
    if (flow.slot < 0) return;
    if (flow.before) flow.before.after = flow.after;
    else this.#slots[flow.slot % SLOTS] = flow.after;
    if (flow.after) flow.after.before = flow.before;
    flow.before = flow.after = null;
    flow.slot = -1;
    this.#count--;
  }

  /** When `run` wants to be called; Infinity when nobody waits. */
  nextAt(): number {
    if (this.#count === 0) return Number.POSITIVE_INFINITY;
    for (let s = this.#done + 1; s < this.#done + SLOTS; s++) if (this.#slots[s % SLOTS]) return s * WIDTH;
    return Number.POSITIVE_INFINITY;
  }

  /** Calls every flow whose deadline has come. */
  run(now: number, call: (flow: TcpFlow) => void): void {
    const until = Math.floor(now / WIDTH);
    if (this.#count === 0) this.#done = Math.max(this.#done, until);
    while (this.#done < until) {
      const s = ++this.#done;
      let flow = this.#slots[s % SLOTS];
      this.#slots[s % SLOTS] = null;
      while (flow) {
        const next = flow.after;
        flow.before = flow.after = null;
        flow.slot = -1;
        this.#count--;
        if (flow.deadline <= now) {
          flow.deadline = Number.POSITIVE_INFINITY;
          // `call` may remove other flows: what is left of this list stays reachable from the slot
          this.#slots[s % SLOTS] = next;
          if (next) next.before = null;
          call(flow);
          flow = this.#slots[s % SLOTS];
          this.#slots[s % SLOTS] = null;
          continue;
        }
        if (flow.deadline !== Number.POSITIVE_INFINITY) this.#insert(flow, this.#slotOf(flow.deadline));
        flow = next!;
      }
    }
  }
}

/** Takes a measured round trip (ms) into account (RFC 6298 2). */
export function measure(flow: TcpFlow, sample: number): void {
  if (flow.srtt === 0) {
    flow.srtt = sample || 0.001;
    flow.rttvar = sample / 2;
  } else {
    flow.rttvar = 0.75 * flow.rttvar + 0.25 * Math.abs(flow.srtt - sample);
    flow.srtt = 0.875 * flow.srtt + 0.125 * sample;
  }
  flow.rto = Math.min(MAX_RTO, Math.max(MIN_RTO, flow.srtt + 4 * flow.rttvar));
}

/** How long a guest may be silent after what was sent last before it is probed, ms (RFC 8985 7.2). */
export function probeAfter(flow: TcpFlow): number {
  const single = flow.flight <= flow.mss;
  return Math.min(flow.rto, Math.max(MIN_PROBE, 2 * flow.srtt) + (single ? MAX_ACK_DELAY : 0));
}
