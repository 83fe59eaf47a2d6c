/** Processes, as `/proc` or, where there is none, `ps` tells of them. */
import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { run } from './exec.ts';

/** Of the kernel's flags of a task: it is on its way out. */
const PF_EXITING = 0x4;

/**
 * True while the process of that pid lives and was started with that word among its arguments. A process that ends has
 * lost its arguments with its memory long before it lets go of its files, locks and taps: it lives until the last of
 * its threads has done that.
 */
export async function runsWith(pid: number, word: string): Promise<boolean> {
  if (process.platform !== 'linux') {
    const line = await run('ps', ['-o', 'stat=,command=', '-p', String(pid)]).catch(() => '');
    return !/^[ZX]/.test(line.trim()) && line.trim().split(' ').includes(word);
  }
  const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
  if (line !== '' && !line.split('\0').includes(word)) return false;
  const [, state, flags] = /\) (\S)(?: -?\d+){5} (\d+) /.exec(await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')) ?? [];
  if (state === undefined) return false;
  if (/[ZX]/.test(state)) return (await readdir(`/proc/${pid}/task`).catch(() => [])).length > 1;
  return line !== '' || (Number(flags) & PF_EXITING) !== 0;
}

/** True until the process exits; one that only waits to be reaped has exited. Which program it is, is not checked. */
export function isAlive(pid: number): boolean {
  try {
    if (process.platform === 'linux') return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    return (cause as NodeJS.ErrnoException).code === 'EPERM'; // of another user
  }
}

/**
 * Descriptors that a process of ours, by default this one, may have open; Node has raised the limit as far as it may
 * be. Where it is not told, a number that every system gives.
 */
export function openFilesLimit(pid: number | 'self' = 'self'): number {
  if (process.platform !== 'linux') return 8192;
  const row = /^Max open files +(\d+|unlimited)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'));
  return row?.[1] === undefined ? 1024 : row[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(row[1]);
}
