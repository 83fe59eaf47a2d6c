/** Commands that take several VMs: which ones, and one request for each (B3). */
import type { VmListEntry, VmStatus } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { Session } from '../session.ts';

export interface Selection {
  all?: boolean;
}

/** The VMs that the command line names, or with `--all` those in one of these states. */
export async function selectVms(s: Session, names: readonly string[], o: Selection, states: readonly VmStatus[]): Promise<string[]> {
  if (o.all && names.length > 0) throw new AnkaError('usage', "Name VMs or use '--all', not both.");
  if (!o.all && names.length === 0) throw new AnkaError('usage', "Missing argument 'VM...'.");
  if (!o.all) return [...names];
  return (await (await s.daemon()).get<VmListEntry[]>('/v1/vms')).filter((v) => states.includes(v.status)).map((v) => v.name);
}

/** Calls `request` for each VM, also after a failure. Throws the last failure and prints those before it. */
export async function forEachVm(s: Session, refs: readonly string[], request: (ref: string) => Promise<unknown>): Promise<unknown> {
  let failure: unknown;
  let result: unknown = {};
  for (const ref of refs) {
    try {
      result = await request(ref);
    } catch (cause) {
      if (failure !== undefined) s.out.note(`anka: ${(failure as Error).message}`);
      failure = cause;
    }
  }
  if (failure !== undefined) throw failure;
  return result;
}
