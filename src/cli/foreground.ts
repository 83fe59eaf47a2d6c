/**
 * Programs in the foreground of a command: they end with it, and it ends as they do.
 *
 * Theory of operation. SIGINT, SIGTERM and SIGHUP are passed to the program, and this process ends by the same signal
 * once the program has exited; so a shell sees what it would see without `anka` between. A program that takes longer
 * than its grace is killed. When this process is killed with SIGKILL, the kernel sends SIGTERM to the program
 * (PR_SET_PDEATHSIG, by setpriv(1)). Output into a pipe passes through this process. A program whose output nobody
 * reads any more ends as by SIGPIPE: ssh itself would wait for a guest that does not know of the closed pipe.
 *
 * Limits: without setpriv (util-linux) a program outlives a SIGKILL. SIGINT of a terminal reaches the program twice.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants as system } from 'node:os';
import type { Readable } from 'node:stream';
import { isInstalled } from '../host/programs.ts';
import { AnkaError } from '../lib/errors.ts';
import { whenUnread, writesToPipe } from './output/unread.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** Grace of programs that have nothing to save, ms. */
export const SHORT_GRACE = 1000;
/** Runs the program unless its parent ($1) exited before the kernel was asked to report that. */
const UNLESS_ORPHANED = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"';

/** Status by which shells report the end by a signal. */
export const statusOfSignal = (signal: NodeJS.Signals): number => 128 + system.signals[signal];

export interface ForegroundOptions {
  /** Ends the program once nobody can read its output, though it may have nothing to write for hours. */
  endUnread?: true;
  /** `pipe`: the caller writes it; a stream: the program reads from its descriptor. */
  stdin?: 'pipe' | Readable;
  /** `pipe`: the caller reads it. `ignore`: nobody does. */
  stdout?: 'pipe' | 'ignore';
  /** `pipe`: the caller reads it. */
  stderr?: 'inherit' | 'pipe';
  /** Called before this process ends by a signal. */
  cleanUp?: () => void;
  /** Its environment, if it is not this command's own. */
  env?: NodeJS.ProcessEnv;
  /** Milliseconds between a signal and SIGKILL; unlimited by default for a program that exits by itself. */
  grace?: number;
  /** Debian package, for the error if the program is not installed. */
  pkg: string;
}

/** A program that runs in the foreground. */
export interface Foreground {
  readonly child: ChildProcess;
  /** The program's status, or 128 + the number of its signal. Pending forever once this process ends by a signal. */
  readonly status: Promise<number>;
  /** Ends the program. */
  stop(): void;
  /** Called when a guest has accepted the login. */
  onAccepted?: () => void;
}

/** Starts a program on this command's standard streams. Throws `missingProgram`. */
export function runInForeground(file: string, args: readonly string[], o: ForegroundOptions): Foreground {
  if (!isInstalled(file)) throw new AnkaError('missingProgram', `the program '${file}' is not installed; 'apt-get install ${o.pkg}' installs it`);
  const bound = ['setpriv', '--pdeathsig', 'TERM', 'sh', '-c', UNLESS_ORPHANED, 'sh', String(process.pid), file, ...args];
  const [program, ...words] = isInstalled('setpriv') ? bound : [file, ...args];
  const relay = o.stdout === undefined && writesToPipe();
  const stdout = o.stdout ?? (relay ? 'pipe' : 'inherit');
  const child = spawn(program as string, words, { stdio: [o.stdin ?? 'inherit', stdout, o.stderr ?? 'inherit'], ...(o.env ? { env: o.env } : {}) });
  let signal: NodeJS.Signals | null = null;
  const stop = (): void => {
    child.kill('SIGTERM');
    if (o.grace !== undefined) setTimeout(() => child.kill('SIGKILL'), o.grace).unref();
  };
  const onSignal = (name: NodeJS.Signals): void => {
    signal ??= name;
    child.kill(name);
    if (o.grace !== undefined) setTimeout(() => child.kill('SIGKILL'), o.grace).unref();
  };
  for (const name of SIGNALS) process.on(name, onSignal);
  let unread = false;
  const onUnread = (): void => {
    unread = true;
    stop();
  };
  if (relay) passOn(child, onUnread);
  const looking = relay && o.endUnread ? whenUnread(onUnread) : null;
  const status = new Promise<number>((resolve, reject) => {
    child.once('error', (e) => reject(new AnkaError('missingProgram', `cannot run '${file}': ${e.message}`)));
    // 'close': all output has been passed on
    child.once('close', (code, bySignal) => {
      for (const name of SIGNALS) process.off(name, onSignal);
      looking?.stop();
      if (signal) {
        o.cleanUp?.();
        process.kill(process.pid, signal);
      } else resolve(unread ? statusOfSignal('SIGPIPE') : (code ?? statusOfSignal(bySignal as NodeJS.Signals)));
    });
  });
  return { child, status, stop };
}

/** Passes the program's output on. `onUnread`: once, when nobody reads it any more. */
function passOn(child: ChildProcess, onUnread: () => void): void {
  process.stdout.removeAllListeners('error').on('error', () => {
    child.stdout?.destroy();
    onUnread();
  });
  child.stdout?.pipe(process.stdout, { end: false });
}
