/** `anka run`, `ssh` and `cp`: OpenSSH's programs with the guest's address and key. */
import { fileURLToPath } from 'node:url';
import type { VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { lineInGuest, wordsInGuest } from '../../lib/guest-command.ts';
import { scpArguments, sshArguments } from '../../lib/guest-ssh.ts';
import { PACKAGE_ROOT } from '../../lib/package-root.ts';
import { integer } from '../arguments.ts';
import { runInForeground, SHORT_GRACE } from '../foreground.ts';
import { type Attempt, type LoginEnd, type LoginTarget, logIn } from '../guest-login.ts';
import { EXIT_LOST, reportLost } from '../lost-connection.ts';
import { type Session, vmPath } from '../session.ts';

const DEFAULT_WAIT_S = 300;
const SSH = { pkg: 'openssh-client', grace: SHORT_GRACE } as const;
const SSH_OF_SCP = fileURLToPath(new URL('assets/host/ssh-of-scp.sh', PACKAGE_ROOT));
/**
 * Waits in the guest until it has a default route and working DNS, for at most $1 seconds, then runs the other words;
 * guests have getent or nslookup.
 */
const WITH_NETWORK = `
uptime() { read -r now _ </proc/uptime; now=\${now%.*}; }
uptime; end=$((now + $1)); shift
until ip route | grep -q ^default && { getent hosts host.anka.internal || nslookup host.anka.internal; } >/dev/null 2>&1; do
  uptime; [ "$now" -lt "$end" ] || { echo "anka: the guest had no working network in time" >&2; exit ${EXIT_LOST}; }
  sleep 0.25 2>/dev/null || sleep 1
done
"$@"
`;

function target(vm: string, waitSeconds: number): LoginTarget {
  return { vm, deadline: performance.now() + waitSeconds * 1000, missing: `${vm} was not reachable by ssh` };
}

/** An attempt with ssh. `line`: what the guest's shell runs; empty for a login. */
const bySsh =
  (line: () => string, tty: boolean): Attempt =>
  (to, watch) =>
    runInForeground('ssh', sshArguments(to, watch, line(), tty), SSH);

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
  waitTime?: string;
}

/** `anka run VM COMMAND…`: starts the VM first when it is not running. */
export async function run(s: Session, vm: string, command: readonly string[], o: RunOptions): Promise<void> {
  const words = guestWords(command);
  if (words.length === 0) throw new AnkaError('usage', "Missing argument 'COMMAND...'.");
  const daemon = await s.daemon();
  const seconds = o.waitTime === undefined ? DEFAULT_WAIT_S : integer('--wait-time', o.waitTime, { low: 1, high: 86_400 });
  const to = target(vm, seconds);
  const { status } = await daemon.get<VmShow>(vmPath(vm));
  if (status !== 'running') await daemon.post(vmPath(vm, '/start'), {}, s.out.reporting(`${vm}: `));
  const secondsLeft = (): string => String(Math.max(1, Math.ceil((to.deadline - performance.now()) / 1000)));
  const line = (): string => wordsInGuest(o.waitNetwork ? ['sh', '-c', WITH_NETWORK, 'sh', secondsLeft(), ...words] : words);
  let end: LoginEnd;
  try {
    end = await logIn(s, to, bySsh(line, false));
  } catch (cause) {
    if (cause instanceof AnkaError && cause.kind === 'missingProgram') throw cause;
    s.out.failed(cause);
    return s.exit(EXIT_LOST);
  }
  s.exit(statusOf(s, vm, end));
}

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
        target(vm, DEFAULT_WAIT_S),
        bySsh(() => (line === '' ? '' : lineInGuest(line)), tty),
      ),
    ),
  );
}

/** `anka cp`: the sources or the destination are VM:PATH. */
export async function cp(s: Session, names: readonly string[], o: { recursive?: boolean }): Promise<void> {
  if (names.length < 2) throw new AnkaError('usage', "Missing argument 'DESTINATION'.");
  const paths = names.map((p) => {
    const m = /^([^/:]+):(.*)$/.exec(p);
    return m ? { vm: m[1] as string, path: m[2] || '.', guest: true } : { vm: '', path: p, guest: false };
  });
  const vms = new Set(paths.filter((f) => f.guest).map((f) => f.vm));
  const destination = paths.at(-1) as (typeof paths)[0];
  const sameSide = paths.slice(0, -1).some((f) => f.guest === destination.guest);
  if (vms.size !== 1 || sameSide)
    throw new AnkaError('usage', "Copy between this host and one VM, and write the VM's side as 'VM:PATH', as in 'anka cp notes.txt vm1:'.");
  const vm = [...vms][0] as string;
  // scp's messages of the last attempt
  let messages: Buffer[] = [];
  const end = await logIn(s, target(vm, DEFAULT_WAIT_S), (to, watch) => {
    const program = runInForeground('scp', scpArguments(to, watch, { program: SSH_OF_SCP, paths, recursive: o.recursive ?? false }), {
      ...SSH,
      stderr: 'pipe',
    });
    messages = [];
    program.child.stderr?.on('data', (d: Buffer) => messages.push(d));
    return program;
  });
  if (end.status === 0) return s.out.done({});
  if (!s.out.machine) process.stderr.write(Buffer.concat(messages));
  s.exit(statusOf(s, vm, end));
}
