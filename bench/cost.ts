/** Memory and CPU time of processes, from /proc. */
import { readdirSync, readFileSync } from 'node:fs';
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

/** CPU seconds of a process and its descendants, those that exited included, without those of which `skip` is true. */
export function cpuOfTree(pid: number, skip: (pid: number) => boolean): number {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const own = [11, 12, 13, 14].reduce((sum, i) => sum + Number(fields[i]), 0) / 100;
  const children = readdirSync(`/proc/${pid}/task`).flatMap((t) =>
    readFileSync(`/proc/${pid}/task/${t}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
  return children.filter((c) => !skip(c)).reduce((sum, c) => sum + cpuOfTree(c, skip), own);
}
