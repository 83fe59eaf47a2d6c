/**
 * One QEMU process, controlled over its QMP socket.
 *
 * Theory of operation: the closed QMP connection reports that the process has exited; the events before it, or the end
 * of qemu.log, say why.
 *
 * Limits: QEMU 7.2 has no `file:` migration, so memory is saved through `exec:cat`; the guest is paused meanwhile.
 */
import { readFile, rename, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NicBackend } from '../engine/engine.ts';
import { runsWith } from '../host/process.ts';
import { AnkaError, wrap } from '../lib/errors.ts';
import type { Machine, MachineExit, MachineSpec } from './machine.ts';
import { cardProperties, machineFiles, NETDEV, NIC_ID } from './qemu-args.ts';
import type { Qmp } from './qmp.ts';

/** QEMU is killed if it has not exited so long after `quit`. */
const QUIT_MS = 5000;
/** Time that a guest has to release a card. */
const UNPLUG_MS = 30_000;

/** The last lines of a log, joined. */
export async function lastLines(path: string, count = 3): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim().split('\n').slice(-count).join('; ');
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ESRCH') throw cause; // else it has just exited
  }
}

export class QemuMachine implements Machine {
  readonly uuid: string;
  readonly pid: number;
  readonly exited: Promise<MachineExit>;
  #qmp: Qmp;
  /** The daemon asked QEMU to quit. */
  #quitting = false;
  /** Reason of the SHUTDOWN event. */
  #shutdownReason: string | null = null;
  #detached = false;

  constructor(uuid: string, pid: number, qmp: Qmp, runDir: string) {
    this.uuid = uuid;
    this.pid = pid;
    this.#qmp = qmp;
    qmp.onEvent((name, data) => {
      if (name === 'SHUTDOWN') this.#shutdownReason = String(data['reason'] ?? '');
    });
    this.exited = this.#watch(qmp, runDir);
  }

  async #watch(qmp: Qmp, runDir: string): Promise<MachineExit> {
    await qmp.closed;
    if (this.#detached) return new Promise(() => {});
    while (await runsWith(this.pid, this.uuid)) await sleep(20);
    if (this.#quitting) return { cause: 'quit', reason: '' };
    if (this.#shutdownReason === 'guest-shutdown') return { cause: 'guest-shutdown', reason: '' };
    const log = await lastLines(machineFiles(runDir).log);
    return {
      cause: 'crash',
      reason: this.#shutdownReason?.startsWith('host-')
        ? `QEMU was stopped by another process (${this.#shutdownReason})`
        : `QEMU exited unexpectedly${log ? `: ${log}` : ' (killed)'}`,
    };
  }

  async status(): Promise<'running' | 'paused'> {
    const { running } = (await this.#qmp.command('query-status')) as { running: boolean };
    return running ? 'running' : 'paused';
  }

  async powerDown(): Promise<void> {
    await this.#qmp.command('system_powerdown').catch((cause: Error) => {
      if (!this.#qmp.isClosed) throw cause; // else QEMU is exiting
    });
  }

  async quit(): Promise<void> {
    this.#quitting = true;
    await this.#qmp.command('quit').catch(() => {});
    const exited = await Promise.race([this.exited.then(() => true), sleep(QUIT_MS, false, { ref: false })]);
    if (!exited && (await runsWith(this.pid, this.uuid))) killNow(this.pid);
    await this.exited;
  }

  async reset(): Promise<void> {
    await this.#qmp.command('system_reset');
  }

  async setLink(up: boolean): Promise<void> {
    await this.#qmp.command('set_link', { name: NIC_ID, up });
  }

  async removeCard(): Promise<void> {
    const removed = new Promise<void>((resolve) => {
      const off = this.#qmp.onEvent((name, data) => {
        if (name === 'DEVICE_DELETED' && data['device'] === NIC_ID) {
          off();
          resolve();
        }
      });
    });
    await this.#qmp.command('device_del', { id: NIC_ID });
    const done = await Promise.race([removed.then(() => true), sleep(UNPLUG_MS, false, { ref: false })]);
    if (!done) throw new AnkaError('guest', `the guest did not release its network card within ${UNPLUG_MS / 1000} s; stop the VM, then delete the card`);
    await this.#qmp.command('netdev_del', { id: NETDEV });
  }

  async addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void> {
    try {
      // an interrupted addition or removal may have left a netdev
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {});
      if (backend.kind === 'tap-fd') {
        await this.#qmp.passDescriptor(NETDEV, backend.fd);
        await this.#qmp.command('netdev_add', { type: 'tap', id: NETDEV, fd: NETDEV });
      } else {
        await this.#qmp.command('netdev_add', { type: 'stream', id: NETDEV, server: true, addr: { type: 'unix', path: backend.path } });
      }
      await this.#qmp.command('device_add', cardProperties(nic));
      // before the guest can have probed its new card
      if (!nic.linkUp) await this.setLink(false);
    } catch (cause) {
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {}); // it may not exist yet
      throw wrap('adding the network card', cause);
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
      throw wrap("saving the guest's memory", cause);
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
    await Promise.race([done, this.exited.then(() => Promise.reject(new AnkaError('internal', 'the VM stopped while its disk was copied')))]);
  }

  async cancelJobs(): Promise<void> {
    const copies = async (): Promise<boolean> => ((await this.#qmp.command('query-block-jobs')) as { device: string }[]).some((j) => j.device === 'clone');
    // the copy may complete in between
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

  /** Polls until the current migration is complete. */
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
   * Runs the CPUs once the saved memory is loaded, with the link as specified. The memory's file is removed before: it
   * no longer matches the disk once the CPUs have run, and a second resume from it would corrupt the guest's file
   * systems.
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
