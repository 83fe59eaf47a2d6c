/**
 * The life of VMs: make, start, stop, suspend, clone, delete.
 *
 * Theory of operation: one operation at a time per VM, others side by side. What each command does in each state stands
 * in vm/lifecycle's table. Work that could be cut off by kill -9 first writes what it is about to do (phase `creating`
 * or `deleting`); `recover` finishes or undoes it at the next start, and adopts every machine whose process it finds,
 * whatever the database says (B6).
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallSettings, OnProgress } from '../../api/service.ts';
import type { CreateRequest, ModifyRequest } from '../../api/types.ts';
import { run } from '../../host/exec.ts';
import { AnkaError } from '../../lib/errors.ts';
import { parseSize } from '../../lib/sizes.ts';
import type { VmRow } from '../../store/vms.ts';
import { ensureBaseImage, ensureKey } from '../../vm/base-image.ts';
import { createOverlay, inspectImage } from '../../vm/disk.ts';
import { transition } from '../../vm/lifecycle.ts';
import type { Boot, Machine, MachineSpec } from '../../vm/machine.ts';
import { writeSeed } from '../../vm/nocloud.ts';
import { type Context, vmName } from '../context.ts';
import { guestController, guestMac, vmUid } from '../desired.ts';
import type { Reconciler } from '../reconcile.ts';
import { settingValue } from '../settings.ts';
import { guestMtu } from './card-mtu.ts';
import { checkVmName, hostName } from './names.ts';
import { addressAsked, chooseUplink, drawOutsideMac, nicSpec, PULSES_MS, plugCard } from './network-card.ts';
import { settlePorts } from './port-forwarding.ts';
import { diskFile } from './show.ts';

const DEFAULT_RAM = '4G';
const DEFAULT_CPUS = 2;
const DEFAULT_DISK = '80G';
const MIB = 1 << 20;
/** The power button is pressed again after this time: a guest that was still booting has not heard of it. */
const PRESS_AGAIN_MS = 5000;
/** What a VM that does not run has of its card. */
const NO_PLACE: Partial<VmRow> = { outsideMac: null, guestMac: null, guestMtu: null, guestController: null, uplink: '' };
/** What a suspended VM becomes whose memory was loaded by a process that is gone. */
const MEMORY_GONE: Partial<VmRow> = { status: 'failed', message: 'its saved memory is gone', ...NO_PLACE };

export class Vms {
  #ctx: Context;
  #reconciler: Reconciler;
  #locks = new Map<string, Promise<unknown>>();
  /** VMs that are being asked to power off: their end is no news of its own. */
  #stopping = new Set<string>();

  constructor(ctx: Context, reconciler: Reconciler) {
    this.#ctx = ctx;
    this.#reconciler = reconciler;
  }

  /** The VM of that name or UUID, made completely. Throws `vmNotFound` as existing clients expect it. */
  find(ref: string): VmRow {
    const vm = this.#ctx.vms.find(ref);
    if (!vm || vm.phase !== 'ready') throw new AnkaError('vmNotFound', `${ref}: not found`);
    return vm;
  }

  /** Runs work on a VM after all that was asked for earlier; the row is read anew. */
  async exclusive<T>(ref: string, work: (vm: VmRow) => Promise<T>): Promise<T> {
    const { uuid } = this.find(ref);
    const before = this.#locks.get(uuid) ?? Promise.resolve();
    const result = before.then(() => work(this.find(uuid)));
    const settled = result.catch(() => {}); // whoever asked is told
    this.#locks.set(uuid, settled);
    try {
      return await result;
    } finally {
      if (this.#locks.get(uuid) === settled) this.#locks.delete(uuid);
    }
  }

  async create(request: CreateRequest, progress: OnProgress): Promise<{ uuid: string }> {
    const ctx = this.#ctx;
    checkVmName(request.name);
    this.#demandFreeName(request.name);
    const ram = checkRam(request.ram_size ?? DEFAULT_RAM);
    const diskSize = size('--disk-size', request.disk_size ?? DEFAULT_DISK, 64 * MIB, 64 * 1024 ** 4);
    let backing: string;
    if (request.app) {
      backing = request.app;
      if (!backing.startsWith('/')) throw new AnkaError('badValue', `app: '${backing}' must be an absolute path`);
      await inspectImage(backing);
    } else backing = (await ensureBaseImage(ctx.paths.baseImage, progress)).disk;
    this.#demandFreeName(request.name);
    const vm = this.#newRow(request.name, { ram, cpus: request.cpu_count ?? DEFAULT_CPUS, diskSize, app: request.app ?? '' });
    await this.#build(vm, async () => {
      progress('making the disk');
      await createOverlay(diskFile(ctx, vm.uuid), backing, diskSize);
      if (vm.app) await writeSeed(join(ctx.paths.vmState(vm.uuid), 'seed.img'), vm.uuid, vm.name, await this.#publicKey());
    });
    ctx.events.emit('vm.created', `made ${vm.name}`, vmName(vm));
    return { uuid: vm.uuid };
  }

  #demandFreeName(name: string): void {
    if (this.#ctx.vms.find(name)) throw new AnkaError('vmExists', `a VM named '${name}' exists already; choose another name, or delete it first`);
  }

  #newRow(name: string, rest: Partial<VmRow> & Pick<VmRow, 'ram' | 'cpus' | 'diskSize'>): VmRow {
    const vm: VmRow = {
      type: 'shared',
      bridge: '',
      uplink: '',
      vlan: null,
      controller: 'virtio-net',
      insideMac: null,
      reservedIp: null,
      isolated: false,
      hasCard: true,
      app: '',
      ...rest,
      uuid: randomUUID(),
      name,
      number: this.#ctx.vms.freeNumber(),
      created: new Date().toISOString(),
      phase: 'creating',
      status: 'stopped',
      message: '',
      outsideMac: null,
      guestMac: null,
      guestMtu: null,
      guestController: null,
    };
    this.#ctx.vms.insert(vm);
    return vm;
  }

  /** Fills a new VM's folder; undone as a whole when anything fails. */
  async #build(vm: VmRow, fill: () => Promise<void>): Promise<void> {
    const dir = this.#ctx.paths.vmState(vm.uuid);
    try {
      await mkdir(dir, { recursive: true, mode: 0o700 });
      await fill();
      this.#ctx.vms.update(vm.uuid, { phase: 'ready' });
    } catch (cause) {
      await rm(dir, { recursive: true, force: true });
      this.#ctx.vms.delete(vm.uuid);
      throw cause;
    }
  }

  /** The public ssh key for guests that are not of the base image. */
  async #publicKey(): Promise<string> {
    const key = join(this.#ctx.paths.state, 'id_ed25519');
    await ensureKey(key);
    return (await readFile(`${key}.pub`, 'utf8')).trim();
  }

  async modify(ref: string, request: ModifyRequest): Promise<void> {
    await this.exclusive(ref, async (vm) => {
      const change: Partial<VmRow> = {};
      if (request.name !== undefined && request.name !== vm.name) {
        checkVmName(request.name);
        if (request.name.toLowerCase() !== vm.name.toLowerCase()) this.#demandFreeName(request.name);
        change.name = request.name;
      }
      if (request.ram_size !== undefined) change.ram = checkRam(request.ram_size);
      if (request.cpu_count !== undefined) change.cpus = request.cpu_count;
      if (vm.status !== 'stopped' && vm.status !== 'failed' && (change.ram !== undefined || change.cpus !== undefined)) {
        throw new AnkaError('badState', `${vm.name} is ${vm.status}; stop it before changing its memory or CPUs`);
      }
      this.#ctx.vms.update(vm.uuid, change);
      if (change.name && this.#ctx.machines.has(vm.uuid)) await this.#reconciler.apply();
    });
  }

  start(ref: string, settings: CallSettings, progress: OnProgress): Promise<void> {
    return this.exclusive(ref, async (vm) => {
      transition(vm.name, vm.status, 'start');
      if (vm.status === 'running') return;
      await this.#start(vm, settings, progress);
    });
  }

  async #start(before: VmRow, settings: CallSettings, progress: OnProgress): Promise<void> {
    const ctx = this.#ctx;
    const resume = before.status === 'suspended';
    let vm = before;
    try {
      if (vm.hasCard) {
        await settlePorts(ctx, this.#reconciler, vm, settings, progress);
        const uplink = vm.type === 'bridge' ? await chooseUplink(ctx, vm, settings) : '';
        const outsideMac = drawOutsideMac(ctx, vm, settings);
        ctx.vms.update(vm.uuid, {
          outsideMac,
          guestMac: guestMac({ ...vm, outsideMac }),
          guestMtu: guestMtu(ctx, vm),
          guestController: guestController(vm),
          uplink,
        });
        vm = this.find(vm.uuid);
      }
      ctx.starting.add(vm.uuid);
      const spec = await this.#spec(vm, resume);
      let backend = null;
      if (vm.hasCard) {
        progress('joining the network');
        const mine = (await this.#reconciler.apply()).find((p) => p.object === `nic:${vm.uuid}` || p.object === 'host' || p.object === 'service');
        if (mine) throw new AnkaError('network', `${vm.name}: ${mine.message}`);
        backend = await (await ctx.engine()).openNic(vm.uuid);
      }
      progress(resume ? 'resuming' : 'starting the guest');
      const machine = await ctx.runner.launch(spec, backend, (f) => progress(resume ? 'resuming' : 'starting the guest', f));
      this.#run(vm, machine);
      if (resume && vm.hasCard && vm.type !== 'disconnected') void this.#plugAfterResume(vm.uuid, machine);
    } catch (cause) {
      ctx.starting.delete(vm.uuid);
      const lost = resume && !(await this.#saved(vm.uuid));
      if (lost) ctx.vms.update(vm.uuid, MEMORY_GONE);
      else if (!resume) ctx.vms.update(vm.uuid, NO_PLACE);
      await this.#reconciler.apply().catch((e: Error) => ctx.log.warn({ error: e.message }, 'after a failed start'));
      throw cause;
    }
    ctx.starting.delete(vm.uuid);
  }

  /**
   * The cable goes in a moment after the resume, so that the guest asks for its address again (B4); longer out when it
   * did not. In the VM's queue of work, so that a cable that was pulled meanwhile stays out.
   */
  async #plugAfterResume(uuid: string, machine: Machine): Promise<void> {
    const ctx = this.#ctx;
    try {
      for (const pulse of PULSES_MS) {
        let since = 0;
        await this.exclusive(uuid, async (vm) => {
          if (ctx.machines.get(uuid) !== machine || !vm.hasCard || vm.type === 'disconnected') return;
          await machine.setLink(false);
          await sleep(pulse);
          since = Date.now();
          await machine.setLink(true);
        });
        const type = ctx.vms.find(uuid)?.type;
        if (since === 0 || (type !== 'shared' && type !== 'host') || (await addressAsked(this.#reconciler, uuid, since)) !== null) return;
      }
      ctx.log.warn({ vm: ctx.vms.find(uuid)?.name }, 'the guest did not ask for an address after it was resumed');
    } catch (cause) {
      ctx.log.warn({ uuid, error: (cause as Error).message }, 'plugging after resume');
    }
  }

  /** A machine runs: note it, and what shall happen when it ends. */
  #run(vm: VmRow, machine: Machine): void {
    const ctx = this.#ctx;
    ctx.machines.set(vm.uuid, machine);
    ctx.vms.update(vm.uuid, { status: 'running', message: '' });
    ctx.events.emit('vm.status', 'runs', vmName(vm));
    void machine.exited.then(async (exit) => {
      if (ctx.machines.get(vm.uuid) !== machine) return;
      ctx.machines.delete(vm.uuid);
      if (exit.cause === 'quit') return; // whoever asked for it does the rest
      ctx.vms.update(vm.uuid, exit.cause === 'crash' ? { status: 'failed', message: exit.reason, ...NO_PLACE } : { status: 'stopped', ...NO_PLACE });
      if (exit.cause === 'crash') ctx.events.emit('vm.status', `failed: ${exit.reason}`, vmName(vm));
      else if (!this.#stopping.has(vm.uuid)) ctx.events.emit('vm.status', 'powered itself off', vmName(vm));
      await this.#reconciler.apply().catch((e: Error) => ctx.log.warn({ error: e.message }, 'after the end of a VM'));
    });
  }

  #memoryFile(uuid: string): string {
    return join(this.#ctx.paths.vmState(uuid), 'memory');
  }

  /** True while there is saved memory to resume from. */
  async #saved(uuid: string): Promise<boolean> {
    return (await stat(this.#memoryFile(uuid)).catch(() => null)) !== null;
  }

  async #spec(vm: VmRow, resume: boolean): Promise<MachineSpec> {
    const ctx = this.#ctx;
    const stateDir = ctx.paths.vmState(vm.uuid);
    let boot: Boot;
    if (vm.app) boot = { kind: 'firmware', seed: join(stateDir, 'seed.img') };
    else {
      const base = await ensureBaseImage(ctx.paths.baseImage);
      boot = { kind: 'direct', kernel: base.kernel, initrd: base.initrd, append: `${base.append} systemd.hostname=${hostName(vm.name)}` };
    }
    const uid = vmUid(vm);
    const accel = await ctx.runner.accelerator();
    const kvmGroup = accel === 'kvm' ? (await stat('/dev/kvm')).gid : uid;
    return {
      uuid: vm.uuid,
      name: vm.name,
      stateDir,
      runDir: ctx.paths.vmRun(vm.uuid),
      ram: vm.ram,
      cpus: vm.cpus,
      disk: diskFile(ctx, vm.uuid),
      boot,
      nic: vm.hasCard ? nicSpec(ctx, vm, vm.type !== 'disconnected' && !resume) : null,
      uid,
      gid: process.getuid?.() === 0 ? kvmGroup : (process.getgid?.() ?? uid),
      accel,
      ...(resume ? { resumeFrom: this.#memoryFile(vm.uuid) } : {}),
    };
  }

  stop(ref: string, force: boolean, settings: CallSettings, progress: OnProgress): Promise<void> {
    return this.exclusive(ref, async (vm) => {
      transition(vm.name, vm.status, 'stop');
      await this.#stop(vm, force, settings, progress);
    });
  }

  async #stop(vm: VmRow, force: boolean, settings: CallSettings, progress: OnProgress): Promise<void> {
    const ctx = this.#ctx;
    const machine = ctx.machines.get(vm.uuid);
    if (machine) {
      const limit = Number(settingValue(ctx.settings, 'stop_timeout', settings).value);
      let down = false;
      if (!force) {
        progress('asking the guest to power off');
        this.#stopping.add(vm.uuid);
        try {
          await machine.powerDown();
          for (let left = limit * 1000; !down && left > 0; left -= PRESS_AGAIN_MS) {
            down = await Promise.race([machine.exited.then(() => true), sleep(Math.min(left, PRESS_AGAIN_MS), false, { ref: false })]);
            if (!down) await machine.powerDown();
          }
        } finally {
          this.#stopping.delete(vm.uuid);
        }
        if (!down) throw new AnkaError('timeout', `${vm.name} did not power off within ${limit} s; 'anka stop -f ${vm.name}' ends it at once`);
      } else await machine.quit();
      ctx.machines.delete(vm.uuid);
    }
    await rm(this.#memoryFile(vm.uuid), { force: true });
    ctx.vms.update(vm.uuid, { status: 'stopped', message: '', ...NO_PLACE });
    if (vm.status !== 'stopped') ctx.events.emit('vm.status', 'stopped', vmName(vm));
    if (machine) await this.#reconciler.apply();
  }

  suspend(ref: string, progress: OnProgress): Promise<void> {
    return this.exclusive(ref, async (vm) => {
      const ctx = this.#ctx;
      transition(vm.name, vm.status, 'suspend');
      if (vm.status === 'suspended') return;
      const machine = ctx.machines.get(vm.uuid);
      if (!machine) throw new AnkaError('vmNotRunning', `${vm.name} does not run`);
      progress('saving memory', 0);
      await machine.suspendTo(this.#memoryFile(vm.uuid), (f) => progress('saving memory', f));
      ctx.machines.delete(vm.uuid);
      ctx.vms.update(vm.uuid, { status: 'suspended' });
      ctx.events.emit('vm.status', 'suspended', vmName(vm));
      await this.#reconciler.apply();
    });
  }

  reboot(ref: string, force: boolean, settings: CallSettings, progress: OnProgress): Promise<void> {
    return this.exclusive(ref, async (vm) => {
      transition(vm.name, vm.status, 'reboot');
      const machine = this.#ctx.machines.get(vm.uuid);
      if (!machine) throw new AnkaError('vmNotRunning', `${vm.name} does not run`);
      if (force) return machine.reset();
      await this.#stop(vm, false, settings, progress);
      await this.#start(this.find(vm.uuid), settings, progress);
    });
  }

  clone(ref: string, name: string, progress: OnProgress): Promise<{ uuid: string }> {
    return this.exclusive(ref, async (source) => {
      const ctx = this.#ctx;
      checkVmName(name);
      this.#demandFreeName(name);
      const { uuid: _u, name: _n, number: _m, outsideMac: _o, guestMac: _g, guestMtu: _t, guestController: _c, reservedIp: _r, uplink: _l, ...rest } = source;
      const vm = this.#newRow(name, rest);
      await this.#build(vm, async () => {
        progress('copying the disk');
        const target = diskFile(ctx, vm.uuid);
        const machine = ctx.machines.get(source.uuid);
        if (machine) {
          const part = join(ctx.paths.vmState(source.uuid), 'clone.part');
          await rm(part, { force: true });
          await machine.copyDisk(part);
          await rename(part, target);
        } else {
          await run('cp', ['--reflink=auto', '--sparse=always', diskFile(ctx, source.uuid), `${target}.part`]);
          await rename(`${target}.part`, target);
        }
        if (vm.app) await writeSeed(join(ctx.paths.vmState(vm.uuid), 'seed.img'), vm.uuid, vm.name, await this.#publicKey());
        for (const r of ctx.rules.of(source.uuid)) ctx.rules.put({ ...r, vm: vm.uuid, hostPort: r.automatic ? 0 : r.hostPort });
      });
      ctx.events.emit('vm.created', `cloned from ${source.name}`, vmName(vm));
      return { uuid: vm.uuid };
    });
  }

  delete(ref: string, progress: OnProgress): Promise<void> {
    return this.exclusive(ref, async (vm) => {
      progress('deleting');
      this.#ctx.vms.update(vm.uuid, { phase: 'deleting' });
      await this.#delete(vm);
      this.#ctx.events.emit('vm.deleted', `deleted ${vm.name}`, vmName(vm));
    });
  }

  async #delete(vm: VmRow): Promise<void> {
    const ctx = this.#ctx;
    const machine = ctx.machines.get(vm.uuid);
    if (machine) {
      await machine.quit();
      ctx.machines.delete(vm.uuid);
    }
    await rm(ctx.paths.vmState(vm.uuid), { recursive: true, force: true });
    await rm(ctx.paths.vmRun(vm.uuid), { recursive: true, force: true });
    ctx.vms.delete(vm.uuid);
    if (machine) await this.#reconciler.apply();
    if (vm.hasCard) await (await ctx.engine()).forgetNic(vm.uuid);
  }

  /**
   * After a start of the daemon: adopts what runs, finishes or undoes what was cut off, says what has died, and takes
   * away what it had in the network.
   */
  async recover(): Promise<void> {
    const ctx = this.#ctx;
    for (const vm of ctx.vms.all()) {
      try {
        await this.#recoverOne(vm);
      } catch (cause) {
        ctx.log.error({ vm: vm.name, error: (cause as Error).message }, 'recovering');
      }
    }
    // also when no VM runs: what a VM that is gone had (a tap, a listener on a port of its rules) may be there still
    await this.#reconciler.apply().catch((e: Error) => ctx.log.warn({ error: e.message }, 'no network yet'));
    for (const machine of ctx.machines.values()) {
      const vm = this.find(machine.uuid);
      // a change of type, a resume, or an addition of the card may have been cut off: the cable is out, or the card
      const mend = async (): Promise<void> => {
        if (!vm.hasCard) return;
        if (await machine.hasCard()) await machine.setLink(vm.type !== 'disconnected');
        else await plugCard(ctx, this.#reconciler, vm, machine);
      };
      await mend().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cable'));
    }
  }

  /** Removes what was half written. */
  async #sweep(vm: VmRow): Promise<void> {
    const dir = this.#ctx.paths.vmState(vm.uuid);
    for (const file of await readdir(dir).catch(() => [])) if (file.endsWith('.part')) await rm(join(dir, file), { force: true });
  }

  async #recoverOne(vm: VmRow): Promise<void> {
    const ctx = this.#ctx;
    const machine = await ctx.runner.adopt(vm.uuid, ctx.paths.vmRun(vm.uuid));
    if (machine && vm.phase === 'ready') {
      const running = (await machine.status()) === 'running';
      if (running || ((vm.status === 'running' || vm.status === 'suspended') && !(await this.#saved(vm.uuid)))) {
        // paused: it was being suspended, and had not got far enough; or it was being resumed, and its memory is all
        // loaded
        await machine.settle();
        await rm(this.#memoryFile(vm.uuid), { force: true }); // a guest that runs has left it behind
        if (!running) await machine.unpause();
        await this.#sweep(vm);
        return this.#run(vm, machine);
      }
      // cut off while it was started or resumed, or just before the end of a suspend: the disk, or the saved memory, is
      // what counts
      await machine.quit();
    }
    if (vm.phase !== 'ready') {
      if (machine) ctx.machines.set(vm.uuid, machine);
      await this.#delete(vm);
      return;
    }
    await this.#sweep(vm);
    const saved = await this.#saved(vm.uuid);
    if (saved && vm.status !== 'suspended') ctx.vms.update(vm.uuid, { status: 'suspended', message: '' });
    else if (vm.status === 'running') {
      ctx.vms.update(vm.uuid, { status: 'failed', message: 'its process was gone when the daemon started', ...NO_PLACE });
      ctx.events.emit('vm.status', 'failed: its process was gone when the daemon started', vmName(vm));
    } else if (vm.status !== 'suspended' && vm.outsideMac !== null) ctx.vms.update(vm.uuid, NO_PLACE);
    else if (vm.status === 'suspended' && !saved) ctx.vms.update(vm.uuid, MEMORY_GONE);
  }
}

/** Bytes between two limits. Throws `badValue` that names the option. */
function size(option: string, text: string, low: number, high: number): number {
  const bytes = parseSize(text);
  if (bytes === null || bytes < low || bytes > high)
    throw new AnkaError('badValue', `${option} '${text}': must be a size such as 512M or 4G, from ${low / MIB}M to ${high / 1024 ** 3}G`);
  return Math.floor(bytes / 512) * 512;
}

/** MiB. */
function checkRam(text: string): number {
  return Math.floor(size('--ram-size', text, 64 * MIB, 1024 ** 4) / MIB);
}
