/** Commands that go into a guest: run, ssh, cp, console, nc. */
import { spawn } from 'node:child_process';
import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from '../../api/client.ts';
import type { GuestAccess, VmListEntry, VmShow } from '../../api/types.ts';
import { beginStream } from '../../lib/begin-stream.ts';
import { AnkaError } from '../../lib/errors.ts';
import { type SshTarget, scpArguments, shellLine, shellQuote, sshArguments } from '../../lib/guest-ssh.ts';
import { joinStreams } from '../../lib/join-streams.ts';
import { type Session, vmPath } from '../session.ts';
import { integer } from './modify.ts';

/** Status of `run` when the guest was lost or not reached in time (B5). */
const LOST = 125;
const SSH_LOST = 255;
const DEFAULT_WAIT_S = 300;

/** ssh's ProxyCommand for a guest that only its network's process can reach: this very program, as `anka nc`. */
function proxyCommand(uuid: string): string {
  return [process.execPath, process.argv[1] as string, 'nc', uuid]
    .map((w) => shellQuote(w).replaceAll('%', '%%'))
    .join(' ')
    .concat(' %p');
}

function target(access: GuestAccess): SshTarget {
  return {
    user: access.user,
    address: access.address as string,
    port: access.port,
    identityFile: access.identity_file,
    knownHosts: '/dev/null',
    ...(access.stream_socket === undefined ? {} : { proxyCommand: proxyCommand(access.uuid) }),
  };
}

/** Runs a program with this terminal; its status, or 127 when it is missing. */
function inherit(file: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, { stdio: 'inherit' });
    // the terminal sends its signals to the child as well: let it decide
    const ignore = (): void => {};
    process.on('SIGINT', ignore);
    child.once('error', (e: NodeJS.ErrnoException) =>
      reject(e.code === 'ENOENT' ? new AnkaError('missingProgram', `the program '${file}' is not installed; 'apt-get install openssh-client' brings it`) : e),
    );
    child.once('exit', (code, signal) => {
      process.off('SIGINT', ignore);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}

/** Whether a command succeeds in the guest, quietly. */
function tryIn(t: SshTarget, command: readonly string[]): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn('ssh', ['-o', 'ConnectTimeout=5', '-o', 'BatchMode=yes', ...sshArguments(t, shellLine(command))], { stdio: 'ignore' });
    child.once('error', () => resolve(false));
    child.once('exit', (code) => resolve(code === 0));
  });
}

/** Waits until ssh answers, and, if asked, until route and names work as well. */
async function reachable(s: Session, daemon: Client, vm: string, until: number, network: boolean): Promise<SshTarget> {
  const left = (): number => Math.max(0, (until - Date.now()) / 1000);
  s.out.progress(`${vm}: waiting for its address`);
  await daemon.post<VmShow>(vmPath(vm, '/wait'), { until: 'ip', timeout: left() });
  s.out.progress(`${vm}: waiting for ssh`);
  const check = network
    ? ['sh', '-c', 'ip route | grep -q ^default && { getent hosts host.anka.internal || nslookup host.anka.internal; } >/dev/null 2>&1']
    : ['true'];
  for (;;) {
    const access = await daemon.get<GuestAccess>(vmPath(vm, '/guest'));
    if (access.address !== undefined && (await tryIn(target(access), check))) {
      s.out.clear();
      return target(access);
    }
    if (left() === 0)
      throw new AnkaError(
        'timeout',
        `${vm} was not ${network ? 'on a usable network' : 'reachable by ssh'} in time; 'anka show ${vm}' and 'anka console ${vm}' tell more`,
      );
    await sleep(250);
  }
}

/** The guest's words, without the `--` that may stand before them, as in other programs. */
function guestWords(words: readonly string[]): readonly string[] {
  return words[0] === '--' ? words.slice(1) : words;
}

export interface RunOptions {
  waitNetwork?: boolean;
  waitTime?: string;
}

/** `anka run VM CMD…`: starts the VM when it does not run; status of the command, 125 when the guest was lost. */
export async function run(s: Session, vm: string, command: readonly string[], o: RunOptions): Promise<void> {
  const words = guestWords(command);
  if (words.length === 0) throw new AnkaError('usage', "Missing argument 'COMMAND...'.");
  const daemon = await s.daemon();
  const seconds = o.waitTime === undefined ? DEFAULT_WAIT_S : integer('--wait-time', o.waitTime, 1, 86_400);
  const until = Date.now() + seconds * 1000;
  const now = await daemon.get<VmShow>(vmPath(vm));
  if (now.status !== 'running') await daemon.post(vmPath(vm, '/start'), {}, { onProgress: (p) => s.out.progress(`${vm}: ${p.step}`, p.fraction) });
  let t: SshTarget;
  try {
    t = await reachable(s, daemon, vm, until, o.waitNetwork ?? false);
  } catch (cause) {
    s.out.failed(cause);
    return s.exit(LOST);
  }
  const status = await inherit('ssh', sshArguments(t, shellLine(words)));
  if (status === SSH_LOST) s.out.note(`anka: the connection to ${vm} was lost`);
  s.exit(status === SSH_LOST ? LOST : status);
}

/** `anka ssh VM [CMD…]`: as ssh does, the words are joined by blanks and read by the guest's shell. */
export async function ssh(s: Session, vm: string, command: readonly string[]): Promise<void> {
  const daemon = await s.daemon();
  const words = guestWords(command);
  const t = await reachable(s, daemon, vm, Date.now() + DEFAULT_WAIT_S * 1000, false);
  s.exit(await inherit('ssh', sshArguments(t, words.join(' '), words.length > 0 && Boolean(process.stdin.isTTY))));
}

/** `anka cp`: one side is VM:PATH. */
export async function cp(s: Session, paths: readonly string[], o: { recursive?: boolean }): Promise<void> {
  if (paths.length < 2) throw new AnkaError('usage', "Missing argument 'DESTINATION'.");
  const split = paths.map((p) => {
    const m = /^([^/:]+):(.*)$/.exec(p);
    return m ? { vm: m[1] as string, path: m[2] || '.', guest: true } : { vm: '', path: p, guest: false };
  });
  const vms = new Set(split.filter((p) => p.guest).map((p) => p.vm));
  const destination = split.at(-1) as (typeof split)[0];
  const mixed = split.slice(0, -1).some((p) => p.guest === destination.guest);
  if (vms.size !== 1 || mixed) throw new AnkaError('usage', "Copy between this host and one VM: write its side as 'VM:PATH'.");
  const vm = [...vms][0] as string;
  const daemon = await s.daemon();
  const t = await reachable(s, daemon, vm, Date.now() + DEFAULT_WAIT_S * 1000, false);
  const status = await inherit('scp', scpArguments(t, split, o.recursive ?? false));
  if (status === 0) return s.out.done({});
  s.exit(status);
}

/** `anka console VM`: the serial console; Ctrl-] leaves. */
export async function console_(s: Session, vm: string): Promise<void> {
  const access = await (await s.daemon()).get<GuestAccess>(vmPath(vm, '/guest'));
  await new Promise<void>((resolve, reject) => {
    const socket = createConnection(access.console);
    socket.once('error', () => reject(new AnkaError('vmNotRunning', `${vm} has no console: it does not run`)));
    socket.once('connect', () => {
      s.out.note(`Connected to ${vm}'s console; Ctrl-] leaves.`);
      if (process.stdin.isTTY) process.stdin.setRawMode(true);
      process.stdin.on('data', (d: Buffer) => {
        if (process.stdin.isTTY && d.includes(0x1d)) socket.end();
        else socket.write(d);
      });
      process.stdin.on('end', () => socket.end());
      socket.pipe(process.stdout, { end: false });
      socket.write('\r');
    });
    socket.once('close', () => {
      if (process.stdin.isTTY) process.stdin.setRawMode(false);
      process.stdin.pause();
      resolve();
    });
  });
}

/** The VM that `anka nc` shall reach, by its name, UUID or address; null for an address that no VM has. */
async function accessTo(daemon: Client, host: string): Promise<GuestAccess | null> {
  let ref = host;
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) {
    const vm = (await daemon.get<VmListEntry[]>('/v1/vms')).find((v) => v.ip === host);
    if (!vm) return null;
    ref = vm.uuid;
  }
  const access = await daemon.get<GuestAccess>(vmPath(ref, '/guest'));
  if (access.address === undefined) throw new AnkaError('vmNotRunning', `${host} has no address; 'anka show ${host}' tells more`);
  return access;
}

/** A TCP connection of the host's own. */
function dial(address: string, port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: address, port, allowHalfOpen: true, noDelay: true });
    socket.once('error', reject);
    socket.once('connect', () => resolve(socket.off('error', reject)));
  });
}

/**
 * `anka nc HOST PORT`: standard input and output joined to a port of a VM, by its name or address; for ssh's
 * ProxyCommand.
 */
export async function nc(s: Session, host: string, port: string): Promise<void> {
  const number = integer('PORT', port, 1, 65_535);
  const access = await accessTo(await s.daemon(), host);
  const path = access?.stream_socket;
  const opened = path === undefined ? dial(access?.address ?? host, number) : beginStream(path, { dial: { id: access?.uuid, port: number } });
  const socket = await opened.catch((e: Error) => {
    throw new AnkaError('network', `${host} port ${number}: ${e.message}`);
  });
  await joinStreams(socket, process.stdin, process.stdout).catch((e: Error) => {
    throw new AnkaError('network', `${host} port ${number}: ${e.message}`);
  });
}
