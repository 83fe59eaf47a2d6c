/**
 * The programs of no-touch bridges at the tcx hooks of the host's interfaces.
 *
 * Theory of operation: the programs are filters of an interface of ours, in a chain that no frame reaches. They are
 * attached from there by their ids. Our programs are recognized by their names, which are those of the functions in
 * bpf/no-touch-bridge.bpf.c. A program is replaced in place, so no frame passes between the old one and the new. The
 * kernel sends no notification when a program is detached, so what was attached is remembered and checked from time to
 * time.
 */
import type { BpfFilter } from '../../../host/tc.ts';
import { attachTcx, detachTcx, hasTcx, isAtTcx, listTcx, type TcxProgram } from '../../../host/tcx.ts';

/** In the order of attaching: outbound first, so that no answer is lost. */
const HOOKS = [
  { direction: 'egress', name: 'anka_nic_out' },
  { direction: 'ingress', name: 'anka_nic_in' },
] as const;

/** The chain of filters that are only loaded, to be attached elsewhere: nothing jumps to it. */
export const TCX_STORE = 97;

type Hook = (typeof HOOKS)[number];

const oursAt = (index: number, hook: Hook): TcxProgram[] => listTcx(index, hook.direction).filter((p) => p.name === hook.name);

export class UplinkTcx {
  /** By interface index, with the programs' ids. */
  #attached = new Map<number, readonly (Hook & { id: number })[]>();

  /** Whether the interface has programs of ours in both directions, old ones included. */
  has(index: number): boolean {
    return HOOKS.every((h) => oursAt(index, h).length > 0);
  }

  /** Attaches the programs stored among these filters, and detaches all others of ours. True if it changed anything. */
  attach(index: number, filters: readonly BpfFilter[]): boolean {
    const programs = HOOKS.map((h) => ({ ...h, id: filters.find((f) => f.direction === h.direction && f.chain === TCX_STORE)?.id ?? 0 }));
    let changed = false;
    for (const p of programs) {
      const found = oursAt(index, p);
      const others = found.filter((o) => o.id !== p.id);
      changed ||= others.length > 0 || found.length === 0;
      if (others.length === found.length) attachTcx(index, p.direction, p.id, others.shift()?.id);
      for (const o of others) detachTcx(index, p.direction, o.id);
    }
    this.#attached.set(index, programs);
    return changed;
  }

  /** Detaches every program of ours from an interface, if we may use its hooks. */
  detach(index: number): void {
    this.#attached.delete(index);
    if (!hasTcx(index)) return;
    for (const h of HOOKS) for (const p of oursAt(index, h)) detachTcx(index, h.direction, p.id);
  }

  /** Whether somebody detached a program since `attach`. True once, as the caller is to call `attach` again. */
  hasDrifted(): boolean {
    const before = this.#attached.size;
    for (const [index, programs] of this.#attached) if (!programs.every((p) => isAtTcx(index, p.direction, p.id))) this.#attached.delete(index);
    return this.#attached.size < before;
  }
}
