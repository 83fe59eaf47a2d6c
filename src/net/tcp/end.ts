/**
 * How connections end: both FINs acknowledged and TIME-WAIT, a reset of either side, or given up.
 *
 * Theory of operation. When both directions are done the host socket is closed, and whoever ended first waits: if that
 * was we, the flow lingers in TIME-WAIT for late segments. A flow that is removed gives back all it had; what still
 * holds a reference sees `Happened.gone`.
 *
 * Limits. TIME-WAIT lasts 2 s on this local link, and a new SYN ends it.
 *
 * Read first: RFC 9293 3.6, 3.10.7.4.
 */
import { seqDiff } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import type { TcpParts } from './context.ts';
import { Happened, type TcpFlow } from './flow.ts';

const TIME_WAIT = 2000;

export class TcpEnds {
  readonly #p: TcpParts;

  constructor(parts: TcpParts) {
    this.#p = parts;
  }

  /** Both directions have ended: the socket is closed, and the flow removed, or kept for late segments. */
  finish(flow: TcpFlow): void {
    const p = this.#p;
    if (!(flow.events & Happened.hostDone)) {
      flow.events |= Happened.hostDone;
      p.host.close(flow);
    }
    // the one whose FIN was first waits for late segments; when that was the guest, it waits itself
    if (flow.finFirst) {
      const state = flow.owner;
      if (state.timeWait.size >= p.limits.timeWait) this.evict(state.timeWait.values().next().value as TcpFlow);
      flow.events |= Happened.timeWait;
      state.timeWait.add(flow);
      p.lingering++;
      p.timers.set(flow, p.now + TIME_WAIT);
    } else this.remove(flow);
  }

  /** A segment in TIME-WAIT. True when it is a SYN for which the old connection has made way. */
  lingering(flow: TcpFlow, flags: number, seq: number, length: number): boolean {
    const p = this.#p;
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.remove(flow);
    } else if (flags & TcpFlag.syn && !(flags & TcpFlag.ack) && seqDiff(seq, flow.rcvNxt) > 0) {
      this.remove(flow);
      return true;
    } else if (length > 0 || flags & (TcpFlag.fin | TcpFlag.syn)) {
      p.timers.set(flow, p.now + TIME_WAIT);
      p.sender.acknowledge(flow);
    }
    return false;
  }

  /** It makes room for another; the guest hears nothing, and comes again if it still wants to. */
  evict(flow: TcpFlow): void {
    this.#p.counts.evicted++;
    this.abandon(flow);
  }

  guestReset(flow: TcpFlow): void {
    this.#p.counts.guestResets++;
    this.abandon(flow);
  }

  /** A RST to the guest. */
  resetGuest(flow: TcpFlow): void {
    if (flow.owner.gone || flow.events & Happened.timeWait) return;
    if (!flow.owner.port.queue.mayTell()) this.#p.counts.noRoom++;
    else if (flow.events & Happened.synIn) this.#p.emit.control(flow, TcpFlag.rst | TcpFlag.ack, flow.sndNxt);
  }

  /** The host's side is reset, the flow forgotten; the guest hears nothing. */
  abandon(flow: TcpFlow): void {
    if (flow.events & Happened.gone) return;
    if (!(flow.events & Happened.hostDone)) {
      flow.events |= Happened.hostDone;
      this.#p.host.reset(flow);
    }
    this.remove(flow);
  }

  remove(flow: TcpFlow): void {
    if (flow.events & Happened.gone) return;
    flow.events |= Happened.gone;
    this.#p.table.remove(flow);
    this.#p.timers.remove(flow);
    const state = flow.owner;
    state.flows.delete(flow);
    (flow.forwarded ? state.halfOpenIn : state.halfOpenOut).delete(flow.halfOpen);
    if (state.timeWait.delete(flow)) this.#p.lingering--;
    flow.send.clear();
    flow.early?.clear();
    this.#p.emit.giveTemplate(flow.template);
    flow.onAnswer = null;
  }
}
