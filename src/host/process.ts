/** State of processes, from `/proc` or, on macOS, from `ps`. */
import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { run } from './exec.ts';

/** Task flag: exiting. */
const PF_EXITING = 0x4;

/**
 * True while the process runs and has `word` among its arguments. An exiting process loses its arguments with its
 * memory long before it releases its files, locks and taps: it counts as running until its last thread has released
 * them.
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
 * Limit of open descriptors of one of our processes, by default this one; Node has raised it to the hard limit. A low
 * figure that every system allows if it is unknown.
 */
export function openFilesLimit(pid: number | 'self' = 'self'): number {
  if (process.platform !== 'linux') return 8192;
  const row = /^Max open files +(\d+|unlimited)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'));
  return row?.[1] === undefined ? 1024 : row[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(row[1]);
}
