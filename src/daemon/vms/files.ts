/** A VM's files in its state directory. */
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { removeTree } from '../../host/untrusted-files.ts';
import type { Context } from '../context.ts';

export const diskFile = (ctx: Context, uuid: string): string => join(ctx.paths.vmState(uuid), 'disk.qcow2');

/** cloud-init's seed, for VMs that are created from a disk image. */
export const seedFile = (ctx: Context, uuid: string): string => join(ctx.paths.vmState(uuid), 'seed.img');

/** Memory of a suspended VM. */
export const memoryFile = (ctx: Context, uuid: string): string => join(ctx.paths.vmState(uuid), 'memory');

/** Whether there is saved memory to resume from. */
export async function hasSavedMemory(ctx: Context, uuid: string): Promise<boolean> {
  return (await lstat(memoryFile(ctx, uuid)).catch(() => null)) !== null;
}

/** Removes files whose writing was interrupted. */
export async function removePartFiles(ctx: Context, uuid: string): Promise<void> {
  const dir = ctx.paths.vmState(uuid);
  for (const file of await readdir(dir).catch(() => [])) if (file.endsWith('.part')) await removeTree(join(dir, file));
}
