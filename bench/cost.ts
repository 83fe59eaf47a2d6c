/** Memory and CPU time of processes, from /proc. */
import { readFileSync } from 'node:fs';
import { memoryOf } from '../test/world/world.ts';

/** Resident memory of processes, MiB. */
export function resident(pids: readonly number[]): number {
  return pids.reduce((sum, p) => sum + memoryOf(p) / 2 ** 20, 0);
}

/** CPU seconds that processes have used. */
export function cpu(pids: readonly number[]): number {
  return pids.reduce((sum, p) => {
    const text = readFileSync(`/proc/${p}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) / 100;
  }, 0);
}
