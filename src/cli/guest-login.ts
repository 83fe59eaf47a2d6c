/**
 * One login to a guest by ssh(1), with the attempts that it takes.
 *
 * Theory of operation. A guest's sshd accepts few logins at once (Dropbear 5; OpenSSH drops some of more than 10), so
 * each attempt takes a turn from the daemon, which the daemon keeps until the connection is closed. ssh reports by a
 * local command, SIGUSR2 to this process, that the guest has accepted the login: the turn ends. An attempt that fails
 * before that has not begun the command, and is repeated until the deadline. Meanwhile the VM is watched (vm-watch.ts),
 * as ssh would notice its end only after a minute.
 *
 * Limits: one login at a time in a process.
 */
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isHung, type Turn } from '../api/client.ts';
import type { GuestAccess, VmShow } from '../api/types.ts';
import { AnkaError } from '../lib/errors.ts';
import { type LoginWatch, type SshTarget, shellQuote } from '../lib/guest-ssh.ts';
import type { Foreground } from './foreground.ts';
import { type Session, vmPath } from './session.ts';
import { demandStreamSocket } from './stream-socket.ts';
import { VmWatch } from './vm-watch.ts';

/** Status of ssh(1) when ssh itself failed. */
const SSH_FAILED = 255;
/** Pause between two attempts, ms. */
const RETRY_MS = 250;

/** Until when to try, and what to call it in errors. */
export interface LoginTarget {
  vm: string;
  /** On the clock of `performance.now()`, ms. */
  deadline: number;
  /** What is missing when the deadline has passed. */
  missing: string;
}

/** How a login ended. */
export interface LoginEnd {
  /** Status of the program. */
  status: number;
  /** Why the connection was lost, after the guest had accepted it; null if it was not. */
  lost: string | null;
}

/** Starts one attempt. */
export type Attempt = (target: SshTarget, watch: LoginWatch) => Foreground;

/** ssh's messages, in a file without a name: nothing is left behind when this process is killed. */
class SshLog {
  readonly #fd: number;
  readonly path: string;

  constructor() {
    const dir = mkdtempSync(join(tmpdir(), 'anka-ssh-'));
    this.#fd = openSync(join(dir, 'log'), 'wx+', 0o600);
    rmSync(dir, { recursive: true });
    this.path = `/proc/${process.pid}/fd/${this.#fd}`;
  }

  clear(): void {
    ftruncateSync(this.#fd, 0);
  }

  close(): void {
    closeSync(this.#fd);
  }

  /** Whether the guest sent this exit status; else ssh ended for another reason. */
  hasStatus(status: number): boolean {
    return new RegExp(`^debug1: Exit status ${status}\\r?$`, 'm').test(this.#text());
  }

  /** Whether the guest has accepted the login. */
  get accepted(): boolean {
    return this.#text().includes('\nAuthenticated to ');
  }

  /** The last message that is not for debugging; empty if there is none. */
  reason(): string {
    const lines = this.#text().split(/\r?\n/);
    return lines.filter((l) => l !== '' && !/^(debug\d|Warning): |^(Authenticated to|Transferred:|Bytes per) /.test(l)).at(-1) ?? '';
  }

  #text(): string {
    return readFileSync(this.path, 'utf8');
  }
}

/** ssh's ProxyCommand for a guest that only its network process can reach: this program as `anka nc`. */
function proxyCommand(uuid: string, log: string): string {
  const nc = [process.execPath, process.argv[1] as string, 'nc', uuid, '22'].map(shellQuote).join(' ');
  return `sh -c ${shellQuote(`exec ${nc} 2>>${log}`)}`.replaceAll('%', '%%');
}

function sshTarget(access: GuestAccess, log: string): SshTarget {
  return {
    user: access.user,
    address: access.address as string,
    port: access.port,
    identityFile: access.identity_file,
    ...(access.stream_socket === undefined ? {} : { proxyCommand: proxyCommand(access.uuid, log) }),
  };
}

const secondsLeft = (t: LoginTarget): number => Math.max(0, (t.deadline - performance.now()) / 1000);

/** Errors that pass by themselves: the daemon restarts, or the guest has just lost its address. */
const passes = (cause: unknown): boolean => cause instanceof AnkaError && cause.kind === 'daemon' && !isHung(cause);

/** Tries until the guest accepts a login and the program ends. Throws `timeout`, or why the VM has no address. */
export async function logIn(s: Session, t: LoginTarget, attempt: Attempt): Promise<LoginEnd> {
  const log = new SshLog();
  let begun = false;
  const once: Attempt = (...a) => {
    begun = true;
    return attempt(...a);
  };
  s.out.progress(`${t.vm}: waiting for an IP address`);
  try {
    for (;;) {
      const end = await tryOnce(s, t, once, log).catch((cause: unknown): LoginEnd | null => {
        if (passes(cause) && secondsLeft(t) > 0) return null;
        if (begun && isEndOfVm(cause)) return { status: SSH_FAILED, lost: cause.message };
        throw cause;
      });
      if (end) return end;
      if (secondsLeft(t) === 0) {
        const reason = log.reason();
        throw new AnkaError('timeout', `${t.missing} in time${reason ? ` (${reason})` : ''}; check it with 'anka show ${t.vm}' and 'anka console ${t.vm}'`);
      }
      await sleep(RETRY_MS);
    }
  } finally {
    log.close();
  }
}

const isEndOfVm = (cause: unknown): cause is AnkaError => cause instanceof AnkaError && ['vmNotRunning', 'vmNotFound', 'network'].includes(cause.kind);

/** One attempt; null if the guest did not accept the login. */
async function tryOnce(s: Session, t: LoginTarget, attempt: Attempt, log: SshLog): Promise<LoginEnd | null> {
  const daemon = await s.daemon();
  await daemon.post<VmShow>(vmPath(t.vm, '/wait'), { until: 'ip', timeout: secondsLeft(t) });
  s.out.progress(`${t.vm}: waiting for ssh`);
  const watch = await VmWatch.begin(s, t.vm);
  try {
    demandStreamSocket(t.vm, watch.access);
    const turn = await daemon.turn<GuestAccess>(vmPath(watch.access.uuid, '/login'));
    try {
      return turn.value.address === undefined ? null : await connect(s, attempt, { turn, watch, log });
    } finally {
      turn.end();
    }
  } finally {
    watch.close();
  }
}

/** Runs the program until it ends; null if the guest did not accept the login. */
async function connect(s: Session, attempt: Attempt, { turn, watch, log }: { turn: Turn<GuestAccess>; watch: VmWatch; log: SshLog }): Promise<LoginEnd | null> {
  log.clear();
  let accepted = false;
  let ended: string | null = null;
  let foreground: Foreground | null = null;
  const onAccepted = (): void => {
    if (accepted) return;
    accepted = true;
    turn.end();
    s.out.clear();
    foreground?.onAccepted?.();
  };
  process.on('SIGUSR2', onAccepted);
  try {
    foreground = attempt(sshTarget(turn.value, log.path), { pid: process.pid, log: log.path });
    const { stop } = foreground;
    void watch.ended.then((why) => {
      ended = why;
      stop();
    });
    const status = await foreground.status;
    if (log.hasStatus(status)) return { status, lost: null };
    const failed = status === SSH_FAILED;
    if ((failed || ended !== null) && !accepted && !log.accepted) return null;
    return { status, lost: ended ?? (failed ? ((await watch.check()) ?? (log.reason() || 'the connection was closed')) : null) };
  } finally {
    process.off('SIGUSR2', onAccepted);
  }
}
