/**
 * Starts and adopts QEMU processes.
 *
 * Theory of operation: QEMU is spawned detached, as the VM's own user, with the tap as an inherited descriptor;
 * everything else goes over its QMP socket. After a restart of the daemon a machine is found by its pid file; the
 * process must have this UUID among its arguments.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NicBackend } from '../engine/engine.ts';
import { runsWith } from '../host/process.ts';
import { AnkaError } from '../lib/errors.ts';
import { probeAccelerator } from './accelerator.ts';
import type { Accelerator, Machine, MachineRunner, MachineSpec } from './machine.ts';
import { machineFiles, qemuArguments } from './qemu-args.ts';
import { lastLines, QemuMachine } from './qemu-machine.ts';
import { Qmp } from './qmp.ts';

const QEMU = 'qemu-system-x86_64';
/** A larger console log is kept as console.log.1 at the next start. */
const CONSOLE_LOG_BYTES = 4 << 20;

/** `cacheDir` keeps the result of the accelerator's probe. */
export function createMachineRunner(cacheDir: string): MachineRunner {
  let accel: Promise<Accelerator> | null = null;
  return {
    accelerator() {
      accel ??= probeAccelerator(cacheDir, QEMU);
      return accel;
    },
    launch,
    adopt,
  };
}

async function launch(spec: MachineSpec, backend: NicBackend | null, onProgress: (fraction: number) => void = () => {}): Promise<Machine> {
  await prepareRunDir(spec);
  const child = spawnQemu(spec, backend);
  /** Exit status, signal or error of a process that exited. */
  let exit: string | null = null;
  child.once('error', (e: NodeJS.ErrnoException) => {
    exit = e.code === 'ENOENT' ? 'ENOENT' : e.message;
  });
  child.once('exit', (code, signal) => {
    exit = exit ?? `status ${code ?? signal}`;
  });
  child.unref();
  const files = machineFiles(spec.runDir);
  try {
    const qmp = await connectQmp(files.qmp, async () => exit === null);
    const machine = new QemuMachine(spec.uuid, child.pid as number, qmp, spec.runDir);
    try {
      await machine.begin(spec, onProgress);
    } catch (cause) {
      await machine.quit();
      throw cause;
    }
    return machine;
  } catch (cause) {
    if (exit === 'ENOENT') throw new AnkaError('missingProgram', `starting ${spec.name} requires QEMU: run 'apt-get install qemu-system-x86'`);
    const log = await lastLines(files.log);
    throw new AnkaError('internal', `starting ${spec.name}: ${log || (cause as Error).message}`, { cause });
  } finally {
    backend?.release();
  }
}

/** Creates the run directory, removes the files of an earlier process, and hands the VM's files to its user. */
async function prepareRunDir(spec: MachineSpec): Promise<void> {
  const files = machineFiles(spec.runDir);
  await mkdir(spec.runDir, { recursive: true, mode: 0o700 });
  for (const f of [files.qmp, files.console, files.pid, files.log]) await rm(f, { force: true });
  await writeFile(files.log, '', { mode: 0o600 });
  if (process.getuid?.() === 0) for (const path of [spec.runDir, files.log, spec.stateDir, spec.disk]) await chown(path, spec.uid, spec.gid);
  const consoleLog = await stat(files.consoleLog).catch(() => null);
  if (consoleLog && consoleLog.size > CONSOLE_LOG_BYTES) await rename(files.consoleLog, join(spec.runDir, 'console.log.1'));
}

function spawnQemu(spec: MachineSpec, backend: NicBackend | null): ChildProcess {
  const root = process.getuid?.() === 0;
  const log = openSync(machineFiles(spec.runDir).log, 'a');
  // root's network process, a user of its own, opens the socket by the group of its directory
  const umask = root && backend?.kind === 'stream' ? process.umask(0o007) : null;
  const child = spawn(QEMU, qemuArguments(spec, backend), {
    detached: true,
    stdio: ['ignore', log, log, backend?.kind === 'tap-fd' ? backend.fd : 'ignore'],
    cwd: spec.stateDir,
    ...(root ? { uid: spec.uid, gid: spec.gid } : {}),
    env: { PATH: process.env['PATH'] ?? '', HOME: spec.stateDir },
  });
  if (umask !== null) process.umask(umask);
  closeSync(log);
  return child;
}

async function adopt(uuid: string, runDir: string): Promise<Machine | null> {
  const files = machineFiles(runDir);
  const pid = Number((await readFile(files.pid, 'utf8').catch(() => '')).trim());
  if (!(pid > 0) || !(await runsWith(pid, uuid))) return null;
  const qmp = await connectQmp(files.qmp, () => runsWith(pid, uuid)).catch(() => null);
  return qmp ? new QemuMachine(uuid, pid, qmp, runDir) : null;
}

/** Connects once QEMU listens. Throws if it exits before. */
async function connectQmp(path: string, isRunning: () => Promise<boolean>): Promise<Qmp> {
  for (;;) {
    try {
      return await Qmp.connect(path);
    } catch (cause) {
      if (!(await isRunning())) throw cause;
      await sleep(20);
    }
  }
}
