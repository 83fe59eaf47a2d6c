/** `anka run` and `ssh`: OpenSSH's program with the guest's address and key. */
import { readFile } from 'node:fs/promises';
import type { VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { backgroundInGuest, lineInGuest, wordsInGuest } from '../../lib/guest-command.ts';
import { environmentEntries, environmentLine, environmentOf } from '../../lib/guest-environment.ts';
import { sshArguments } from '../../lib/guest-ssh.ts';
import { integer } from '../arguments.ts';
import { runInForeground, SHORT_GRACE } from '../foreground.ts';
import { type Attempt, type LoginEnd, type LoginTarget, logIn } from '../guest-login.ts';
import { EXIT_LOST, reportLost } from '../lost-connection.ts';
import { type Session, vmPath } from '../session.ts';

const DEFAULT_WAIT_S = 300;
/** Farthest that the guest's clock may be from the host's for `--wait-time`, seconds. */
const CLOCK_TOLERANCE_S = 2;
const SSH = { pkg: 'openssh-client', grace: SHORT_GRACE } as const;

/** A login that is tried for `waitSeconds`. */
export function loginTarget(vm: string, waitSeconds = DEFAULT_WAIT_S): LoginTarget {
  return { vm, deadline: performance.now() + waitSeconds * 1000, missing: `${vm} was not reachable by ssh` };
}

/** An attempt with ssh. `line`: what the guest's shell runs; empty for a login. */
const bySsh =
  (line: () => string, tty: boolean): Attempt =>
  (to, watch) =>
    runInForeground('ssh', sshArguments(to, watch, line(), { tty }), SSH);

/** The status to exit with. */
function statusOf(s: Session, vm: string, end: LoginEnd): number {
  return end.lost === null ? end.status : reportLost(s.out, vm, end.lost);
}

/** The words of the guest's command, without the `--` that may precede them. */
function guestWords(words: readonly string[]): readonly string[] {
  return words[0] === '--' ? words.slice(1) : words;
}

export interface RunOptions {
  waitNetwork?: boolean;
  waitTime?: boolean;
  timeout?: string;
  workdir?: string;
  env?: string[];
  envFile?: string[];
  inherit?: boolean;
  quiet?: boolean;
  background?: boolean;
  volume?: string[];
}

/** `anka run VM COMMAND…`: starts the VM first when it is not running. */
export async function run(s: Session, vm: string, command: readonly string[], o: RunOptions): Promise<void> {
  const words = guestWords(command);
  if (words.length === 0) throw new AnkaError('usage', "Missing argument 'COMMAND...'.");
  const environment = await environmentOption(o);
  const daemon = await s.daemon();
  const seconds = o.timeout === undefined ? DEFAULT_WAIT_S : integer('--timeout', o.timeout, { low: 1, high: 86_400 });
  const to = loginTarget(vm, seconds);
  const { status } = await daemon.get<VmShow>(vmPath(vm));
  if (status !== 'running') await daemon.post(vmPath(vm, '/start'), {}, s.out.reporting(`${vm}: `));
  try {
    // in the background there is no input, and a terminal would print it
    const byFile = environment !== null && (o.background || onTerminal(words) !== null);
    const environmentFile = byFile ? await leaveEnvironment(s, to, environment) : null;
    const attempt = guestCommand(words, o, { environment, environmentFile, deadline: to.deadline });
    s.exit(statusOf(s, vm, await withVolumes(s, vm, o.volume ?? [], () => logIn(s, to, attempt))));
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram') throw cause;
    s.out.failed(cause);
    return s.exit(EXIT_LOST);
  }
}

/** Runs `work` with directories shared for as long as it takes. */
async function withVolumes<T>(s: Session, vm: string, volumes: readonly string[], work: () => Promise<T>): Promise<T> {
  if (volumes.length === 0) return work();
  return (await import('./mount.ts')).withSharedDirectories(s, vm, volumes, work);
}

/** The variables of `-E`, `--env-file` and `-e`, later ones before earlier ones; null if there are none. */
async function environmentOption(o: RunOptions): Promise<string | null> {
  if (!o.env && !o.envFile && !o.inherit) return null;
  const files = await Promise.all((o.envFile ?? []).map(fileEntries));
  return environmentLine(environmentOf([...files.flat(), ...(o.env ?? [])], process.env), o.inherit ? process.env : {});
}

async function fileEntries(file: string): Promise<string[]> {
  const text = await readFile(file, 'utf8').catch((e: Error) => {
    throw new AnkaError('badValue', `--env-file '${file}' cannot be read: ${e.message}`);
  });
  return environmentEntries(text, file);
}

/** What a command of `anka run` begins with in the guest. */
interface Preparation {
  /** A line for the guest's shell that sets variables; null if there is none. */
  environment: string | null;
  /** A file of the guest that holds it, instead of the first line of the input. */
  environmentFile: string | null;
  deadline: number;
}

/** The command with what precedes it in the guest: waiting for network and clock, a working directory, variables. */
function guestCommand(words: readonly string[], o: RunOptions, p: Preparation): Attempt {
  const terminal = onTerminal(words);
  const byInput = p.environment !== null && p.environmentFile === null;
  const wrapped = (): readonly string[] => {
    const steps = [
      ...(byInput ? [READ_ENVIRONMENT] : []),
      ...(p.environmentFile === null ? [] : [SOURCE_ENVIRONMENT]),
      ...(o.waitNetwork ? [WAIT_NETWORK] : []),
      ...(o.waitTime ? [WAIT_TIME] : []),
      ...(o.workdir === undefined ? [] : [ENTER]),
    ];
    if (steps.length === 0) return terminal ?? words;
    const secondsLeft = String(Math.max(1, Math.ceil((p.deadline - performance.now()) / 1000)));
    const now = String(Math.floor(Date.now() / 1000));
    return ['sh', '-c', `${steps.join('')}\nshift 4\n"$@"`, 'sh', secondsLeft, now, o.workdir ?? '', p.environmentFile ?? '', ...(terminal ?? words)];
  };
  return (to, watch) => {
    const line = o.background ? backgroundInGuest(wrapped()) : wordsInGuest(wrapped());
    const tty = terminal !== null && !o.background;
    const ssh = runInForeground('ssh', sshArguments(to, watch, line, { tty, force: tty }), {
      ...SSH,
      ...(o.quiet ? { stdout: 'ignore' as const } : {}),
      ...(byInput ? { stdin: 'pipe' as const } : {}),
    });
    if (!byInput) return ssh;
    // the values are in no command line, which other users of this host can read
    const { stdin } = ssh.child;
    stdin?.on('error', () => {}); // ssh has exited
    stdin?.write(`${p.environment}\n`);
    void ssh.status.then(() => process.stdin.unpipe().pause());
    // not before: an attempt that fails has read nothing of the input
    return { ...ssh, onAccepted: () => void (stdin && process.stdin.pipe(stdin)) };
  };
}

/** Writes the variables into a file of the guest, and returns its path. */
async function leaveEnvironment(s: Session, to: LoginTarget, environment: string): Promise<string> {
  let path = '';
  const end = await logIn(s, to, (target, watch) => {
    path = '';
    const ssh = runInForeground('ssh', sshArguments(target, watch, wordsInGuest(['sh', '-c', LEAVE_ENVIRONMENT])), { ...SSH, stdin: 'pipe', stdout: 'pipe' });
    ssh.child.stdin?.on('error', () => {}); // ssh has exited
    ssh.child.stdin?.end(`${environment}\n`);
    ssh.child.stdout?.on('data', (d: Buffer) => {
      path += d.toString();
    });
    return ssh;
  });
  if (end.lost !== null || end.status !== 0) throw new AnkaError('guest', 'the variables could not be written to the guest');
  return path.trim();
}

/**
 * The words behind `script -q /dev/null`, by which clients of macOS get a terminal: Linux's script(1) takes no command
 * there. Null for any other command.
 */
function onTerminal(words: readonly string[]): readonly string[] | null {
  return words[0] === 'script' && words[1] === '-q' && words[2] === '/dev/null' && words.length > 3 ? words.slice(3) : null;
}

/** Reads the variables from the first line of standard input. */
const READ_ENVIRONMENT = `
IFS= read -r line || exit 1
nl='
'
eval "$line"
unset line nl`;

const LEAVE_ENVIRONMENT = 'umask 077; f=$(mktemp) && cat >"$f" && echo "$f"';

const SOURCE_ENVIRONMENT = `
nl='
'
. "$4" && rm -f -- "$4" || exit 1
unset nl`;

/** Waits for a default route and working DNS, for at most $1 seconds; guests have getent or nslookup. */
const WAIT_NETWORK = `
uptime() { read -r now _ </proc/uptime; now=\${now%.*}; }
uptime; end=$((now + $1))
until ip route | grep -q ^default && { getent hosts host.anka.internal || nslookup host.anka.internal; } >/dev/null 2>&1; do
  uptime; [ "$now" -lt "$end" ] || { echo "anka: the guest had no working network in time" >&2; exit ${EXIT_LOST}; }
  sleep 0.25 2>/dev/null || sleep 1
done`;

/** Sets the clock to $2, seconds since 1970, if it is wrong and the user may set it; else waits until it is right. */
const WAIT_TIME = `
read -r began _ </proc/uptime; began=\${began%.*}
while :; do
  read -r now _ </proc/uptime; now=\${now%.*}
  off=$(($(date +%s) - $2 - now + began)); [ "$off" -ge 0 ] || off=$((-off))
  [ "$off" -gt ${CLOCK_TOLERANCE_S} ] || break
  sudo -n date -s "@$(($2 + now - began))" >/dev/null 2>&1 && break
  [ $((now - began)) -lt "$1" ] || { echo "anka: the guest's clock was not right in time" >&2; exit ${EXIT_LOST}; }
  sleep 1
done`;

const ENTER = `
cd -- "$3" || exit 1`;

/** `anka ssh VM [COMMAND…]`: as with ssh(1), the words are joined by blanks and parsed by the guest's shell. */
export async function ssh(s: Session, vm: string, command: readonly string[]): Promise<void> {
  const line = guestWords(command).join(' ');
  const tty = line !== '' && Boolean(process.stdin.isTTY);
  s.exit(
    statusOf(
      s,
      vm,
      await logIn(
        s,
        loginTarget(vm),
        bySsh(() => (line === '' ? '' : lineInGuest(line)), tty),
      ),
    ),
  );
}
