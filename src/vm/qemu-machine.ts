/**
 * One QEMU process, controlled over its QMP socket.
 *
 * Theory of operation: the closed QMP connection reports that the process has exited; the events before it, or the end
 * of qemu.log, say why.
 *
 * Memory is saved into a file that QEMU gets as an open descriptor; the guest is paused meanwhile.
 *
 * Limits: QEMU may have been taken over by its guest. What it answers is checked for its type, its logs are read in
 * part only, and no operation waits for it for ever: a copy or a save that does not keep its pace fails.
 */
import { open, rename, rm, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NicBackend } from '../engine/engine.ts';
import { isRunning, type ProcessId } from '../host/process.ts';
import { readTail } from '../host/untrusted-files.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError, wrap } from '../lib/errors.ts';
import { limitLogs } from './log-limit.ts';
import type { Machine, MachineExit, MachineSpec } from './machine.ts';
import { cardProperties, DISK_ID, machineFiles, NETDEV, NIC_ID, tapProperties } from './qemu-args.ts';
import { printable, type Qmp } from './qmp.ts';

/** QEMU is killed if it has not exited so long after `quit`. */
const QUIT_MS = 5000;
/** Time that a guest has to release a card. */
const UNPLUG_MS = 30_000;
/** Time that QEMU has to cancel a job. */
const CANCEL_MS = 30_000;
/** QEMU may write a file for so long, and a second longer for so many bytes of it. */
const FILE_MS = 60_000;
const FILE_BYTES_PER_SECOND = 64 << 10;
const POLL_MS = 50;
/** Between two looks at a process whose QMP connection is closed: the first, and the longest. */
const EXIT_POLL_MS = [20, 500] as const;

/** Bytes of a log that its last lines are taken from. */
const TAIL_BYTES = 2048;

/** The last lines of a log, joined. */
export function lastLines(path: string, count = 3): string {
  return readTail(path, TAIL_BYTES).trim().split('\n').slice(-count).join('; ');
}

/** Properties of an answer; none if it is not an object. */
function objectOf(answer: unknown): Record<string, unknown> {
  return typeof answer === 'object' && answer !== null ? (answer as Record<string, unknown>) : {};
}

function listOf(answer: unknown): Record<string, unknown>[] {
  return Array.isArray(answer) ? answer.map(objectOf) : [];
}

/** Waits until a job is no longer listed. Throws `timeout`. */
async function gone(isListed: () => Promise<boolean>, job: string): Promise<void> {
  const deadline = monotonicMs() + CANCEL_MS;
  while (await isListed()) {
    if (monotonicMs() > deadline) throw new AnkaError('timeout', `QEMU did not cancel ${job} within ${CANCEL_MS / 1000} s`);
    await sleep(POLL_MS);
  }
}

/** Bytes of a file on the disk; 0 if there is none. */
const sizeOf = async (file: string): Promise<number> => ((await stat(file).catch(() => null))?.blocks ?? 0) * 512;

/** Throws `timeout` when a file has been written for longer than its size explains. */
async function demandPace(file: string, since: number): Promise<void> {
  const ms = monotonicMs() - since - FILE_MS;
  if (ms > 0 && ((await sizeOf(file)) * 1000) / FILE_BYTES_PER_SECOND < ms)
    throw new AnkaError('timeout', `QEMU was slower than ${FILE_BYTES_PER_SECOND >> 10} KiB/s`);
}

export function killNow(pid: number): void {
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
  readonly #id: ProcessId;
  #qmp: Qmp;
  /** The daemon asked QEMU to quit. */
  #quitting = false;
  /** Reason of the SHUTDOWN event. */
  #shutdownReason: string | null = null;
  #detached = false;
  readonly #endLimit: () => void;

  constructor(uuid: string, id: ProcessId, qmp: Qmp, runDir: string) {
    this.uuid = uuid;
    this.#id = id;
    this.pid = id.pid;
    this.#qmp = qmp;
    qmp.onEvent((name, data) => {
      if (name === 'SHUTDOWN') this.#shutdownReason = printable(data['reason'] ?? '');
    });
    const { consoleLog, log } = machineFiles(runDir);
    this.#endLimit = limitLogs([consoleLog, log]);
    this.exited = this.#watch(qmp, runDir);
  }

  async #watch(qmp: Qmp, runDir: string): Promise<MachineExit> {
    await qmp.closed;
    if (this.#detached) return new Promise(() => {});
    const [first, longest] = EXIT_POLL_MS;
    for (let ms: number = first; await isRunning(this.#id); ms = Math.min(2 * ms, longest)) await sleep(ms);
    this.#endLimit();
    if (this.#quitting) return { cause: 'quit', reason: '' };
    if (this.#shutdownReason === 'guest-shutdown') return { cause: 'guest-shutdown', reason: '' };
    const log = lastLines(machineFiles(runDir).log);
    return {
      cause: 'crash',
      reason: this.#shutdownReason?.startsWith('host-')
        ? `QEMU was stopped by another process (${this.#shutdownReason})`
        : `QEMU exited unexpectedly${log ? `: ${log}` : ' (killed)'}`,
    };
  }

  async status(): Promise<'running' | 'paused'> {
    const { running } = objectOf(await this.#qmp.command('query-status'));
    return running === true ? 'running' : 'paused';
  }

  async powerDown(): Promise<void> {
    await this.#qmp.command('system_powerdown').catch((cause: Error) => {
      if (!this.#qmp.isClosed) throw cause; // else QEMU is exiting
    });
  }

  async quit(): Promise<void> {
    this.#quitting = true;
    void this.#qmp.command('quit').catch(() => {});
    const exited = await Promise.race([this.exited.then(() => true), sleep(QUIT_MS, false, { ref: false })]);
    if (!exited && (await isRunning(this.#id))) killNow(this.pid);
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
    const ended = this.exited.then(() => {
      throw new AnkaError('badState', 'the VM stopped meanwhile');
    });
    const done = await Promise.race([removed.then(() => true), ended, sleep(UNPLUG_MS, false, { ref: false })]);
    if (!done) throw new AnkaError('guest', `the guest did not release its network card within ${UNPLUG_MS / 1000} s; stop the VM, then delete the card`);
    await this.#qmp.command('netdev_del', { id: NETDEV });
  }

  async addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void> {
    try {
      // an interrupted addition or removal may have left a netdev
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {});
      if (backend.kind === 'tap') {
        const fds = await this.#passAll('tap', backend.fds);
        await this.#qmp.command('netdev_add', tapProperties({ fds, vhostFds: await this.#passAll('vhost', backend.vhostFds) }));
      } else {
        await this.#qmp.command('netdev_add', { type: 'stream', id: NETDEV, server: true, addr: { type: 'unix', path: backend.path } });
        await backend.listening();
      }
      await this.#qmp.command('device_add', cardProperties(nic, backend));
      // before the guest can have probed its new card
      if (!nic.linkUp) await this.setLink(false);
    } catch (cause) {
      await this.#qmp.command('netdev_del', { id: NETDEV }).catch(() => {}); // it may not exist yet
      throw wrap('adding the network card', cause);
    } finally {
      backend.release();
    }
  }

  /** Passes descriptors; QEMU refers to them by the names that are returned. */
  async #passAll(title: string, fds: readonly number[]): Promise<string[]> {
    const names = fds.map((_, i) => `${title}${i}`);
    for (const [i, fd] of fds.entries()) await this.#qmp.passDescriptor(names[i] as string, fd);
    return names;
  }

  async hasCard(): Promise<boolean> {
    const devices = listOf(await this.#qmp.command('qom-list', { path: '/machine/peripheral' }));
    return devices.some((d) => d['name'] === NIC_ID);
  }

  async suspendTo(file: string, onProgress: (fraction: number) => void = () => {}): Promise<void> {
    const part = `${file}.part`;
    await this.#qmp.command('stop');
    try {
      await this.#qmp.command('migrate-set-parameters', { 'max-bandwidth': 1e12 });
      await rm(part, { force: true });
      const memory = await open(part, 'wx', 0o600);
      try {
        await this.#qmp.passDescriptor('memory', memory.fd);
        await this.#qmp.command('migrate', { uri: 'fd:memory' });
        const since = monotonicMs();
        await this.#migrated(onProgress, () => demandPace(part, since));
      } finally {
        await memory.close();
      }
    } catch (cause) {
      await rm(part, { force: true });
      await this.#qmp.command('cont').catch(() => {});
      throw wrap("saving the guest's memory", cause);
    }
    await rename(part, file);
    await this.quit();
  }

  async copyDisk(file: string): Promise<void> {
    const since = monotonicMs();
    /** Its error once it has ended; empty for none. */
    const job = { end: null as string | null };
    const off = this.#qmp.onEvent((name, data) => {
      if (name === 'BLOCK_JOB_COMPLETED' && data['device'] === 'clone') job.end ??= data['error'] ? printable(data['error']) : '';
    });
    try {
      await this.#qmp.command('drive-backup', { 'job-id': 'clone', device: DISK_ID, target: file, sync: 'top', format: 'qcow2', mode: 'existing' });
      while (job.end === null) {
        if (this.#qmp.isClosed) throw new Error('the VM stopped meanwhile');
        await demandPace(file, since);
        await sleep(POLL_MS);
      }
      if (job.end !== '') throw new Error(job.end);
    } catch (cause) {
      await this.#qmp.command('block-job-cancel', { device: 'clone', force: true }).catch(() => {}); // it may not run
      throw wrap('copying the disk', cause);
    } finally {
      off();
    }
  }

  async cancelJobs(): Promise<void> {
    const copies = async (): Promise<boolean> => listOf(await this.#qmp.command('query-block-jobs')).some((j) => j['device'] === 'clone');
    // the copy may complete in between
    if (await copies()) await this.#qmp.command('block-job-cancel', { device: 'clone', force: true }).catch(() => {});
    await gone(copies, 'the copy of the disk');
    const saves = async (): Promise<boolean> =>
      !['completed', 'failed', 'cancelled', undefined].includes(objectOf(await this.#qmp.command('query-migrate'))['status'] as string | undefined);
    if (await saves()) await this.#qmp.command('migrate_cancel');
    await gone(saves, 'saving memory');
  }

  async unpause(): Promise<void> {
    await this.#qmp.command('cont');
  }

  /** Polls until the current migration is complete. `demand` throws when it takes too long. */
  async #migrated(onProgress: (fraction: number) => void, demand: () => Promise<void>): Promise<void> {
    for (;;) {
      await demand();
      const m = objectOf(await this.#qmp.command('query-migrate'));
      const { total, remaining } = objectOf(m['ram']);
      if (typeof total === 'number' && typeof remaining === 'number' && total > 0) onProgress(Math.min(1, Math.max(0, 1 - remaining / total)));
      if (m['status'] === 'completed') return;
      if (m['status'] === 'failed' || m['status'] === 'cancelled') throw new Error(printable(m['error-desc'] ?? `migration ${m['status']}`));
      await sleep(POLL_MS);
    }
  }

  /**
   * Runs the CPUs once the saved memory is loaded, with the link as specified. The memory's file is removed before: it
   * no longer matches the disk once the CPUs have run, and a second resume from it would corrupt the guest's file
   * systems.
   */
  async begin(spec: MachineSpec, onProgress: (fraction: number) => void): Promise<void> {
    if (spec.resumeFrom) {
      const { resumeFrom } = spec;
      const since = monotonicMs();
      await this.#migrated(onProgress, () => demandPace(resumeFrom, since));
    } else await this.#growDisk(spec.diskSize);
    if (spec.nic && !spec.nic.linkUp) await this.setLink(false);
    if (spec.resumeFrom) await rm(spec.resumeFrom);
    await this.#qmp.command('cont');
  }

  /** Grows the disk to `size` bytes, before the guest sees it. QEMU does it, as no other program opens the image. */
  async #growDisk(size: number): Promise<void> {
    const disk = listOf(await this.#qmp.command('query-block')).find((b) => b['device'] === DISK_ID);
    const now = objectOf(objectOf(disk?.['inserted'])['image'])['virtual-size'];
    if (typeof now === 'number' && now < size) await this.#qmp.command('block_resize', { device: DISK_ID, size });
  }

  detach(): void {
    this.#detached = true;
    this.#endLimit();
    this.#qmp.close();
  }
}
