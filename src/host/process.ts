/** State of processes, from `/proc` or, on macOS, from `ps`. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
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
  if (/[ZX]/.test(state)) return isAlive(pid);
  return line !== '' || (Number(flags) & PF_EXITING) !== 0;
}

/** A process, whose pid may belong to another one later. */
export interface ProcessId {
  pid: number;
  /** Start time as the system reports it: no process can change its own. */
  started: string;
}

/** The process that has this pid now; null if there is none. */
export async function identify(pid: number): Promise<ProcessId | null> {
  const started = await startTime(pid);
  return started === null ? null : { pid, started };
}

async function startTime(pid: number): Promise<string | null> {
  if (process.platform !== 'linux') return (await run('ps', ['-o', 'lstart=', '-p', String(pid)]).catch(() => '')).trim() || null;
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
  return /\) \S(?: -?\d+){18} (\d+) /.exec(text)?.[1] ?? null;
}

/** True until the last thread of the process has released its files, locks and taps. */
export async function isRunning({ pid, started }: ProcessId): Promise<boolean> {
  if ((await startTime(pid)) !== started) return false;
  return isAlive(pid);
}

/** What a VM's process is known by. */
export interface ProcessMarks {
  /** User that it runs as: no process without privileges can change its own. */
  uid: number;
  /** Two of its arguments, one after the other. It may change them. */
  arguments: readonly [string, string];
  /** A file that it has open. Counts if no other program runs as that user: not if it is our own. */
  file: string;
}

/** Processes of the user that have the arguments, or the file open. */
export async function findProcesses(marks: ProcessMarks): Promise<ProcessId[]> {
  const found = process.platform === 'linux' ? linuxProcesses(marks) : await otherProcesses(marks);
  return (await Promise.all(found.map(identify))).filter((p) => p !== null);
}

/** The user that a process runs as; null if it has exited. */
export function userOf(pid: number): number | null {
  try {
    const user = /^Uid:\t(\d+)\t/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    return user === undefined ? null : Number(user);
  } catch {
    return null;
  }
}

/** Kills a process if it runs as this user: its pid may belong to another one by now. */
export function killOf(uid: number, pid: number): void {
  if (process.platform === 'linux' && userOf(pid) !== uid) return;
  try {
    process.kill(pid, 'SIGKILL');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause; // else it has just exited
  }
}

function linuxProcesses({ uid, arguments: words, file }: ProcessMarks): number[] {
  const stat = uid === process.getuid?.() ? undefined : statSync(file, { throwIfNoEntry: false });
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => userOf(pid) === uid && (hasArguments(pid, words) || (stat !== undefined && hasOpen(pid, stat))));
}

function hasArguments(pid: number, [first, second]: ProcessMarks['arguments']): boolean {
  try {
    const args = readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0');
    return args.some((a, i) => a === first && args[i + 1] === second);
  } catch {
    return false; // exited meanwhile
  }
}

function hasOpen(pid: number, file: { dev: number; ino: number }): boolean {
  const dir = `/proc/${pid}/fd`;
  try {
    return readdirSync(dir).some((fd) => {
      const open = statSync(`${dir}/${fd}`, { throwIfNoEntry: false });
      return open?.dev === file.dev && open.ino === file.ino;
    });
  } catch {
    return false; // exited meanwhile
  }
}

async function otherProcesses({ uid, arguments: words }: ProcessMarks): Promise<number[]> {
  const rows = (await run('ps', ['-axo', 'pid=,uid=,command='])).split('\n').map((l) => l.trim().split(/\s+/));
  return rows.filter(([, user, ...line]) => user === String(uid) && line.join(' ').includes(words.join(' '))).map(([pid]) => Number(pid));
}

/**
 * True until the last thread of the process has exited, and with it its files, sockets and locks; one that only waits
 * to be reaped has exited. Which program it is, is not checked.
 */
export function isAlive(pid: number): boolean {
  try {
    if (process.platform === 'linux') return !/\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8')) || readdirSync(`/proc/${pid}/task`).length > 1;
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
  let limits = '';
  try {
    limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
  } catch {
    // it exited meanwhile, or no descriptor is left
  }
  const row = /^Max open files +(\d+|unlimited)/m.exec(limits);
  return row?.[1] === undefined ? 1024 : row[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(row[1]);
}
