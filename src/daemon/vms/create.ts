/**
 * Create and clone VMs, and change their names and sizes.
 *
 * Theory of operation: a new VM is stored in phase `creating` before its first file is written, and becomes `ready`
 * with its last. If the daemon is killed in between, recovery deletes it.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OnProgress } from '../../api/service.ts';
import type { CreateRequest, ModifyRequest } from '../../api/types.ts';
import { runLong } from '../../host/exec.ts';
import { isOpenNowhere } from '../../host/ffi/lease.ts';
import { removeTree } from '../../host/untrusted-files.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import { parseSize } from '../../lib/sizes.ts';
import type { VmRow } from '../../store/vms.ts';
import { ensureBaseImage, ensureKey } from '../../vm/base-image.ts';
import { createOverlay, inspectImage } from '../../vm/disk.ts';
import { writeSeed } from '../../vm/nocloud.ts';
import { type Context, vmName } from '../context.ts';
import type { VmContext } from './context.ts';
import { diskFile, seedFile } from './files.ts';
import { filesOf } from './machine-spec.ts';
import { checkVmName } from './names.ts';
import { DETACHED } from './running.ts';

const DEFAULT_RAM = '4G';
const DEFAULT_CPUS = 2;
const DEFAULT_DISK = '80G';
const MIB = 1 << 20;
/** Time that QEMU has to close the copy of its disk, ms. */
const LET_GO_MS = 1000;
const LET_GO_POLL_MS = 20;

export async function createVm(ctx: VmContext, request: CreateRequest, progress: OnProgress): Promise<{ uuid: string }> {
  checkVmName(request.name);
  demandFreeName(ctx, request.name);
  const ram = checkRam(request.ram_size ?? DEFAULT_RAM);
  const diskSize = checkSize('--disk-size', request.disk_size ?? DEFAULT_DISK, 64 * MIB, 64 * 1024 ** 4);
  const app = request.app ?? '';
  const backing = app === '' ? (await ensureBaseImage(ctx.paths.baseImage, progress)).disk : await checkApp(app);
  demandFreeName(ctx, request.name); // the base image may have taken a minute to build
  const vm = insertRow(ctx, request.name, { ram, cpus: request.cpu_count ?? DEFAULT_CPUS, diskSize, app });
  await buildVm(ctx, vm, async () => {
    progress('creating the disk');
    await createOverlay(diskFile(ctx, vm.uuid), backing, diskSize);
  });
  ctx.events.emit('vm.created', `created ${vm.name}`, vmName(vm));
  return { uuid: vm.uuid };
}

/** `source` may be running: QEMU then copies its disk as it is at this moment. */
export async function cloneVm(ctx: VmContext, source: VmRow, name: string, progress: OnProgress): Promise<{ uuid: string }> {
  checkVmName(name);
  demandFreeName(ctx, name);
  const vm = insertRow(ctx, name, { ...source, reservedIp: null });
  await buildVm(ctx, vm, async () => {
    progress('copying the disk');
    await copyDisk(ctx, source, diskFile(ctx, vm.uuid));
    for (const r of ctx.rules.of(source.uuid)) ctx.rules.put({ ...r, vm: vm.uuid, hostPort: r.automatic ? 0 : r.hostPort });
  });
  ctx.events.emit('vm.created', `cloned from ${source.name}`, vmName(vm));
  return { uuid: vm.uuid };
}

export async function modifyVm(ctx: VmContext, vm: VmRow, request: ModifyRequest): Promise<void> {
  const change: Partial<VmRow> = {};
  if (request.name !== undefined && request.name !== vm.name) {
    checkVmName(request.name);
    if (request.name.toLowerCase() !== vm.name.toLowerCase()) demandFreeName(ctx, request.name);
    change.name = request.name;
  }
  if (request.ram_size !== undefined) change.ram = checkRam(request.ram_size);
  if (request.cpu_count !== undefined) change.cpus = request.cpu_count;
  if (vm.status !== 'stopped' && vm.status !== 'failed' && (change.ram !== undefined || change.cpus !== undefined))
    throw new AnkaError('badState', `${vm.name} is ${vm.status}; run 'anka stop ${vm.name}' before changing its memory or CPUs`);
  ctx.vms.update(vm.uuid, change);
  if (change.name && ctx.machines.has(vm.uuid)) await ctx.reconciler.apply();
}

function demandFreeName(ctx: Context, name: string): void {
  const other = ctx.vms.find(name);
  if (other) throw new AnkaError('vmExists', `a VM named '${name}' already exists; choose another name, or run 'anka delete ${other.name}'`);
}

/** Stores a new VM: a stopped one with a card of type shared, but for `rest`. */
function insertRow(ctx: Context, name: string, rest: Partial<VmRow> & Pick<VmRow, 'ram' | 'cpus' | 'diskSize'>): VmRow {
  const vm: VmRow = {
    type: 'shared',
    bridge: '',
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
    number: ctx.vms.freeNumber(),
    created: new Date().toISOString(),
    phase: 'creating',
    status: 'stopped',
    message: '',
    ...DETACHED,
  };
  ctx.vms.insert(vm);
  return vm;
}

/** Fills a new VM's directory. On an error the whole VM is removed again. */
async function buildVm(ctx: Context, vm: VmRow, createDisk: () => Promise<void>): Promise<void> {
  const dir = ctx.paths.vmState(vm.uuid);
  try {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await createDisk();
    if (vm.app) await writeSeed(seedFile(ctx, vm.uuid), vm.uuid, vm.name, await publicKey(ctx));
    ctx.runner.secure(filesOf(ctx, vm));
    ctx.vms.update(vm.uuid, { phase: 'ready' });
  } catch (cause) {
    await removeTree(dir);
    ctx.vms.delete(vm.uuid);
    throw cause;
  }
}

async function copyDisk(ctx: Context, source: VmRow, target: string): Promise<void> {
  const machine = ctx.machines.get(source.uuid);
  ctx.runner.secure(filesOf(ctx, source));
  const part = `${target}.part`;
  const copy = (from: string, to: string): Promise<string> => runLong('cp', ['--reflink=auto', '--sparse=always', from, to]);
  if (machine) {
    const backing = source.app || (await ensureBaseImage(ctx.paths.baseImage)).disk;
    await createOverlay(target, backing, source.diskSize);
    // QEMU, a user of its own, writes into the file only
    await rename(target, part);
    ctx.runner.secure({ ...filesOf(ctx, source), stateDir: dirname(target) }, basename(part));
    await machine.copyDisk(part);
    ctx.runner.secure({ ...filesOf(ctx, source), stateDir: dirname(target), uid: 0 }, basename(part));
    if (process.getuid?.() !== 0 || (await isLetGo(part))) await rename(part, target);
    else {
      // a QEMU that its guest has taken over would write to the clone's disk
      await copy(part, target);
      await rm(part);
    }
    return;
  }
  await ctx.runner.demandStopped(filesOf(ctx, source), source.name);
  await copy(diskFile(ctx, source.uuid), part);
  await rename(part, target);
}

/** Whether nobody else has the file open. QEMU closes it a moment after it has reported the end of the copy. */
async function isLetGo(file: string): Promise<boolean> {
  const deadline = monotonicMs() + LET_GO_MS;
  for (;;) {
    if (isOpenNowhere(file)) return true;
    if (monotonicMs() > deadline) return false;
    await sleep(LET_GO_POLL_MS);
  }
}

/** The public ssh key for guests that are not of the base image. */
async function publicKey(ctx: Context): Promise<string> {
  const key = join(ctx.paths.state, 'id_ed25519');
  await ensureKey(key);
  return (await readFile(`${key}.pub`, 'utf8')).trim();
}

async function checkApp(path: string): Promise<string> {
  if (!path.startsWith('/')) throw new AnkaError('badValue', `app: '${path}' must be an absolute path`);
  await inspectImage(path);
  return path;
}

/** Bytes, rounded down to whole sectors of 512. Throws `badValue` with the option. */
function checkSize(option: string, text: string, low: number, high: number): number {
  const bytes = parseSize(text);
  if (bytes === null || bytes < low || bytes > high)
    throw new AnkaError('badValue', `${option} '${text}': must be a size such as 512M or 4G, from ${low / MIB}M to ${high / 1024 ** 3}G`);
  return Math.floor(bytes / 512) * 512;
}

/** MiB. */
function checkRam(text: string): number {
  return Math.floor(checkSize('--ram-size', text, 64 * MIB, 1024 ** 4) / MIB);
}
