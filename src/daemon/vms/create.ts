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
import { isOpenNowhere } from '../../host/ffi/lease.ts';
import { removeTree } from '../../host/untrusted-files.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import { formatSize, parseSize } from '../../lib/sizes.ts';
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
import { copyDiskFile, findTag, tagFile } from './tags.ts';

const DEFAULT_RAM = '4G';
const DEFAULT_CPUS = 2;
const DEFAULT_DISK = '80G';
const MIB = 1 << 20;
const MAX_DISK = 64 * 1024 ** 4;
const MAX_LABELS = 100;
/** Time that QEMU has to close the copy of its disk, ms. */
const LET_GO_MS = 1000;
const LET_GO_POLL_MS = 20;

export async function createVm(ctx: VmContext, request: CreateRequest, progress: OnProgress): Promise<{ uuid: string }> {
  checkVmName(request.name);
  demandFreeName(ctx, request.name);
  const ram = checkRam(request.ram_size ?? DEFAULT_RAM);
  const diskSize = checkSize('--disk-size', request.disk_size ?? DEFAULT_DISK, 64 * MIB, MAX_DISK);
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

/**
 * `source` may be running: QEMU then copies its disk as it is at this moment. `tag`: a local tag of it to clone instead
 * of its present state.
 */
export async function cloneVm(
  ctx: VmContext,
  source: VmRow,
  { name, tag }: { name: string; tag: string | null },
  progress: OnProgress,
): Promise<{ uuid: string }> {
  checkVmName(name);
  demandFreeName(ctx, name);
  const state = tag === null ? null : findTag(ctx, source, tag);
  const sizes = state === null ? {} : { ram: state.ram, cpus: state.cpus, diskSize: state.diskSize };
  const vm = insertRow(ctx, name, { ...source, ...sizes, reservedIp: null, tag: '' });
  await buildVm(ctx, vm, async () => {
    progress('copying the disk');
    if (state === null) await copyDisk(ctx, source, diskFile(ctx, vm.uuid));
    else await copyDiskFile(tagFile(ctx, source.uuid, state.number), diskFile(ctx, vm.uuid));
    for (const [label, value] of Object.entries(ctx.labels.of(source.uuid))) ctx.labels.put(vm.uuid, label, value);
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
  if (request.disk_size !== undefined) change.diskSize = grownDisk(vm, request.disk_size);
  const sizes = change.ram !== undefined || change.cpus !== undefined || change.diskSize !== undefined;
  if (vm.status !== 'stopped' && vm.status !== 'failed' && sizes)
    throw new AnkaError('badState', `${vm.name} is ${vm.status}; run 'anka stop ${vm.name}' before changing its memory, CPUs or disk size`);
  if (request.labels !== undefined) changeLabels(ctx, vm, request.labels);
  ctx.vms.update(vm.uuid, change);
  if (change.name && ctx.machines.has(vm.uuid)) await ctx.reconciler.apply();
}

/** Bytes. QEMU grows the disk at the next start, before the guest runs. */
function grownDisk(vm: VmRow, text: string): number {
  const size = checkSize('--size', text, 64 * MIB, MAX_DISK);
  if (size < vm.diskSize)
    throw new AnkaError('badValue', `--size '${text}' is below the size of the disk of ${vm.name}, ${formatSize(vm.diskSize)}; a disk can only grow`);
  return size;
}

/** Throws `badValue` for a bad name or too many labels, before anything is changed. */
function changeLabels(ctx: Context, vm: VmRow, labels: Record<string, string | null>): void {
  const changes = Object.entries(labels);
  for (const [name] of changes)
    if (!/^[^\s=|\p{Cc}]{1,64}$/u.test(name))
      throw new AnkaError('badValue', `'${name.slice(0, 80)}' cannot be a label: use up to 64 characters without blanks, '=' and '|'`);
  const after = new Set(Object.keys(ctx.labels.of(vm.uuid)));
  for (const [name, value] of changes) value === null ? after.delete(name) : after.add(name);
  if (after.size > MAX_LABELS) throw new AnkaError('badValue', `a VM can have at most ${MAX_LABELS} labels; delete one first`);
  for (const [name, value] of changes) value === null ? ctx.labels.delete(vm.uuid, name) : ctx.labels.put(vm.uuid, name, value);
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
    filter: null,
    hasCard: true,
    app: '',
    tag: '',
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
  const part = `${target}.qemu.part`;
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
      await copyDiskFile(part, target);
      await rm(part);
    }
    return;
  }
  await ctx.runner.demandStopped(filesOf(ctx, source), source.name);
  await copyDiskFile(diskFile(ctx, source.uuid), target);
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
