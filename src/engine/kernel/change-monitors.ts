/**
 * Cues that something on the host's network may have changed: `ip monitor`, `nft monitor` and `tc monitor`.
 *
 * Theory of operation: what they print is not read, only that they print. A monitor that ends, or cannot be started, is
 * started again a second later. A second after each start there is a cue, as what changed before it listened was not
 * told. A daemon that is killed takes its monitors with it. Limits: a change may cause many cues, and one may get lost
 * where a monitor takes longer to listen: whoever listens gathers them, and looks by itself now and then.
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
    // util-linux is on every Debian
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...command], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` },
    });
    this.#children.push(child);
    child.stdout.on('data', () => this.#cue());
    setTimeout(() => {
      if (this.#children.includes(child)) this.#cue();
    }, LISTENS_MS).unref();
    const again = (): void => {
      if (!this.#children.includes(child)) return;
      this.#children = this.#children.filter((c) => c !== child);
      setTimeout(() => {
        if (this.#running) this.#start(command);
      }, RESTART_MS).unref();
    };
    child.on('error', again); // not even started: whoever listens looks without cues, too
    child.on('exit', again);
    child.unref();
    (child.stdout as unknown as { unref(): void }).unref();
  }
}
