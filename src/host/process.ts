/** Processes, as `/proc` or, where there is none, `ps` tells of them. */
import { readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { run } from './exec.ts';

/** True while the process of that pid lives and was started with that word among its arguments. */
export async function runsWith(pid: number, word: string): Promise<boolean> {
  if (process.platform !== 'linux') {
    const line = await run('ps', ['-o', 'stat=,command=', '-p', String(pid)]).catch(() => '');
    return !/^[ZX]/.test(line.trim()) && line.trim().split(' ').includes(word);
  }
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  if (!line.split('\0').includes(word)) return false;
  const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return state !== '' && !/\) [ZX] /.test(state);
}

/** Descriptors that this process may have open; Node has raised the limit as far as it may be. Where it is not told, a number that every system gives. */
export function openFilesLimit(): number {
  if (process.platform !== 'linux') return 8192;
  const row = /^Max open files +(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
  return row?.[1] === undefined ? 1024 : row[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(row[1]);
}
