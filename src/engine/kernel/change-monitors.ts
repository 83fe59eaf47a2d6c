/**
 * Cues that something on the host's network may have changed, from `ip monitor`, `nft monitor` and `tc monitor`.
 *
 * Theory of operation: any output is a cue; its content is not parsed. A monitor that exits, or cannot be started, is
 * started again after one second. One second after each start there is a cue for what changed before the monitor
 * listened. Monitors are killed with the daemon (PR_SET_PDEATHSIG).
 *
 * Limits: one change may cause many cues, and a change is missed where a monitor takes longer to listen. So the
 * receiver merges cues, and also checks periodically.
 */
import { type ChildProcess, spawn } from 'node:child_process';

const MONITORS = [
  ['ip', 'monitor', 'link', 'address', 'route'],
  ['nft', 'monitor'],
  ['tc', 'monitor'],
] as const;
const RESTART_MS = 1000;
/** Until a monitor that was started listens. */
const LISTENS_MS = 1000;

export class ChangeMonitors {
  #cue: () => void;
  #running = false;
  #children: ChildProcess[] = [];

  constructor(cue: () => void) {
    this.#cue = cue;
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    for (const m of MONITORS) this.#start(m);
  }

  stop(): void {
    this.#running = false;
    const children = this.#children;
    this.#children = [];
    for (const c of children) c.kill();
  }

  #start(command: readonly string[]): void {
    const child = spawnMonitor(command);
    if (!child) {
      this.#startLater(command);
      return;
    }
    this.#children.push(child);
    // there is none if no descriptor is left; 'error' follows
    child.stdout?.on('data', () => this.#cue()).on('error', () => {});
    setTimeout(() => {
      if (this.#children.includes(child)) this.#cue();
    }, LISTENS_MS).unref();
    const restart = (): void => {
      if (!this.#children.includes(child)) return;
      this.#children = this.#children.filter((c) => c !== child);
      this.#startLater(command);
    };
    child.on('error', restart); // it was not started: the receiver's periodic check has to do
    child.on('exit', restart);
    child.unref();
    (child.stdout as unknown as { unref(): void } | null)?.unref();
  }

  #startLater(command: readonly string[]): void {
    setTimeout(() => {
      if (this.#running) this.#start(command);
    }, RESTART_MS).unref();
  }
}

/** Null if the system cannot start a process now, e.g. for want of memory. */
function spawnMonitor(command: readonly string[]): ChildProcess | null {
  try {
    // setpriv is part of util-linux, which every Debian has
    return spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    });
  } catch {
    return null;
  }
}
