/**
 * Whether a process that owes an answer is hung, or only slow.
 *
 * Theory of operation: time alone proves nothing on a busy machine, so each look reads what the process does
 * (/proc/PID/stat). It is hung if it is stopped by a signal; if it has used much CPU time without an answer; or if all
 * its threads sleep, although there is something to answer. A process that waits for the CPU or for a disk is given
 * half a minute. Time counts only between looks that follow each other, as the one who looks may have been stopped.
 *
 * Limits: without /proc, only the half minute counts.
 */
import { readdirSync, readFileSync } from 'node:fs';

/** What a process does at a moment. */
export interface Activity {
  /** `stopped`: by SIGSTOP or alike. `waiting`: for the CPU, a disk, or unknown. */
  state: 'stopped' | 'asleep' | 'waiting';
  /** CPU time of its main thread so far, ms. */
  cpuMs: number;
}

/** Milliseconds in a tick of /proc (USER_HZ, 100 on all systems that Node supports). */
const TICK_MS = 10;
/** A stopped process has to be so for a second: a debugger or a snapshot may stop one for a moment. */
const STOPPED_MS = 1000;
/** CPU time without an answer. The longest turn of a helper's event loop takes a tenth of it. */
const BUSY_MS = 1500;
const ASLEEP_MS = 1500;
const ANY_MS = 30_000;

function parseStat(text: string): { state: string; cpuMs: number } | null {
  const [, state, user, system] = /\) (\S)(?: -?\d+){10} (\d+) (\d+) /.exec(text) ?? [];
  return state === undefined ? null : { state, cpuMs: (Number(user) + Number(system)) * TICK_MS };
}

/** What a process does now; null if it does not exist, or the system does not say. */
export function readActivity(pid: number): Activity | null {
  const dir = `/proc/${pid}/task`;
  try {
    const main = parseStat(readFileSync(`${dir}/${pid}/stat`, 'latin1'));
    if (!main) return null;
    if (main.state === 'T') return { state: 'stopped', cpuMs: main.cpuMs };
    // a main thread may wait for another one that waits for the CPU
    const sleeps = (thread: string): boolean => parseStat(readFileSync(`${dir}/${thread}/stat`, 'latin1'))?.state === 'S';
    return { state: readdirSync(dir).every(sleeps) ? 'asleep' : 'waiting', cpuMs: main.cpuMs };
  } catch {
    return null; // exited, or no /proc
  }
}

/** Looks at one process from the time when it began to owe an answer. Call `look` about every `everyMs`. */
export class HangDetector {
  readonly #everyMs: number;
  readonly #asleepMs: number;
  #lookedAt: number;
  /** Times without an answer, and of these while it was stopped or asleep, ms. */
  #unanswered = 0;
  #stopped = 0;
  #asleep = 0;
  #firstCpu = -1;
  #lastCpu = -1;

  /** `asleepMs`: how long it may sleep, e.g. while it waits for a lock. */
  constructor(now: number, everyMs: number, asleepMs = ASLEEP_MS) {
    this.#lookedAt = now;
    this.#everyMs = everyMs;
    this.#asleepMs = asleepMs;
  }

  /** Why it is hung, as the end of the sentence "it does not answer: …"; null while it may only be slow. */
  look(now: number, activity: Activity | null): string | null {
    const passed = Math.min(now - this.#lookedAt, 2 * this.#everyMs);
    this.#lookedAt = now;
    this.#unanswered += passed;
    if (activity) {
      if (this.#firstCpu < 0) this.#firstCpu = activity.cpuMs;
      this.#stopped = activity.state === 'stopped' ? this.#stopped + passed : 0;
      this.#asleep = activity.state === 'asleep' && activity.cpuMs === this.#lastCpu ? this.#asleep + passed : 0;
      this.#lastCpu = activity.cpuMs;
    }
    if (this.#stopped >= STOPPED_MS) return 'it is stopped by a signal';
    if (this.#firstCpu >= 0 && this.#lastCpu - this.#firstCpu >= BUSY_MS) return 'it uses the CPU all the time';
    if (this.#asleep >= this.#asleepMs) return 'it sleeps';
    return this.#unanswered >= ANY_MS ? `${ANY_MS / 1000} s have passed` : null;
  }
}
