/** How the daemon and the helper processes are: what `anka doctor`, `anka daemon status` and the metrics report. */
import type { DoctorFinding } from '../api/types.ts';
import type { HelperHealth } from '../engine/engine.ts';
import type { Context } from './context.ts';

export type ProcessHealth = Omit<HelperHealth, 'name'> & { name: HelperHealth['name'] | 'daemon' };

/** The daemon first. `errors`: unexpected ones of the daemon. */
export async function processHealth(ctx: Context, errors: number): Promise<ProcessHealth[]> {
  const engine = await ctx.engine().catch(() => null);
  const daemon: ProcessHealth = { name: 'daemon', title: 'the daemon', log: ctx.paths.log, unexpectedErrors: errors, hangs: 0 };
  return [daemon, ...(engine?.helpers() ?? [])];
}

/** Nothing for processes that are well. */
export function processFindings(all: readonly ProcessHealth[]): DoctorFinding[] {
  return all.flatMap(({ title, log, unexpectedErrors, hangs }) => {
    const remedy = `report it with the log ${log}`;
    const found: DoctorFinding[] = [];
    if (unexpectedErrors > 0)
      found.push({ id: 'process.errors', level: 'warning', message: `${title} has survived unexpected errors: ${unexpectedErrors}`, remedy });
    if (hangs > 0) found.push({ id: 'process.hung', level: 'warning', message: `${title} did not answer and was replaced, times: ${hangs}`, remedy });
    return found;
  });
}
