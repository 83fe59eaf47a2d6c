/**
 * The programs of no-touch bridges at the tcx hooks of the host's interfaces.
 *
 * Theory of operation: `tc` loads the programs as filters of an interface of ours, in a chain that no frame comes to.
 * From there they are attached by their numbers. Which of an interface's programs are ours is told by their names,
 * which are those of the functions in bpf/no-touch-bridge.bpf.c. A program is exchanged in place, so no frame passes
 * between the old one and the new. As the kernel tells nobody when a program is taken away, what was attached is
 * remembered, and looked for now and then.
 */
import type { BpfFilter } from '../../../host/tc.ts';
import { attachTcx, detachTcx, hasTcx, isAtTcx, listTcx, type TcxProgram } from '../../../host/tcx.ts';

/** In the order of attaching: the way out first, so that no answer is lost. */
const HOOKS = [
  { direction: 'egress', name: 'anka_nic_out' },
  { direction: 'ingress', name: 'anka_nic_in' },
] as const;

/** The chain of the filters that are there to be attached elsewhere: nothing jumps to it. */
export const TCX_STORE = 97;

type Hook = (typeof HOOKS)[number];

const oursAt = (index: number, hook: Hook): TcxProgram[] => listTcx(index, hook.direction).filter((p) => p.name === hook.name);

export class UplinkTcx {
  /** By interface index, with the programs' numbers. */
  #attached = new Map<number, readonly (Hook & { id: number })[]>();

  /** Whether the interface has programs of ours, be they old ones, in both directions. */
  has(index: number): boolean {
    return HOOKS.every((h) => oursAt(index, h).length > 0);
  }

  /**
   * Attaches the programs that are stored among these filters, and no others of ours. True when that changed something.
   */
  bring(index: number, filters: readonly BpfFilter[]): boolean {
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

  /** Takes everything of ours off an interface, as far as we may use its hooks. */
  part(index: number): void {
    this.#attached.delete(index);
    if (!hasTcx(index)) return;
    for (const h of HOOKS) for (const p of oursAt(index, h)) detachTcx(index, h.direction, p.id);
  }

  /** Whether something is not as `bring` left it. It is told once, as `bring` is to come again. */
  isDisturbed(): boolean {
    const before = this.#attached.size;
    for (const [index, programs] of this.#attached) if (!programs.every((p) => isAtTcx(index, p.direction, p.id))) this.#attached.delete(index);
    return this.#attached.size < before;
  }
}
