/**
 * Starting, adopting and ending QEMU processes.
 *
 * Theory of operation: QEMU is spawned detached, under the machine's own user id, with the tap as an inherited
 * descriptor; everything else goes over its QMP socket. A machine is found again by its pid file, whose process must
 * have been started with this UUID. The end of the process is noticed by its QMP connection closing, and explained by
 * the events before it, or by the end of qemu.log.
 *
 * Limits: QEMU 7.2 has no `file:` migration, so memory is saved through `exec:cat`; the guest stands still while it is
 * saved.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { chown, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NicBackend } from '../engine/engine.ts';
import { runsWith } from '../host/process.ts';
import { AnkaError, wrap } from '../lib/errors.ts';
import { probeAccelerator } from './accelerator.ts';
import type { Accelerator, Machine, MachineExit, MachineRunner, MachineSpec } from './machine.ts';
import { cardProperties, machineFiles, NETDEV, NIC_ID, qemuArguments } from './qemu-args.ts';
import { Qmp } from './qmp.ts';

const QEMU = 'qemu-system-x86_64';

async function lastLines(path: string, count = 3): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-count).join('; ');
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause; // else it has just ended
  }
}

class QemuMachine implements Machine {
  readonly uuid: string;
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  #qmp: Qmp;
  #asked = false;
  #shutdown: string | null = null;
  #detached = false;

  constructor(uuid: string, pid: number, qmp: Qmp, runDir: string) {
    this.uuid = uuid;
    this.pid = pid;
    this.#qmp = qmp;
    qmp.onEvent((name, data) => {
      if (name === 'SHUTDOWN') this.#shutdown = String(data['reason'] ?? '');
    });
    this.exited = this.#watch(qmp, runDir);
  }

  async #watch(qmp: Qmp, runDir: string): Promise<MachineExit> {
    await qmp.closed;
    if (this.#detached) return new Promise(() => {});
    while (await runsWith(this.pid, this.uuid)) await sleep(20);
    if (this.#asked) return { cause: 'quit', reason: '' };
    if (this.#shutdown === 'guest-shutdown') return { cause: 'guest-shutdown', reason: '' };
    const log = await lastLines(machineFiles(runDir).log);
    return {
      cause: 'crash',
      reason: this.#shutdown?.startsWith('host-')
        ? `QEMU was ended from outside (${this.#shutdown})`
        : `QEMU ended unexpectedly${log ? `: ${log}` : ' (killed)'}`,
    };
  }

  async status(): Promise<'running' | 'paused'> {
    const { running } = (await this.#qmp.command('query-status')) as { running: boolean };
    return running ? 'running' : 'paused';
  }

  async powerDown(): Promise<void> {
    await this.#qmp.command('system_powerdown').catch((cause: Error) => {
      if (!this.#qmp.gone) throw cause; // else it is ending by itself
    });
  }

  async quit(): Promise<void> {
    this.#asked = true;
    await this.#qmp.command('quit').catch(() => {});
    const gone = await Promise.race([this.exited.then(() => true), sleep(5000, false, { ref: false })]);
    if (!gone && (await runsWith(this.pid, this.uuid))) killNow(this.pid);
    await this.exited;
  }

  async reset(): Promise<void> {
    await this.#qmp.command('system_reset');
  }

  async setLink(up: boolean): Promise<void> {
    await this.#qmp.command('set_link', { name: NIC_ID, up });
  }

  async removeCard(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      const off = this.#qmp.onEvent((name, data) => {
        if (name === 'DEVICE_DELETED' && data['device'] === NIC_ID) {
          off();
          resolve();
        }
      });
    });
    await this.#qmp.command('device_del', { id: NIC_ID });
    const done = await Promise.race([gone.then(() => true), sleep(30_000, false, { ref: false })]);
    if (!done) throw new AnkaError('guest', 'the guest did not let go of its network card within 30 s; stop the VM first');
    await this.#qmp.command('netdev_del', { id: NETDEV });
  }

  async addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void> {
    try {
      // left by an addition or removal that was cut off
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {});
      if (backend.kind === 'tap-fd') {
        await this.#qmp.handOver(NETDEV, backend.fd);
        await this.#qmp.command('netdev_add', { type: 'tap', id: NETDEV, fd: NETDEV });
      } else {
        await this.#qmp.command('netdev_add', { type: 'stream', id: NETDEV, server: true, addr: { type: 'unix', path: backend.path } });
      }
      await this.#qmp.command('device_add', cardProperties(nic));
      // long before any guest has looked at its new card
      if (!nic.linkUp) await this.setLink(false);
    } catch (cause) {
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {}); // it may not have come that far
      throw wrap('putting the card in', cause);
    } finally {
      backend.release();
    }
  }

  async hasCard(): Promise<boolean> {
    const devices = (await this.#qmp.command('qom-list', { path: '/machine/peripheral' })) as { name: string }[];
    return devices.some((d) => d.name === NIC_ID);
  }

  async suspendTo(file: string, onProgress: (fraction: number) => void = () => {}): Promise<void> {
    const part = `${file}.part`;
    await this.#qmp.command('stop');
    try {
      await this.#qmp.command('migrate-set-parameters', { 'max-bandwidth': 1e12 });
      await this.#qmp.command('migrate', { uri: `exec:cat >'${part.replaceAll("'", "'\\''")}'` });
      await this.#migrated(onProgress);
    } catch (cause) {
      await rm(part, { force: true });
      await this.#qmp.command('cont').catch(() => {});
      throw wrap('saving the guest’s memory', cause);
    }
    await rename(part, file);
    await this.quit();
  }

  async copyDisk(file: string): Promise<void> {
    const done = new Promise<void>((resolve, reject) => {
      const off = this.#qmp.onEvent((name, data) => {
        if (name !== 'BLOCK_JOB_COMPLETED' || data['device'] !== 'clone') return;
        off();
        if (data['error']) reject(new AnkaError('internal', `copying the disk: ${String(data['error'])}`));
        else resolve();
      });
    });
    await this.#qmp.command('drive-backup', { 'job-id': 'clone', device: 'disk0', target: file, sync: 'top', format: 'qcow2' });
    await Promise.race([done, this.exited.then(() => Promise.reject(new AnkaError('internal', 'the VM ended while its disk was copied')))]);
  }

  async settle(): Promise<void> {
    const copies = async (): Promise<boolean> => ((await this.#qmp.command('query-block-jobs')) as { device: string }[]).some((j) => j.device === 'clone');
    // it may have ended just now
    if (await copies()) await this.#qmp.command('block-job-cancel', { device: 'clone', force: true }).catch(() => {});
    while (await copies()) await sleep(20);
    const saves = async (): Promise<boolean> =>
      !['completed', 'failed', 'cancelled', undefined].includes(((await this.#qmp.command('query-migrate')) as { status?: string }).status);
    if (await saves()) await this.#qmp.command('migrate_cancel');
    while (await saves()) await sleep(20);
  }

  async unpause(): Promise<void> {
    await this.#qmp.command('cont');
  }

  /** Polls until the migration that runs is complete. */
  async #migrated(onProgress: (fraction: number) => void): Promise<void> {
    for (;;) {
      const m = (await this.#qmp.command('query-migrate')) as {
        status?: string;
        'error-desc'?: string;
        ram?: { transferred: number; total: number; remaining: number };
      };
      if (m.ram?.total) onProgress(1 - m.ram.remaining / m.ram.total);
      if (m.status === 'completed') return;
      if (m.status === 'failed' || m.status === 'cancelled') throw new Error(m['error-desc'] ?? `migration ${m.status}`);
      await sleep(50);
    }
  }

  /**
   * Lets the CPUs run: after the incoming memory is there, with the cable as wanted. The file of the memory goes first:
   * from the first instruction on it does not fit the disk any more, and whoever resumed from it once more would ruin
   * the guest's file systems.
   */
  async begin(spec: MachineSpec, onProgress: (fraction: number) => void): Promise<void> {
    if (spec.resumeFrom) await this.#migrated(onProgress);
    if (spec.nic && !spec.nic.linkUp) await this.setLink(false);
    if (spec.resumeFrom) await rm(spec.resumeFrom);
    await this.#qmp.command('cont');
  }

  detach(): void {
    this.#detached = true;
    this.#qmp.close();
  }
}

/** Connects as soon as the socket answers, as long as the process lives. */
async function connectQmp(path: string, alive: () => Promise<boolean>): Promise<Qmp> {
  for (;;) {
    try {
      return await Qmp.connect(path);
    } catch (cause) {
      if (!(await alive())) throw cause;
      await sleep(20);
    }
  }
}

/** The real runner. `cacheDir` keeps what was found out about the accelerator. */
export function createMachineRunner(cacheDir: string): MachineRunner {
  let accel: Promise<Accelerator> | null = null;
  return {
    accelerator() {
      accel ??= probeAccelerator(cacheDir, QEMU);
      return accel;
    },

    async launch(spec, backend: NicBackend | null, onProgress = () => {}) {
      const files = machineFiles(spec.runDir);
      await mkdir(spec.runDir, { recursive: true, mode: 0o700 });
      for (const f of [files.qmp, files.console, files.pid, files.log]) await rm(f, { force: true });
      await writeFile(files.log, '', { mode: 0o600 });
      const root = process.getuid?.() === 0;
      if (root) for (const path of [spec.runDir, files.log, spec.stateDir, spec.disk]) await chown(path, spec.uid, spec.gid);
      const old = await stat(files.consoleLog).catch(() => null);
      if (old && old.size > 4 << 20) await rename(files.consoleLog, join(spec.runDir, 'console.log.1'));
      const log = openSync(files.log, 'a');
      const fd = backend?.kind === 'tap-fd' ? backend.fd : ('ignore' as const);
      // root's network process, a user of its own, gets to the socket by the group of its folder
      const mask = root && backend?.kind === 'stream' ? process.umask(0o007) : null;
      const child = spawn(QEMU, qemuArguments(spec, backend), {
        detached: true,
        stdio: ['ignore', log, log, fd],
        cwd: spec.stateDir,
        ...(root ? { uid: spec.uid, gid: spec.gid } : {}),
        env: { PATH: process.env['PATH'] ?? '', HOME: spec.stateDir },
      });
      if (mask !== null) process.umask(mask);
      closeSync(log);
      let ended: string | null = null;
      child.once('error', (e: NodeJS.ErrnoException) => {
        ended = e.code === 'ENOENT' ? 'ENOENT' : e.message;
      });
      child.once('exit', (code, signal) => {
        ended = ended ?? `status ${code ?? signal}`;
      });
      child.unref();
      try {
        const qmp = await connectQmp(files.qmp, async () => ended === null);
        const machine = new QemuMachine(spec.uuid, child.pid as number, qmp, spec.runDir);
        try {
          await machine.begin(spec, onProgress);
        } catch (cause) {
          await machine.quit();
          throw cause;
        }
        return machine;
      } catch (cause) {
        if (ended === 'ENOENT') throw new AnkaError('missingProgram', `starting ${spec.name} needs QEMU: run 'apt-get install qemu-system-x86'`);
        const said = await lastLines(files.log);
        throw new AnkaError('internal', `starting ${spec.name}: ${said || (cause as Error).message}`, { cause });
      } finally {
        backend?.release();
      }
    },

    async adopt(uuid, runDir) {
      const files = machineFiles(runDir);
      const pid = Number((await readFile(files.pid, 'utf8').catch(() => '')).trim());
      if (!(pid > 0) || !(await runsWith(pid, uuid))) return null;
      const qmp = await connectQmp(files.qmp, () => runsWith(pid, uuid)).catch(() => null);
      return qmp ? new QemuMachine(uuid, pid, qmp, runDir) : null;
    },
  };
}
