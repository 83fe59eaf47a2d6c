/**
 * One connection between a shared directory and a guest: a file server on the host, and ssh(1) into the guest.
 *
 * Theory of operation: the daemon opens the directory and starts the file server (host/share/share-main.ts), then ssh,
 * and connects the standard streams of both. It is not on their path: both outlive it, and each exits with the other.
 * A record names both processes, so the next daemon adopts them. ssh's messages, among them the outcome that the
 * guest's line reports, go to a log of bounded size.
 *
 * Limits: the guest writes what it likes to the log; it decides only what is said of its own mount.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { BOOT_ID } from '../../host/boot.ts';
import { DAEMON_NODE_OPTIONS } from '../../host/daemon-program.ts';
import { ownProgram } from '../../host/own-program.ts';
import { identify, isRunning, type ProcessId } from '../../host/process.ts';
import { isInstalled } from '../../host/programs.ts';
import { openResolved } from '../../host/share/beneath.ts';
import { readTail } from '../../host/untrusted-files.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import { MOUNT_OUTCOMES, mountInGuest, outcomeIn } from '../../lib/guest-mount.ts';
import { type SshTarget, streamArguments } from '../../lib/guest-ssh.ts';
import type { MountRow } from '../../store/mounts.ts';

/** Bytes of ssh's log. */
const LOG_BYTES = 64 << 10;
/** Until the file server is ready, ms. */
const SERVER_MS = 60_000;
/** Until the guest has mounted, or reported why not; a login alone may take a minute in a busy guest. */
const MOUNT_MS = 180_000;
const POLL_MS = 100;
/** Between two looks at processes that an earlier daemon has started, ms. */
const LOOK_MS = 500;
const APPEND = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_TRUNC | constants.O_NOFOLLOW;

/** What a session needs to know of its VM. */
export interface SessionPlace {
  vmName: string;
  /** The VM's run directory, which only the daemon's user can enter. */
  runDir: string;
  /** The VM's user. */
  uid: number;
}

/** The two processes of a session. */
interface Processes {
  server: ProcessId;
  ssh: ProcessId;
}

export interface Session {
  /** The VM's user may not write to the directory, although it is not shared read-only. Unknown (false) if adopted. */
  unwritable: boolean;
  /** Resolves when one of the processes has exited, and then both have. */
  ended: Promise<void>;
  /** Stops both processes. */
  stop(): void;
}

const recordFile = (runDir: string, id: number): string => join(runDir, `mount-${id}.json`);
const logFile = (runDir: string, id: number): string => join(runDir, `mount-${id}.log`);

/** Opens the directory by its path. Throws `badValue` if it is not there any more, or is reached by a link. */
function openShared(path: string): number {
  try {
    return openResolved(path);
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES') throw new AnkaError('noRights', `the directory ${path} may not be opened; check its permissions with 'namei -l ${path}'`, { cause });
    throw new AnkaError('badValue', `${path} is not a directory of this host, or a link leads to it now; unmount it, and mount it again`, { cause });
  }
}

/** A stream's first line. Throws if it ends before. */
async function firstLine(stream: Readable): Promise<string> {
  let text = '';
  for await (const chunk of stream) {
    text += String(chunk);
    if (text.includes('\n')) return text.slice(0, text.indexOf('\n'));
  }
  throw new Error(text.trim() || 'the file server has exited');
}

/** Starts the file server; its input and output are still the daemon's. `unwritable`: see `Session`. */
async function startServer(place: SessionPlace, mount: MountRow): Promise<{ server: ChildProcess; unwritable: boolean }> {
  const directory = openShared(mount.directory);
  const [node, ...fenced] = ownProgram(new URL('../../host/sandbox/fenced-main.ts', import.meta.url));
  const [, ...program] = ownProgram(new URL('../../host/share/share-main.ts', import.meta.url));
  const user = process.getuid?.() === 0 ? ['--user', String(place.uid)] : [];
  const access = mount.readOnly ? ['--read', '/proc/self/fd/3'] : ['--tree', '/proc/self/fd/3'];
  const words = [program.at(-1) as string, ...access, '--descriptor', '3', '--', ...user, ...(mount.readOnly ? ['--read-only'] : []), '--vm', mount.vm];
  let server: ChildProcess;
  try {
    server = spawn(node, [...DAEMON_NODE_OPTIONS, ...fenced, ...words], { detached: true, cwd: '/', stdio: ['pipe', 'pipe', 'pipe', directory] });
  } finally {
    closeSync(directory);
  }
  server.on('error', () => {}); // its streams end
  server.stdin?.on('error', () => {});
  server.unref();
  const stderr = server.stderr as Readable;
  try {
    const line = await Promise.race([firstLine(stderr), sleep(SERVER_MS, 'error timeout', { ref: false })]);
    if (line === 'ready rw' || line === 'ready ro') return { server, unwritable: line === 'ready ro' && !mount.readOnly };
    if (line === 'error EACCES' || line === 'error EPERM')
      throw new AnkaError(
        'noRights',
        `the VM's user (uid ${place.uid}) may not read ${mount.directory}; run 'setfacl -R -m u:${place.uid}:rX ${mount.directory}', or make it readable for all`,
      );
    throw new AnkaError('internal', `serving ${mount.directory}: ${line}`);
  } catch (cause) {
    server.kill('SIGKILL');
    throw cause instanceof AnkaError ? cause : new AnkaError('internal', `serving ${mount.directory}: ${(cause as Error).message}`, { cause });
  } finally {
    stderr.destroy();
  }
}

/** Connects ssh to the file server, which the daemon then no longer holds. */
function startSsh(place: SessionPlace, mount: MountRow, target: SshTarget, server: ChildProcess): ChildProcess {
  const log = openSync(logFile(place.runDir, mount.id), APPEND, 0o600);
  const bounded = isInstalled('prlimit') ? ['prlimit', `--fsize=${LOG_BYTES}:${LOG_BYTES}`, '--core=0:0', '--'] : [];
  const [program, ...words] = [...bounded, 'ssh', ...streamArguments(target, mountInGuest(mount.name, mount.readOnly))] as [string, ...string[]];
  try {
    const ssh = spawn(program, words, { detached: true, cwd: '/', stdio: [server.stdout, server.stdin, log] });
    ssh.on('error', () => {});
    ssh.unref();
    return ssh;
  } finally {
    closeSync(log);
    server.stdout?.destroy();
    server.stdin?.destroy();
  }
}

function kill({ pid }: ProcessId): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has exited
  }
}

/** Kills what is left of the two, unless the pid belongs to another process by now. */
async function killAll({ server, ssh }: Processes): Promise<void> {
  for (const id of [ssh, server]) if (await isRunning(id)) kill(id);
}

const exited = (child: ChildProcess): Promise<void> =>
  new Promise((resolve) => ((child.exitCode ?? child.signalCode) === null ? child.once('exit', () => resolve()) : resolve()));

/** The session of these processes. `anyExit`: resolves when one has exited. */
function sessionOf(processes: Processes, unwritable: boolean, anyExit: Promise<void>): Session {
  let stop = (): void => {};
  const stopped = new Promise<void>((resolve) => {
    stop = resolve;
  });
  const ended = Promise.race([anyExit, stopped]).then(async () => {
    await killAll(processes);
    while ((await isRunning(processes.ssh)) || (await isRunning(processes.server))) await sleep(20);
  });
  return { unwritable, ended, stop };
}

/**
 * Shares a directory with a guest. Resolves when the guest has mounted it. Throws `guest` with the guest's own reason,
 * `noRights` or `badValue` for the directory, and `timeout` or `network` for what may pass by itself.
 */
export async function beginSession(place: SessionPlace, mount: MountRow, target: SshTarget, isWanted: () => boolean): Promise<Session> {
  if (!isInstalled('ssh')) throw new AnkaError('missingProgram', "sharing a directory requires ssh: run 'apt-get install openssh-client'");
  const { server, unwritable } = await startServer(place, mount);
  const ssh = startSsh(place, mount, target, server);
  const serverId = await identify(server.pid as number);
  const sshId = ssh.pid === undefined ? null : await identify(ssh.pid);
  const anyExit = Promise.race([exited(server), exited(ssh)]);
  if (!serverId || !sshId) {
    server.kill('SIGKILL');
    ssh.kill('SIGKILL');
    throw new AnkaError('internal', `sharing ${mount.directory}: a process has exited`);
  }
  const processes = { server: serverId, ssh: sshId };
  const session = sessionOf(processes, unwritable, anyExit);
  try {
    writeRecord(place.runDir, mount.id, processes);
    await mounted(place, mount, anyExit, isWanted);
    return session;
  } catch (cause) {
    session.stop();
    await session.ended;
    throw cause;
  }
}

/** Waits until the guest reports that it has mounted. */
async function mounted(place: SessionPlace, mount: MountRow, anyExit: Promise<void>, isWanted: () => boolean): Promise<void> {
  let isOver = false;
  void anyExit.then(() => {
    isOver = true;
  });
  const deadline = monotonicMs() + MOUNT_MS;
  for (;;) {
    const over = isOver; // before the last look at the log
    const text = readTail(logFile(place.runDir, mount.id), LOG_BYTES);
    const outcome = outcomeIn(text);
    if (outcome === 'ok') return;
    if (outcome !== null) throw new AnkaError('guest', `${MOUNT_OUTCOMES[outcome]}${advice(place.vmName, mount.name, outcome, text)}`);
    if (over) throw new AnkaError('network', lastMessage(text) || 'the connection to the guest was closed');
    if (!isWanted()) throw new AnkaError('badState', `${place.vmName} was stopped, or the mount was removed, meanwhile`);
    if (monotonicMs() > deadline) throw new AnkaError('timeout', `the guest has not mounted it within ${MOUNT_MS / 1000} s`);
    await sleep(POLL_MS);
  }
}

/** The command that fixes what the guest lacks, or what sshfs says. */
function advice(vm: string, name: string, outcome: keyof typeof MOUNT_OUTCOMES, text: string): string {
  switch (outcome) {
    case 'no-sshfs':
      return `; run 'anka run ${vm} sudo apt-get install -y sshfs', or install it by its own package manager`;
    case 'no-fuse':
      return '; boot it with a kernel that has the module fuse';
    case 'no-sudo':
      return '; let it use sudo without a password';
    case 'busy':
      return `; empty or unmount /media/${name} there, or choose another name with DIR:NAME`;
    default: {
      const said = lastMessage(text.replaceAll(/^anka-mount: .*$/gm, ''));
      return said ? `: ${said}` : '';
    }
  }
}

/** The last line that is not a warning. A carriage return of ssh's is a question mark by now (readTail). */
const lastMessage = (text: string): string =>
  text
    .split(/\??\n/)
    .filter((l) => l.trim() !== '' && !l.startsWith('Warning: '))
    .at(-1)
    ?.slice(0, 200) ?? '';

function writeRecord(runDir: string, id: number, processes: Processes): void {
  const part = `${recordFile(runDir, id)}.part`;
  writeFileSync(part, JSON.stringify({ ...processes, boot: BOOT_ID }), { mode: 0o600 });
  renameSync(part, recordFile(runDir, id));
}

function recorded(runDir: string, id: number): Processes | null {
  const isProcess = (p: unknown): p is ProcessId => typeof Object(p).pid === 'number' && typeof Object(p).started === 'string';
  try {
    const { server, ssh, boot } = Object(JSON.parse(readFileSync(recordFile(runDir, id), 'utf8'))) as Record<string, unknown>;
    return boot === BOOT_ID && isProcess(server) && isProcess(ssh) ? { server, ssh } : null;
  } catch {
    return null; // there was no session
  }
}

/**
 * The session that an earlier daemon has begun, if both of its processes run and the guest had mounted. What is left of
 * another one is killed.
 */
export async function adoptSession(place: SessionPlace, mount: MountRow): Promise<Session | null> {
  const processes = recorded(place.runDir, mount.id);
  if (!processes) return null;
  const bothRun = async (): Promise<boolean> => (await isRunning(processes.server)) && (await isRunning(processes.ssh));
  if (!(await bothRun()) || outcomeIn(readTail(logFile(place.runDir, mount.id), LOG_BYTES)) !== 'ok') {
    await killAll(processes);
    return null;
  }
  const anyExit = (async () => {
    while (await bothRun()) await sleep(LOOK_MS, undefined, { ref: false });
  })();
  return sessionOf(processes, false, anyExit);
}

/** Ends the session of a mount that is no longer wanted, and removes its files. */
export async function removeSession(runDir: string, id: number): Promise<void> {
  const processes = recorded(runDir, id);
  if (processes) await killAll(processes);
  for (const file of [recordFile(runDir, id), logFile(runDir, id)]) rmSync(file, { force: true });
}
