/** `anka cp`: copies between this host and a guest, by tar over a login (src/lib/guest-copy.ts). */
import { type ChildProcess, spawn } from 'node:child_process';
import { lstatSync, mkdtempSync, readdirSync, realpathSync, rmSync, type Stats, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { AnkaError } from '../../lib/errors.ts';
import { wordsInGuest } from '../../lib/guest-command.ts';
import {
  baseName,
  type CopyKind,
  type CopyOptions,
  copyOptions,
  extractOptions,
  isContents,
  kindOf,
  RECEIVE,
  receiveFlags,
  SEND,
  sendFlags,
} from '../../lib/guest-copy.ts';
import { sshArguments } from '../../lib/guest-ssh.ts';
import { type Foreground, runInForeground, SHORT_GRACE } from '../foreground.ts';
import { type Attempt, type LoginEnd, logIn } from '../guest-login.ts';
import { reportLost } from '../lost-connection.ts';
import { mergeInto } from '../merge-tree.ts';
import type { Session } from '../session.ts';
import { loginTarget } from './guest.ts';

/** Longest first line of a download, bytes. */
const MAX_HEAD = 64;
const SSH = { pkg: 'openssh-client', grace: SHORT_GRACE } as const;

interface Operand {
  vm: string;
  path: string;
  guest: boolean;
}

/** One copy: several sources to a destination on the other side. */
interface Copy {
  s: Session;
  vm: string;
  options: CopyOptions;
  destination: string;
  /** The destination has to be a directory. */
  several: boolean;
}

export async function cp(s: Session, names: readonly string[], flags: Readonly<Record<string, unknown>>): Promise<void> {
  if (names.length < 2) throw new AnkaError('usage', "Missing argument 'DESTINATION'.");
  const operands = names.map(operandOf);
  const vms = new Set(operands.filter((o) => o.guest).map((o) => o.vm));
  const destination = operands.at(-1) as Operand;
  const sources = operands.slice(0, -1);
  if (vms.size !== 1 || sources.some((o) => o.guest === destination.guest))
    throw new AnkaError('usage', "Copy between this host and one VM, and write the VM's side as 'VM:PATH', as in 'anka cp notes.txt vm1:'.");
  const options = copyOptions(flags);
  const copy: Copy = {
    s,
    vm: [...vms][0] as string,
    options: { ...options, verbose: options.verbose && !s.out.machine },
    destination: destination.path,
    several: sources.length > 1,
  };
  for (const { path } of sources) {
    const status = destination.guest ? await upload(copy, path) : await download(copy, path);
    if (status !== 0) return s.exit(status);
  }
  s.out.done({});
}

function operandOf(name: string): Operand {
  const m = /^([^/:]+):(.*)$/s.exec(name);
  return m ? { vm: m[1] as string, path: m[2] || '.', guest: true } : { vm: '', path: name, guest: false };
}

const bad = (text: string): AnkaError => new AnkaError('badValue', text);

/** Starts tar on the host. Its standard error is this command's own. */
function startTar(args: readonly string[], stdio: ['ignore' | 'pipe', 'inherit' | 'pipe'], cwd: string): ChildProcess {
  const tar = spawn('tar', args, { cwd, stdio: [...stdio, 'inherit'], env: { ...process.env, LC_ALL: 'C' } });
  tar.stdin?.on('error', () => {}); // it has exited; its status says so
  tar.stdout?.on('error', () => {});
  return tar;
}

const statusOf = (tar: ChildProcess): Promise<number> =>
  new Promise((resolve, reject) => {
    tar.once('error', () => reject(new AnkaError('missingProgram', "the program 'tar' is not installed; 'apt-get install tar' installs it")));
    tar.once('close', (code) => resolve(code ?? 1));
  });

/** The status to exit with. Prints what the guest's side has reported. */
function finish({ s, vm }: Copy, end: LoginEnd, messages: string): number {
  if (end.lost !== null) return reportLost(s.out, vm, end.lost);
  if (end.status !== 0 && s.out.machine)
    return s.out.failed(new AnkaError('guest', messages.trim().split('\n').at(-1) || `the copy failed with status ${end.status}`));
  process.stderr.write(messages);
  return end.status;
}

// ---- to the guest

interface Source {
  kind: CopyKind;
  /** tar's directory. */
  directory: string;
  /** What tar reads there. */
  members: readonly string[];
  name: string;
  mode: string;
}

function sourceOf(path: string, o: CopyOptions): Source {
  const stat = statOf(path, o);
  if (stat.isDirectory()) {
    if (!o.recursive) throw bad(`'${path}' is a directory; use -r to copy it`);
    const contents = isContents(path);
    return {
      kind: contents ? 'c' : 'd',
      directory: path,
      members: readdirSync(path),
      name: contents ? '' : baseName(path),
      mode: (stat.mode & 0o777).toString(8),
    };
  }
  if (!stat.isFile() && !stat.isSymbolicLink()) throw bad(`'${path}' is not a regular file, directory or symbolic link`);
  return { kind: 'f', directory: dirname(path), members: [baseName(path)], name: baseName(path), mode: '' };
}

function statOf(path: string, o: CopyOptions): Stats {
  try {
    return o.follow === 'none' && !path.endsWith('/') ? lstatSync(path) : statSync(path);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw bad(code === 'ENOENT' ? `'${path}' does not exist` : `'${path}' cannot be read: ${message}`);
  }
}

async function upload(copy: Copy, path: string): Promise<number> {
  const { options: o } = copy;
  const source = sourceOf(path, o);
  const follow = o.follow === 'all' || (source.kind === 'f' && o.follow === 'operands');
  const pack = ['--create', '--file=-', ...(follow ? ['--dereference'] : []), ...(o.verbose ? ['--verbose'] : [])];
  const line = wordsInGuest([
    'sh',
    '-c',
    RECEIVE,
    'sh',
    copy.destination,
    source.name,
    receiveFlags(source.kind, o, copy.several),
    o.preserve ? source.mode : '',
  ]);
  let packed: Promise<number> = Promise.resolve(0);
  let messages = '';
  const attempt: Attempt = (to, watch) => {
    messages = '';
    const tar = startTar([...pack, '--null', '--verbatim-files-from', '--files-from=-'], ['pipe', 'pipe'], source.directory);
    packed = statusOf(tar);
    packed.catch(() => {}); // looked at below
    tar.stdin?.end(source.members.map((name) => `./${name}\0`).join(''));
    const ssh = runInForeground('ssh', sshArguments(to, watch, line), {
      ...SSH,
      stdin: tar.stdout as NonNullable<typeof tar.stdout>,
      stdout: 'ignore',
      stderr: 'pipe',
      cleanUp: () => tar.kill(),
    });
    tar.stdout?.destroy(); // ssh has it now
    ssh.child.stderr?.on('data', (d: Buffer) => (messages += d.toString()));
    void ssh.status.then(() => tar.kill());
    return ssh;
  };
  const status = finish(copy, await logIn(copy.s, loginTarget(copy.vm), attempt), messages);
  if (status !== 0) return status;
  const packedAll = (await packed) === 0;
  if (packedAll) return 0;
  return copy.s.out.machine ? copy.s.out.failed(bad(`'${path}' could not be read completely`)) : 1;
}

// ---- from the guest

async function download(copy: Copy, path: string): Promise<number> {
  const { options: o } = copy;
  const there = statSync(copy.destination, { throwIfNoEntry: false });
  if (there && !there.isDirectory() && !there.isFile()) throw bad(`'${copy.destination}' is not a regular file or directory`);
  const isDirectory = there?.isDirectory() ?? false;
  if ((copy.several || copy.destination.endsWith('/')) && !isDirectory) throw bad(`'${copy.destination}' is not a directory`);
  // the user's own links are followed, but none that the guest sends
  const destination = there ? realpathSync(copy.destination) : copy.destination;
  const work = workDirectory(isDirectory ? destination : dirname(destination));
  const cleanUp = (): void => rmSync(work, { recursive: true, force: true });
  const line = wordsInGuest(['sh', '-c', SEND, 'sh', path, '', sendFlags(o)]);
  let received: Received | null = null;
  let messages = '';
  try {
    const end = await logIn(copy.s, loginTarget(copy.vm), (to, watch) => {
      messages = '';
      const ssh = runInForeground('ssh', sshArguments(to, watch, line), { ...SSH, stdin: 'pipe', stdout: 'pipe', stderr: 'pipe', cleanUp });
      ssh.child.stdin?.end();
      ssh.child.stderr?.on('data', (d: Buffer) => (messages += d.toString()));
      received = receive(ssh, work, extractOptions(o));
      return ssh;
    });
    const status = finish(copy, end, messages);
    if (status !== 0) return status;
    const { kind, status: extracted } = await (received as unknown as Received);
    if ((await extracted) !== 0) throw bad(`'${path}' could not be written completely to '${destination}'`);
    place({ work, kind, path, destination, isDirectory, keepExisting: o.keepExisting });
    return 0;
  } finally {
    cleanUp();
  }
}

function workDirectory(parent: string): string {
  try {
    return mkdtempSync(join(parent, '.anka-cp-'));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    throw bad(code === 'ENOENT' ? `'${parent}' does not exist` : `'${parent}' cannot be written: ${message}`);
  }
}

/** What the guest sends: known once its first line has come. */
type Received = Promise<{ kind: CopyKind; status: Promise<number> }>;

/** Extracts what follows the first line. */
function receive(ssh: Foreground, work: string, options: readonly string[]): Received {
  const { stdout } = ssh.child as ChildProcess & { stdout: NonNullable<ChildProcess['stdout']> };
  const received: Received = new Promise((resolve, reject) => {
    let head = Buffer.alloc(0);
    const onData = (d: Buffer): void => {
      head = Buffer.concat([head, d]);
      const end = head.indexOf('\n');
      if (end < 0 && head.length < MAX_HEAD) return;
      stdout.off('data', onData);
      const kind = kindOf(head.subarray(0, end).toString());
      if (kind === null) {
        stdout.resume();
        ssh.stop();
        reject(new AnkaError('guest', 'the guest printed something else than the copy; check the start-up files of its shell'));
        return;
      }
      const tar = startTar(['--extract', '--file=-', ...options], ['pipe', 'inherit'], work);
      resolve({ kind, status: statusOf(tar) });
      // an incomplete copy is of no use: nothing waits for a disk that does not answer, nor for a tar that has exited
      ssh.child.once('exit', (code) => code !== 0 && tar.kill('SIGKILL'));
      tar.once('close', () => stdout.resume());
      tar.stdin?.write(head.subarray(end + 1));
      stdout.pipe(tar.stdin as NonNullable<typeof tar.stdin>);
    };
    stdout.on('data', onData);
    stdout.once('end', () => reject(new AnkaError('guest', 'the guest sent nothing')));
  });
  received.catch(() => {}); // looked at once ssh has exited
  return received;
}

/** Moves what was extracted to where cp(1) puts it. */
function place(p: { work: string; kind: CopyKind; path: string; destination: string; isDirectory: boolean; keepExisting: boolean }): void {
  const { work, kind, path, destination, isDirectory, keepExisting } = p;
  const options = { keepExisting };
  if (kind === 'm' && !isDirectory) throw bad(`'${destination}' is not a directory`);
  const name = baseName(path);
  const source = kind === 'f' ? join(work, name) : work;
  mergeInto(source, isDirectory && (kind === 'd' || kind === 'f') ? join(destination, name) : destination, options);
}
