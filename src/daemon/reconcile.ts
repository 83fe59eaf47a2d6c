/** Applies the desired state to the engine: one run at a time, and one more for all requests that arrive meanwhile. */

import type { Engine, EngineProblem, ObservedState } from '../engine/engine.ts';
import { monotonicMs } from '../lib/clock.ts';
import type { Context } from './context.ts';
import { desiredState } from './desired.ts';

/** Age up to which an observation is used again. */
const OBSERVATION_AGE_MS = 150;

export class Reconciler {
  #ctx: Context;
  #running: Promise<EngineProblem[]> | null = null;
  #queued: Promise<EngineProblem[]> | null = null;
  #observed: { at: number; state: Promise<ObservedState> } | null = null;
  #addresses = new Map<string, number | null>();
  #watched: Engine | null = null;
  readonly #listeners = new Set<(state: ObservedState) => void>();

  constructor(ctx: Context) {
    this.#ctx = ctx;
  }

  /** Applies the state as it is stored when the run begins. Resolves with what failed. */
  apply(): Promise<EngineProblem[]> {
    this.#observed = null;
    if (!this.#running) {
      this.#running = this.#once().finally(() => {
        this.#running = null;
      });
      return this.#running;
    }
    this.#queued ??= this.#running
      .catch(() => [])
      .then(() => {
        this.#queued = null;
        return this.apply();
      });
    return this.#queued;
  }

  /** Resolves when no run is under way, failed or not: listeners of VMs that exited have closed their ports by then. */
  async settled(): Promise<void> {
    await (this.#queued ?? this.#running)?.catch(() => []);
  }

  async #once(): Promise<EngineProblem[]> {
    const engine = await this.#ctx.engine();
    const problems = await engine.apply(desiredState(this.#ctx));
    for (const p of problems) this.#ctx.events.emit('network.problem', `${p.object}: ${p.message}`);
    if (this.#watched !== engine) {
      this.#watched = engine;
      engine.watch(() => this.#changed().catch((e: Error) => this.#ctx.log.warn({ error: e.message }, 'cannot observe the networks')));
    }
    this.#observed = null;
    return problems;
  }

  /** What the engine observes, at most 150 ms old. */
  async observe(): Promise<ObservedState> {
    if (!this.#observed || monotonicMs() - this.#observed.at > OBSERVATION_AGE_MS) {
      this.#observed = { at: monotonicMs(), state: this.#ctx.engine().then((e) => e.observe()) };
    }
    return this.#observed.state;
  }

  /** Calls back with what is observed after each change, and now and then. */
  onObserved(listener: (state: ObservedState) => void): void {
    this.#listeners.add(listener);
  }

  async #changed(): Promise<void> {
    this.#observed = null;
    const state = await this.observe();
    for (const listener of this.#listeners) listener(state);
    for (const nic of state.nics) {
      if (this.#addresses.get(nic.id) === nic.ip) continue;
      this.#addresses.set(nic.id, nic.ip);
      const vm = this.#ctx.vms.find(nic.id);
      if (vm) this.#ctx.events.emit('vm.address', nic.ip === null ? 'has no address' : 'has a new address', vm);
    }
  }
}
