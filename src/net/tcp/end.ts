/**
 * How connections end: both FINs acknowledged and TIME-WAIT, a reset by either side, or abandoned.
 *
 * Theory of operation. When both directions are finished the host socket is closed. The side that sent its FIN first
 * waits for late segments: if that was this side, the flow stays in TIME-WAIT. A removed flow returns everything it
 * held. Who still has a reference sees `TcpEvents.removed`.
 *
 * Limits. TIME-WAIT lasts 2 s on this local link, and a new SYN ends it.
 *
 * Read first: RFC 9293 3.6, 3.10.7.4.
 */
import { seqDiff } from '../../wire/sequence.ts';
import { TcpFlag } from '../../wire/tcp.ts';
import type { TcpContext } from './context.ts';
import { TcpEvents, type TcpFlow } from './flow.ts';

/** ms. */
const TIME_WAIT = 2000;

export class TcpEnds {
  readonly #context: TcpContext;

  constructor(context: TcpContext) {
    this.#context = context;
  }

  /** Both directions are finished: closes the socket, then removes the flow or keeps it in TIME-WAIT. */
  finish(flow: TcpFlow): void {
    const context = this.#context;
    context.peers.forget(flow);
    if (!(flow.events & TcpEvents.hostClosed)) {
      flow.events |= TcpEvents.hostClosed;
      context.host.close(flow);
    }
    // if the guest's FIN was first, the guest itself is in TIME-WAIT
    if (flow.events & TcpEvents.finSentFirst) {
      const state = flow.owner;
      if (state.timeWait.size >= context.limits.timeWait) this.evict(state.timeWait.values().next().value as TcpFlow);
      flow.events |= TcpEvents.timeWait;
      state.timeWait.add(flow);
      context.lingering++;
      context.timers.set(flow.timer, context.now + TIME_WAIT);
    } else this.remove(flow);
  }

  /** A segment in TIME-WAIT. True when it is a SYN for which the old connection was removed. */
  lingering(flow: TcpFlow, flags: number, seq: number, length: number): boolean {
    const context = this.#context;
    if (flags & TcpFlag.rst) {
      if (seq === flow.rcvNxt) this.remove(flow);
    } else if (flags & TcpFlag.syn && !(flags & TcpFlag.ack) && seqDiff(seq, flow.rcvNxt) > 0) {
      this.remove(flow);
      return true;
    } else if (length > 0 || flags & (TcpFlag.fin | TcpFlag.syn)) {
      context.timers.set(flow.timer, context.now + TIME_WAIT);
      context.sender.acknowledge(flow);
    }
    return false;
  }

  /** Makes room for another flow. The guest is not notified, and retransmits its SYN if it still wants to connect. */
  evict(flow: TcpFlow): void {
    this.#context.counts.evicted++;
    this.abandon(flow);
  }

  guestReset(flow: TcpFlow): void {
    this.#context.counts.guestResets++;
    this.abandon(flow);
  }

  /** Sends a RST to the guest. */
  resetGuest(flow: TcpFlow): void {
    if (flow.owner.removed || flow.events & TcpEvents.timeWait) return;
    if (!flow.owner.port.queue.canSendControl()) this.#context.counts.noRoom++;
    else if (flow.events & TcpEvents.synReceived) this.#context.emit.control(flow, TcpFlag.rst | TcpFlag.ack, flow.sndNxt);
  }

  /** Resets the host's side and removes the flow. The guest is not notified. */
  abandon(flow: TcpFlow): void {
    if (flow.events & TcpEvents.removed) return;
    if (!(flow.events & TcpEvents.hostClosed)) {
      flow.events |= TcpEvents.hostClosed;
      this.#context.host.reset(flow);
    }
    this.remove(flow);
  }

  remove(flow: TcpFlow): void {
    if (flow.events & TcpEvents.removed) return;
    flow.events |= TcpEvents.removed;
    this.#context.table.remove(flow);
    this.#context.timers.remove(flow.timer);
    const state = flow.owner;
    state.flows.delete(flow);
    (flow.forwarded ? state.halfOpenIn : state.halfOpenOut).delete(flow.halfOpen);
    if (state.timeWait.delete(flow)) this.#context.lingering--;
    flow.ack.due = false;
    this.#context.peers.forget(flow);
    flow.send.clear();
    flow.outOfOrder?.clear();
    this.#context.emit.releaseHeader(flow.header);
    flow.onAnswer = null;
  }
}
