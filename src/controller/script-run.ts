/**
 * Runs the startup script of an instance in its guest.
 *
 * Theory of operation: `anka run VM sh -s` gets the script on its standard input, as with Anka's own controller. Before
 * that, a shell in the guest writes a mark, and waits for the script: so the script is sent, and its time begins, only
 * once the guest has accepted the login and the caller has stored that the script runs. When this process ends, however
 * it ends, the kernel sends SIGTERM to `anka` (PR_SET_PDEATHSIG, by setpriv(1)), and the script in the guest gets
 * SIGHUP.
 *
 * Limits: only the ends of both outputs are kept. Without setpriv a script outlives a kill -9 of the controller.
 */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { ankaCommand } from '../host/controller-program.ts';
import { isInstalled } from '../host/programs.ts';
import type { ScriptResult, StartupScript } from './instance.ts';

/** Of each output, bytes. */
const TAIL_BYTES = 4096;
/** `anka run` itself waits for the guest for five minutes. */
const LOGIN_LIMIT_MS = 360_000;
/** A script without monitoring may start a server, but not run for ever. */
const UNMONITORED_LIMIT_MS = 24 * 3_600_000;
/** Between SIGTERM and SIGKILL. */
const GRACE_MS = 5000;

/** Runs the program unless its parent ($1) exited before the kernel was asked to report that. */
const UNLESS_ORPHANED = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"';

/** First line of standard error. */
const MARK = 'anka: the startup script begins';
const AWAIT_SCRIPT = `echo '${MARK}' >&2; exec sh -s`;

/** Runs the script; `signal` ends it. `vm`: its UUID. `begin` is called before the script's first command. */
export async function runScript(vm: string, script: StartupScript, begin: () => Promise<void>, signal: AbortSignal): Promise<ScriptResult> {
  const child = spawnAnka(['-j', 'run', ...(script.waitNetwork ? ['-N'] : []), vm, 'sh', '-c', AWAIT_SCRIPT]);
  const limitMs = script.monitored ? script.timeout * 1000 : UNMONITORED_LIMIT_MS;
  const stdout = tailOf(child.stdout);
  const stderr = tailOf(child.stderr);
  let begun = false;
  let timedOut = false;
  const limit = (ms: number): NodeJS.Timeout =>
    setTimeout(() => {
      timedOut = true;
      end(child);
    }, ms);
  let timer = limit(LOGIN_LIMIT_MS);
  const onMark = async (): Promise<void> => {
    clearTimeout(timer);
    await begin();
    begun = true;
    timer = limit(limitMs);
    child.stdin.end(Buffer.from(script.text, 'base64'));
  };
  onceFound(child.stderr, MARK, () => void onMark());
  const onAbort = (): void => end(child);
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  child.stdin.on('error', () => {}); // the guest's shell may exit before it has read all
  const status = await new Promise<number>((resolve) => {
    child.once('error', () => resolve(-1));
    child.once('close', (code) => resolve(code ?? -1));
  });
  clearTimeout(timer);
  signal.removeEventListener('abort', onAbort);
  const ended: Ended = { status, stdout: stdout(), stderr: stderr().replace(`${MARK}\n`, '') };
  if (!begun)
    return result({ status: -1, stdout: '', stderr: '' }, false, `the guest was not reachable by ssh${timedOut ? ' in time' : `: ${messageOf(ended)}`}`);
  return timedOut ? result({ ...ended, status: -1 }, true, `the script did not end within ${limitMs / 1000} s`) : result(ended, false, null);
}

/** How a run of `anka` ended. */
interface Ended {
  /** -1: by a signal, or it did not start. */
  status: number;
  stdout: string;
  stderr: string;
}

function result({ status, stdout, stderr }: Ended, timedOut: boolean, error: string | null): ScriptResult {
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

/** Starts `anka` so that it ends with this process. */
function spawnAnka(words: readonly string[]): ChildProcessWithoutNullStreams {
  const own = [...ankaCommand(), ...words];
  const bound = ['setpriv', '--pdeathsig', 'TERM', 'sh', '-c', UNLESS_ORPHANED, 'sh', String(process.pid), ...own];
  const [program, ...args] = isInstalled('setpriv') ? bound : own;
  return spawn(program as string, args, { stdio: 'pipe' });
}

function end(child: ChildProcess): void {
  child.kill('SIGTERM');
  setTimeout(() => child.kill('SIGKILL'), GRACE_MS).unref();
}

/** Calls once when the text is in the first bytes of a stream. */
function onceFound(stream: Readable, text: string, found: () => void): void {
  let head = '';
  const onData = (d: Buffer): void => {
    head = (head + d.toString('latin1')).slice(0, TAIL_BYTES);
    const isFound = head.includes(text);
    if (isFound || head.length === TAIL_BYTES) stream.off('data', onData);
    if (isFound) found();
  };
  stream.on('data', onData);
}

/** Reads a stream, and keeps its end. */
function tailOf(stream: Readable): () => string {
  let tail = Buffer.alloc(0);
  stream.on('data', (d: Buffer) => {
    tail = Buffer.concat([tail, d]).subarray(-TAIL_BYTES);
  });
  return () => tail.toString('utf8');
}
