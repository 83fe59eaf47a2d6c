/**
 * Whether the host's peer still answers: nothing is acknowledged to the guest on behalf of a dead one.
 *
 * Theory of operation. A guest's payload is acknowledged as soon as the host's kernel has it. Alone, that would hide a
 * dead peer: the guest's keep-alive (RFC 9293 3.8.4) and its user timeout (RFC 5482) would never find it. So an ACK
 * needs a sign of life: something was heard of the peer within the flow's patience, which is 100 ms or a little more
 * than two round trips. While payload flows in either direction there always is one, and nothing is asked for but the
 * time. Otherwise the host's kernel is asked when it last heard the peer. If that is too long ago, the ACK is held, and
 * what is sent to the guest repeats the last one. The kernel is asked again after 2 ms, and then at growing intervals.
 * The payload itself makes a living peer answer; a keep-alive of the guest makes the kernel send its own.
 *
 * So after a pause the guest waits for its first ACK as long as without a proxy in between. Held payload is passed on
 * to the host all the same: what the peer's first sign of life acknowledges is everything.
 *
 * Limits. What a guest sends within the patience after the last sign of life is acknowledged although the peer may have
 * died meanwhile. A client's keep-alive towards a guest is answered by the host's kernel. Linux only: where the kernel
 * cannot be asked, every peer counts as alive.
 */
import type { TcpFlow } from './flow.ts';
import { Timer, TimerWheel } from './timers.ts';

/** How long the first ACK is held before the host is asked again, then the first and the longest interval, ms. */
const FIRST_LOOK = 2;
const FIRST_INTERVAL = 8;
const LONGEST_INTERVAL = 500;
/** The host counts in ticks of its clock: two signs closer than this may be the same, ms. */
const TICK = 10;

/** What the host's sockets know and do. */
export interface PeerSigns {
  /** ms since the peer was last heard; 0 where that is unknown. May set `flow.life.patience`. */
  sinceHeard(flow: TcpFlow): number;
  /** Has the kernel ask the peer for a sign of life now, and later (false) no more. */
  askPeer(flow: TcpFlow, on: boolean): void;
}

export class PeerWatch {
  readonly #signs: PeerSigns;
  readonly #alive: (flow: TcpFlow) => void;
  readonly #wheel: TimerWheel<TcpFlow>;
  #fresh: TcpFlow[] = [];
  #freshAt = Number.POSITIVE_INFINITY;
  /** ACKs that were held; and those of them that were not answered at the first look. */
  held = 0;

  /** `alive` sends the ACK that was held. */
  constructor(signs: PeerSigns, alive: (flow: TcpFlow) => void, now: number) {
    this.#signs = signs;
    this.#alive = alive;
    this.#wheel = new TimerWheel(now);
  }

  /** The host's side has received something, or has connected. The caller sends the ACK that may be due. */
  heard(flow: TcpFlow, now: number): void {
    const { life } = flow;
    life.heardAt = now;
    if (life.held) this.#release(flow);
  }

  /**
   * The guest is about to be owed an ACK: holds it if the peer shows no sign of life. `bare`: the segment has nothing
   * for the peer that the peer would answer. Call it before `rcvNxt` moves.
   */
  acknowledging(flow: TcpFlow, bare: boolean, now: number): void {
    const { life } = flow;
    if (life.held) {
      if (bare && !life.asked) this.#ask(flow);
      return;
    }
    if (now - life.heardAt <= life.patience) return;
    life.heardAt = Math.max(life.heardAt, now - this.#signs.sinceHeard(flow));
    if (now - life.heardAt <= life.patience) return;
    this.held++;
    life.held = true;
    life.acknowledged = flow.rcvNxt;
    life.since = now;
    life.interval = FIRST_INTERVAL;
    if (bare) this.#ask(flow);
    this.#fresh.push(flow);
    this.#freshAt = Math.min(this.#freshAt, now + FIRST_LOOK);
  }

  #ask(flow: TcpFlow): void {
    flow.life.asked = true;
    this.#signs.askPeer(flow, true);
  }

  #release(flow: TcpFlow): void {
    const { life } = flow;
    life.held = false;
    if (life.timer) this.#wheel.remove(life.timer);
    if (life.asked) {
      life.asked = false;
      this.#signs.askPeer(flow, false);
    }
  }

  /** The flow ends: nothing is held any more, and no ACK sent. */
  forget(flow: TcpFlow): void {
    if (flow.life.held) this.#release(flow);
  }

  nextAt(): number {
    return Math.min(this.#freshAt, this.#wheel.nextAt());
  }

  run(now: number): void {
    if (now >= this.#freshAt) {
      const fresh = this.#fresh;
      this.#fresh = [];
      this.#freshAt = Number.POSITIVE_INFINITY;
      for (const flow of fresh) this.#look(flow, now);
    }
    this.#wheel.run(now, (flow) => this.#look(flow, now));
  }

  #look(flow: TcpFlow, now: number): void {
    const { life } = flow;
    if (!life.held) return;
    const heardAt = now - this.#signs.sinceHeard(flow);
    if (heardAt > life.since - TICK) {
      life.heardAt = heardAt;
      this.#release(flow);
      this.#alive(flow);
      return;
    }
    life.timer ??= new Timer(flow);
    this.#wheel.set(life.timer, now + life.interval);
    life.interval = Math.min(LONGEST_INTERVAL, 2 * life.interval);
  }
}
