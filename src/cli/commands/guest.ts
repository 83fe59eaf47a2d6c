/** `anka run`, `ssh` and `cp`: OpenSSH's programs with the guest's address and key. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '../../api/client.ts';
import type { GuestAccess, VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { type SshTarget, scpArguments, shellLine, shellQuote, sshArguments } from '../../lib/guest-ssh.ts';
import { integer } from '../arguments.ts';
import { type Session, vmPath } from '../session.ts';

/** Status of `run` when the guest was not reached in time, or the connection was lost (B5). */
const EXIT_LOST = 125;
/** Status of ssh(1) when ssh itself failed. */
const SSH_EXIT_LOST = 255;
const DEFAULT_WAIT_S = 300;
/** Pause between two attempts to reach the guest, ms. */
const RETRY_MS = 250;
/** Shell command that succeeds once the guest has a default route and working DNS; guests have getent or nslookup. */
const NETWORK_CHECK = 'ip route | grep -q ^default && { getent hosts host.anka.internal || nslookup host.anka.internal; } >/dev/null 2>&1';

/** ssh's ProxyCommand for a guest that only its network process can reach: this program as `anka nc`. */
function proxyCommand(uuid: string): string {
  return [process.execPath, process.argv[1] as string, 'nc', uuid]
    .map((w) => shellQuote(w).replaceAll('%', '%%'))
    .join(' ')
    .concat(' %p');
}

function sshTarget(access: GuestAccess): SshTarget {
  return {
    user: access.user,
    address: access.address as string,
    port: access.port,
    identityFile: access.identity_file,
    knownHosts: '/dev/null',
    ...(access.stream_socket === undefined ? {} : { proxyCommand: proxyCommand(access.uuid) }),
  };
}

/** Runs a program on this terminal. Resolves with its status. */
function runInForeground(file: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: 'inherit' });
    // the terminal signals the child as well, and the child decides what Ctrl-C does
    const ignore = (): void => {};
    process.on('SIGINT', ignore);
    child.once('error', (e: NodeJS.ErrnoException) =>
      reject(e.code === 'ENOENT' ? new AnkaError('missingProgram', `the program '${file}' is not installed; 'apt-get install openssh-client' installs it`) : e),
    );
    child.once('exit', (code, signal) => {
      process.off('SIGINT', ignore);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}

/** Whether a command succeeds in the guest. */
function succeeds(target: SshTarget, command: readonly string[]): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn('ssh', ['-o', 'ConnectTimeout=5', '-o', 'BatchMode=yes', ...sshArguments(target, shellLine(command))], { stdio: 'ignore' });
    child.once('error', () => resolve(false));
    child.once('exit', (code) => resolve(code === 0));
  });
}

/** How long to wait for a guest, and whether until its network is usable. */
interface Wait {
  /** Milliseconds since 1970. */
  deadline: number;
  network: boolean;
}

/** Waits until the guest accepts ssh logins, and with `network` until its route and DNS work too. */
async function waitForSsh(s: Session, daemon: Client, vm: string, wait: Wait): Promise<SshTarget> {
  const secondsLeft = (): number => Math.max(0, (wait.deadline - Date.now()) / 1000);
  s.out.progress(`${vm}: waiting for an IP address`);
  await daemon.post<VmShow>(vmPath(vm, '/wait'), { until: 'ip', timeout: secondsLeft() });
  s.out.progress(`${vm}: waiting for ssh`);
  const check = wait.network ? ['sh', '-c', NETWORK_CHECK] : ['true'];
  for (;;) {
    const access = await daemon.get<GuestAccess>(vmPath(vm, '/guest'));
    if (access.address !== undefined && (await succeeds(sshTarget(access), check))) {
      s.out.clear();
      return sshTarget(access);
    }
    if (secondsLeft() === 0)
      throw new AnkaError(
        'timeout',
        `${vm} ${wait.network ? 'had no working network' : 'was not reachable by ssh'} in time; check it with 'anka show ${vm}' and 'anka console ${vm}'`,
      );
    await sleep(RETRY_MS);
  }
}

const defaultWait = (): Wait => ({ deadline: Date.now() + DEFAULT_WAIT_S * 1000, network: false });

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
  const deadline = Date.now() + seconds * 1000;
  const { status } = await daemon.get<VmShow>(vmPath(vm));
  if (status !== 'running') await daemon.post(vmPath(vm, '/start'), {}, s.out.reporting(`${vm}: `));
  let target: SshTarget;
  try {
    target = await waitForSsh(s, daemon, vm, { deadline, network: o.waitNetwork ?? false });
  } catch (cause) {
    s.out.failed(cause);
    return s.exit(EXIT_LOST);
  }
  const exit = await runInForeground('ssh', sshArguments(target, shellLine(words)));
  if (exit === SSH_EXIT_LOST) s.out.note(`anka: the connection to ${vm} was lost`);
  s.exit(exit === SSH_EXIT_LOST ? EXIT_LOST : exit);
}

/** `anka ssh VM [COMMAND…]`: as with ssh(1), the words are joined by blanks and parsed by the guest's shell. */
export async function ssh(s: Session, vm: string, command: readonly string[]): Promise<void> {
  const daemon = await s.daemon();
  const words = guestWords(command);
  const target = await waitForSsh(s, daemon, vm, defaultWait());
  s.exit(await runInForeground('ssh', sshArguments(target, words.join(' '), words.length > 0 && Boolean(process.stdin.isTTY))));
}

/** `anka cp`: the sources or the destination are VM:PATH. */
export async function cp(s: Session, paths: readonly string[], o: { recursive?: boolean }): Promise<void> {
  if (paths.length < 2) throw new AnkaError('usage', "Missing argument 'DESTINATION'.");
  const files = paths.map((p) => {
    const m = /^([^/:]+):(.*)$/.exec(p);
    return m ? { vm: m[1] as string, path: m[2] || '.', guest: true } : { vm: '', path: p, guest: false };
  });
  const vms = new Set(files.filter((f) => f.guest).map((f) => f.vm));
  const destination = files.at(-1) as (typeof files)[0];
  const sameSide = files.slice(0, -1).some((f) => f.guest === destination.guest);
  if (vms.size !== 1 || sameSide)
    throw new AnkaError('usage', "Copy between this host and one VM, and write the VM's side as 'VM:PATH', as in 'anka cp notes.txt vm1:'.");
  const vm = [...vms][0] as string;
  const target = await waitForSsh(s, await s.daemon(), vm, defaultWait());
  const status = await runInForeground('scp', scpArguments(target, files, o.recursive ?? false));
  if (status === 0) return s.out.done({});
  s.exit(status);
}
