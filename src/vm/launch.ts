/**
 * Starts and adopts QEMU processes.
 *
 * Theory of operation: QEMU is spawned detached, as the VM's own user. It inherits what it needs as open descriptors:
 * the tap's queues with vhost-net, the listening sockets of QMP and console, the logs, the memory to resume from and
 * cloud-init's seed. So it can create no file: both of its directories belong to the daemon's user, and only the disk
 * to QEMU's. Everything else goes over QMP. After a restart of the daemon a machine is found by the record of its
 * process (process-record.ts), and in the process table: by its user, and its UUID or its disk. Before a disk is
 * touched, QEMU's lock on it is looked at too.
 *
 * Limits: under an ordinary user's daemon QEMU is that user's own process, and none of this holds.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { lstat, mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NicBackend } from '../engine/engine.ts';
import { isFileLocked } from '../host/ffi/lock.ts';
import { openListener } from '../host/ffi/unix-socket.ts';
import { findProcesses, identify, isRunning, type ProcessId } from '../host/process.ts';
import { isInstalled } from '../host/programs.ts';
import { removeTree, takeDirectory } from '../host/untrusted-files.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError } from '../lib/errors.ts';
import { acceleratorProbe } from './accelerator.ts';
import { trimLog } from './log-limit.ts';
import type { Machine, MachineFiles, MachineRunner, MachineSpec } from './machine.ts';
import { recordedProcess, recordProcess } from './process-record.ts';
import { type Descriptors, machineFiles, qemuArguments } from './qemu-args.ts';
import { killNow, lastLines, QemuMachine } from './qemu-machine.ts';
import { Qmp } from './qmp.ts';

const QEMU = 'qemu-system-x86_64';
/** Time that a new QEMU has until its greeting, and one that runs already, ms. */
const START_MS = 120_000;
const ADOPT_MS = 10_000;
/** No file of QEMU's grows beyond twice its disk or its memory, and this, bytes. */
const FILE_BYTES = 1 << 30;
const MIB = 1 << 20;
/** Our descriptors follow no link, and replace none. */
const READ = constants.O_RDONLY | constants.O_NOFOLLOW;
const APPEND = constants.O_WRONLY | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** `cacheDir`: see `acceleratorProbe`. */
export function createMachineRunner(cacheDir: string): MachineRunner {
  return {
    accelerator: acceleratorProbe(cacheDir, QEMU),
    launch,
    adopt,
    isRunning: async (files) => (await processesOf(files)).length > 0,
    demandStopped,
    kill,
    secure,
  };
}

async function launch(spec: MachineSpec, backend: NicBackend | null, onProgress: (fraction: number) => void = () => {}): Promise<Machine> {
  const files = machineFiles(spec.runDir);
  /** Exit status, signal or error of a process that exited. */
  let exit: string | null = null;
  try {
    secure(spec);
    await demandStopped(spec, spec.name);
    if (!isInstalled(QEMU)) {
      exit = 'ENOENT';
      throw new AnkaError('missingProgram', QEMU);
    }
    await prepareRunDir(spec);
    const child = spawnQemu(spec, backend);
    child.once('error', (e: NodeJS.ErrnoException) => {
      exit = e.code === 'ENOENT' ? 'ENOENT' : e.message;
    });
    child.once('exit', (code, signal) => {
      exit = exit ?? `status ${code ?? signal}`;
    });
    child.unref();
    const id = child.pid === undefined ? null : await identify(child.pid);
    const qmp = await connectQmp(files.qmp, START_MS, async () => exit === null);
    if (id === null) throw new AnkaError('internal', 'QEMU has exited');
    const machine = new QemuMachine(spec.uuid, id, qmp, spec.runDir);
    try {
      if (backend?.kind === 'stream') await backend.listening();
      recordProcess(spec.stateDir, id); // before the guest runs
      await machine.begin(spec, onProgress);
    } catch (cause) {
      await machine.quit();
      throw cause;
    }
    return machine;
  } catch (cause) {
    if (exit === 'ENOENT') throw new AnkaError('missingProgram', `starting ${spec.name} requires QEMU: run 'apt-get install qemu-system-x86'`);
    if (cause instanceof AnkaError && (cause.kind === 'badState' || cause.kind === 'noRights')) throw cause;
    const log = lastLines(files.log);
    throw new AnkaError('internal', `starting ${spec.name}: ${log || (cause as Error).message}`, { cause });
  } finally {
    backend?.release();
  }
}

/** Gives what an earlier version left to QEMU's user back to root, and the disk to that user. */
function secure({ stateDir, uid }: MachineFiles, disk = 'disk.qcow2'): void {
  const root = process.getuid?.() ?? 0;
  takeDirectory(stateDir, uid, { [disk]: uid, 'seed.img': root, memory: root });
}

/** Creates the run directory, and removes the sockets and the log of an earlier process. */
async function prepareRunDir(spec: MachineSpec): Promise<void> {
  const files = machineFiles(spec.runDir);
  const before = await lstat(spec.runDir).catch(() => null);
  if (before && (!before.isDirectory() || before.uid !== process.getuid?.())) await removeTree(spec.runDir);
  await mkdir(spec.runDir, { recursive: true, mode: 0o700 });
  for (const f of [files.qmp, files.console, files.log]) await rm(f, { force: true });
  await trimLog(files.consoleLog);
}

/** Descriptors 0 to 2 are standard input, output and errors. */
const FIRST_FD = 3;

function spawnQemu(spec: MachineSpec, backend: NicBackend | null): ChildProcess {
  const root = process.getuid?.() === 0;
  const files = machineFiles(spec.runDir);
  const opened: number[] = [];
  const inherited: number[] = [];
  const pass = (fd: number): number => FIRST_FD + inherited.push(fd) - 1;
  const open = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  try {
    const log = open(openSync(files.log, APPEND, 0o600));
    const descriptors: Descriptors = {
      qmp: pass(open(openListener(files.qmp))),
      console: pass(open(openListener(files.console))),
      consoleLog: pass(open(openSync(files.consoleLog, APPEND, 0o600))),
      ...(backend?.kind === 'tap' ? { tap: { fds: backend.fds.map(pass), vhostFds: backend.vhostFds.map(pass) } } : {}),
      ...(spec.resumeFrom ? { memory: pass(open(openSync(spec.resumeFrom, READ))) } : {}),
      ...(spec.boot.kind === 'firmware' && spec.boot.seed ? { seed: pass(open(openSync(spec.boot.seed, READ))) } : {}),
    };
    const [program, ...words] = [...limits(spec), QEMU, ...qemuArguments(spec, backend, descriptors)] as [string, ...string[]];
    return spawn(program, words, {
      detached: true,
      stdio: ['ignore', log, log, ...inherited],
      cwd: '/',
      ...(root ? { uid: spec.uid, gid: spec.gid } : {}),
      env: { PATH: process.env['PATH'] ?? '', HOME: spec.stateDir },
    });
  } finally {
    for (const fd of opened) closeSync(fd);
  }
}

/**
 * The command that sets QEMU's limits, as its user: root may lack the right to set those of another one. QEMU is killed
 * when a file of its exceeds the limit. A core dump would hold the guest's memory.
 */
function limits({ diskSize, ram }: MachineSpec): string[] {
  const bytes = 2 * Math.max(diskSize, ram * MIB) + FILE_BYTES;
  return isInstalled('prlimit') ? ['prlimit', `--fsize=${bytes}:${bytes}`, '--core=0:0', '--'] : [];
}

const diskIn = (stateDir: string): string => `${stateDir}/disk.qcow2`;

/** The machine's processes: one, unless QEMU was started by somebody else too. */
async function processesOf({ uuid, uid, stateDir }: MachineFiles): Promise<ProcessId[]> {
  const recorded = await recordedProcess(stateDir, uid);
  const found = await findProcesses({ uid, arguments: ['-uuid', uuid], file: diskIn(stateDir) });
  return recorded ? [recorded, ...found.filter(({ pid }) => pid !== recorded.pid)] : found;
}

/** Throws `badState` while the machine has a process, or another process uses its disk. */
async function demandStopped(files: MachineFiles, name: string): Promise<void> {
  if ((await processesOf(files)).length > 0) throw new AnkaError('badState', `${name} has a QEMU process already; run 'anka stop -f ${name}' to stop it`);
  demandUnusedDisk(files);
}

function demandUnusedDisk({ stateDir }: MachineFiles): void {
  const disk = diskIn(stateDir);
  if (isFileLocked(disk)) throw new AnkaError('badState', `${disk} is used by another process; run 'fuser -v ${disk}' to find it`);
}

async function adopt(files: MachineFiles): Promise<Machine | null> {
  const [id] = await processesOf(files);
  if (!id) return null;
  const qmp = await connectOwnQmp(files, id);
  return new QemuMachine(files.uuid, id, qmp, files.runDir);
}

/** Throws if the socket was removed, is another process's, or is not answered on. */
async function connectOwnQmp({ runDir, uid }: MachineFiles, id: ProcessId): Promise<Qmp> {
  takeDirectory(runDir, uid, {});
  const { qmp } = machineFiles(runDir);
  const stat = await lstat(qmp);
  if (!stat.isSocket() || (stat.uid !== uid && stat.uid !== process.getuid?.())) throw new AnkaError('internal', `${qmp} is not this VM's socket`);
  return connectQmp(qmp, ADOPT_MS, () => isRunning(id));
}

/** Kills what is left of a machine, and demands that nothing else uses its disk. */
async function kill(files: MachineFiles): Promise<void> {
  for (const id of await processesOf(files)) {
    killNow(id.pid);
    while (await isRunning(id)) await sleep(20);
  }
  demandUnusedDisk(files);
}

/** Connects once QEMU answers. Throws if it exits before, or does not answer in time. */
async function connectQmp(path: string, limitMs: number, isAlive: () => Promise<boolean>): Promise<Qmp> {
  const deadline = monotonicMs() + limitMs;
  for (;;) {
    try {
      return await Qmp.connect(path);
    } catch (cause) {
      if (monotonicMs() >= deadline || !(await isAlive())) throw cause;
      await sleep(20);
    }
  }
}
