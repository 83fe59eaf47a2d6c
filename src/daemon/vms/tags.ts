/**
 * Local tags: states of a VM's disk, saved under a name and restored from it, with memory size, CPU cores and disk
 * size.
 *
 * Theory of operation. A tag is a copy of the disk in the VM's state directory, which QEMU's user cannot change, and a
 * row. The row is stored once the file is complete, and deleted before the file is: recovery removes files without a
 * row. A restored disk replaces the VM's own in one step.
 */
import { lstat, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { OnProgress } from '../../api/service.ts';
import type { ShownTag, TagRequest } from '../../api/types.ts';
import { runLong } from '../../host/exec.ts';
import { AnkaError } from '../../lib/errors.ts';
import { formatSize } from '../../lib/sizes.ts';
import type { TagRow } from '../../store/tags.ts';
import type { VmRow } from '../../store/vms.ts';
import { type Context, vmName } from '../context.ts';
import type { VmContext } from './context.ts';
import { diskFile } from './files.ts';
import { filesOf } from './machine-spec.ts';

/** Most tags of one VM. */
const MAX_TAGS = 100;
const TAG_NAME = /^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$/;
const TAG_FILE = /^tag-(\d+)\.qcow2$/;

export const tagFile = (ctx: Context, uuid: string, number: number): string => join(ctx.paths.vmState(uuid), `tag-${number}.qcow2`);

/** Copies a disk that no QEMU uses, under another name first. */
export async function copyDiskFile(from: string, to: string): Promise<void> {
  const part = `${to}.part`;
  await runLong('cp', ['--reflink=auto', '--sparse=always', from, part]);
  await rename(part, to);
}

/** Throws `tagNotFound` with the tags that exist. */
export function findTag(ctx: Context, vm: VmRow, name: string): TagRow {
  const tags = ctx.tags.of(vm.uuid);
  const found = tags.find((t) => t.name === name);
  if (found) return found;
  throw new AnkaError('tagNotFound', `${vm.name} has no local tag '${name}'${tags.length > 0 ? `; its tags are ${tags.map((t) => t.name).join(', ')}` : ''}`);
}

export async function shownTags(ctx: Context, vm: VmRow): Promise<ShownTag[]> {
  return Promise.all(
    ctx.tags.of(vm.uuid).map(async (t) => ({
      tag: t.name,
      description: t.description,
      created: t.created,
      size: ((await lstat(tagFile(ctx, vm.uuid, t.number)).catch(() => null))?.blocks ?? 0) * 512,
      cpu_cores: t.cpus,
      ram: formatSize(t.ram * 1048576),
      ram_size: t.ram * 1048576,
      hard_drive: t.diskSize,
      current: t.name === vm.tag,
    })),
  );
}

/** The disk must be the last state that the guest has written: a running VM's is not, nor a suspended one's. */
function demandOff(vm: VmRow, what: string): void {
  if (vm.status === 'running' || vm.status === 'suspended')
    throw new AnkaError('badState', `${vm.name} is ${vm.status}; run 'anka stop ${vm.name}' before ${what}`);
}

/** Saves the disk as a tag. Throws `tagExists` unless `force`. */
export async function saveTag(ctx: VmContext, vm: VmRow, request: TagRequest, progress: OnProgress): Promise<ShownTag> {
  const { tag: name, description = '', force = false } = request;
  if (!TAG_NAME.test(name))
    throw new AnkaError('badValue', `'${name.slice(0, 80)}' cannot be a tag: use up to 128 letters, digits, dots, hyphens, plus signs and underscores`);
  demandOff(vm, 'saving a tag');
  const tags = ctx.tags.of(vm.uuid);
  const before = tags.find((t) => t.name === name);
  if (before && !force) throw new AnkaError('tagExists', `${vm.name} already has a local tag '${name}'; use '--force' to replace it`);
  if (!before && tags.length >= MAX_TAGS)
    throw new AnkaError('badValue', `${vm.name} has ${MAX_TAGS} local tags, the most that a VM can have; delete one first`);
  progress(`saving tag ${name}`);
  const row: TagRow = {
    vm: vm.uuid,
    name,
    number: Math.max(0, ...tags.map((t) => t.number)) + 1,
    created: new Date().toISOString(),
    description,
    ram: vm.ram,
    cpus: vm.cpus,
    diskSize: vm.diskSize,
  };
  ctx.runner.secure(filesOf(ctx, vm));
  await ctx.runner.demandStopped(filesOf(ctx, vm), vm.name);
  await copyDiskFile(diskFile(ctx, vm.uuid), tagFile(ctx, vm.uuid, row.number));
  ctx.tags.put(row);
  ctx.vms.update(vm.uuid, { tag: name });
  if (before) await rm(tagFile(ctx, vm.uuid, before.number), { force: true });
  ctx.events.emit('vm.tagged', `saved as tag ${name}`, vmName(vm));
  return (await shownTags(ctx, { ...vm, tag: name })).find((t) => t.tag === name) as ShownTag;
}

/** Replaces the disk by a tag's; what the guest has written since is lost. */
export async function restoreTag(ctx: VmContext, vm: VmRow, name: string, progress: OnProgress): Promise<void> {
  const tag = findTag(ctx, vm, name);
  demandOff(vm, 'restoring a tag');
  progress(`restoring tag ${name}`);
  const files = filesOf(ctx, vm);
  ctx.runner.secure(files);
  await ctx.runner.demandStopped(files, vm.name);
  await copyDiskFile(tagFile(ctx, vm.uuid, tag.number), diskFile(ctx, vm.uuid));
  ctx.runner.secure(files);
  ctx.vms.update(vm.uuid, { ram: tag.ram, cpus: tag.cpus, diskSize: tag.diskSize, tag: name });
  ctx.events.emit('vm.tagged', `restored from tag ${name}`, vmName(vm));
}

export async function deleteTag(ctx: Context, vm: VmRow, name: string): Promise<void> {
  const tag = findTag(ctx, vm, name);
  ctx.tags.delete(vm.uuid, name);
  if (vm.tag === name) ctx.vms.update(vm.uuid, { tag: '' });
  await rm(tagFile(ctx, vm.uuid, tag.number), { force: true });
}

/** Removes files of tags that were never stored, or are deleted. */
export async function removeUnknownTagFiles(ctx: Context, uuid: string): Promise<void> {
  const dir = ctx.paths.vmState(uuid);
  const known = new Set(ctx.tags.of(uuid).map((t) => t.number));
  for (const file of await readdir(dir).catch(() => [])) {
    const number = TAG_FILE.exec(file)?.[1];
    if (number !== undefined && !known.has(Number(number))) await rm(join(dir, file), { force: true });
  }
}
