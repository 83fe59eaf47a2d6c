/**
 * Runs the startup script of an instance in its guest.
 *
 * Theory of operation: `anka run VM true` waits until the guest accepts a login; then `anka run VM sh -s` gets the
 * script on its standard input, as with Anka's own controller. When this process ends, however it ends, the kernel
 * sends SIGTERM to `anka` (PR_SET_PDEATHSIG, by setpriv(1)), and the script in the guest gets SIGHUP.
 *
 * Limits: only the ends of both outputs are kept. Without setpriv a script outlives a kill -9 of the controller.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { ankaCommand } from '../host/controller-program.ts';
import { isInstalled } from '../host/programs.ts';
import type { ScriptResult, StartupScript } from './instance.ts';

/** Of each output, bytes. */
const TAIL_BYTES = 4096;
/** `anka run` itself waits for five minutes until the guest accepts a login. */
const LOGIN_LIMIT_MS = 360_000;
/** A script without monitoring may start a server, but not run for ever. */
const UNMONITORED_LIMIT_MS = 24 * 3_600_000;
/** Between SIGTERM and SIGKILL. */
const GRACE_MS = 5000;

/** Runs the program unless its parent ($1) exited before the kernel was asked to report that. */
const UNLESS_ORPHANED = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"';

/** How a run of `anka` ended. */
interface Ended {
  /** -1: by a signal, or it did not start. */
  status: number;
  timedOut: boolean;
  stdout: string;
  stderr: string;
}

/** Runs the script; `signal` ends it. `vm`: its UUID. `begin` is called before the script's first command. */
export async function runScript(vm: string, script: StartupScript, begin: () => Promise<void>, signal: AbortSignal): Promise<ScriptResult> {
  const login = await anka(['-j', 'run', ...(script.waitNetwork ? ['-N'] : []), vm, 'true'], { input: '', limitMs: LOGIN_LIMIT_MS, signal });
  if (login.status !== 0) return result({ ...login, status: -1, timedOut: false }, `the guest was not reachable by ssh: ${messageOf(login)}`);
  await begin();
  const limitMs = script.monitored ? script.timeout * 1000 : UNMONITORED_LIMIT_MS;
  const ended = await anka(['-j', 'run', vm, 'sh', '-s'], { input: Buffer.from(script.text, 'base64'), limitMs, signal });
  return result(ended.timedOut ? { ...ended, status: -1 } : ended, ended.timedOut ? `the script did not end within ${limitMs / 1000} s` : null);
}

function result({ status, timedOut, stdout, stderr }: Ended, error: string | null): ScriptResult {
  return { return_code: status, did_timeout: timedOut, stdout, stderr, errors: error === null ? [] : [error] };
}

/** The error that `anka -j` reported. */
function messageOf({ stdout, stderr, status }: Ended): string {
  try {
    return (JSON.parse(stdout.split('\n').at(-1) ?? '') as { message: string }).message;
  } catch {
    return stderr.trim().split('\n').at(-1) || `status ${status}`;
  }
}

interface RunLimits {
  input: string | Buffer;
  limitMs: number;
  signal: AbortSignal;
}

function anka(words: readonly string[], { input, limitMs, signal }: RunLimits): Promise<Ended> {
  const own = [...ankaCommand(), ...words];
  const bound = ['setpriv', '--pdeathsig', 'TERM', 'sh', '-c', UNLESS_ORPHANED, 'sh', String(process.pid), ...own];
  const [program, ...args] = isInstalled('setpriv') ? bound : own;
  const child = spawn(program as string, args, { stdio: 'pipe' });
  const stdout = tailOf(child.stdout);
  const stderr = tailOf(child.stderr);
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    end(child);
  }, limitMs);
  const onAbort = (): void => end(child);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  child.stdin.on('error', () => {}); // the guest's shell may exit before it has read all
  child.stdin.end(input);
  return new Promise((resolve) => {
    const done = (status: number): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      resolve({ status, timedOut, stdout: stdout(), stderr: stderr() });
    };
    child.once('error', () => done(-1));
    child.once('close', (code) => done(code ?? -1));
  });
}

function end(child: ChildProcess): void {
  child.kill('SIGTERM');
  setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
}

/** Reads a stream, and keeps its end. */
function tailOf(stream: Readable): () => string {
  let tail = Buffer.alloc(0);
  stream.on('data', (d: Buffer) => {
    tail = Buffer.concat([tail, d]).subarray(-TAIL_BYTES);
  });
  return () => tail.toString('utf8');
}
