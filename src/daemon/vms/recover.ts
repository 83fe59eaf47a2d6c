/**
 * Recovery when the daemon starts, after an exit of any kind (B6).
 *
 * Theory of operation: every QEMU process that is found is adopted, whatever the database says, unless its VM was being
 * started, resumed or deleted. Interrupted work is finished or undone. VMs whose process exited in the meantime become
 * `failed`, or `suspended` if their memory was saved. The engine then detaches the cards of all that do not run.
 */
import { lstat, rm } from 'node:fs/promises';
import { AnkaError } from '../../lib/errors.ts';
import type { VmRow } from '../../store/vms.ts';
import type { Machine } from '../../vm/machine.ts';
import { vmName } from '../context.ts';
import type { VmContext } from './context.ts';
import { finishDelete } from './delete.ts';
import { hasSavedMemory, memoryFile, removePartFiles } from './files.ts';
import { plugCard } from './link.ts';
import { filesOf } from './machine-spec.ts';
import { DETACHED, MEMORY_LOST, registerMachine } from './running.ts';
import { removeUnknownTagFiles } from './tags.ts';

/** Characters of an error that are stored with a VM. */
const MAX_MESSAGE = 300;

export async function recoverVms(ctx: VmContext): Promise<void> {
  // at the same time: each may have a QEMU that does not answer
  await Promise.all(ctx.vms.all().map((vm) => recoverVm(ctx, vm).catch((e: Error) => reportUnrecovered(ctx, vm, e.message))));
  // also if no VM runs: taps and listeners of VMs that exited may still exist
  await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ error: e.message }, 'cannot set up the networks'));
  for (const machine of ctx.machines.values()) {
    const vm = ctx.queue.find(machine.uuid);
    await restoreCard(ctx, vm, machine).catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot restore a network card'));
  }
}

/**
 * A change of type, a resume, or the addition or removal of a card may have been interrupted: with the link down,
 * without a card, or with one.
 */
async function restoreCard(ctx: VmContext, vm: VmRow, machine: Machine): Promise<void> {
  const hasCard = await machine.hasCard();
  if (!vm.hasCard) {
    if (hasCard) await machine.removeCard();
  } else if (hasCard) await machine.setLink(vm.type !== 'disconnected');
  else await plugCard(ctx, vm, machine);
}

/** Its process may run. It is left alone until a client stops it by force or deletes the VM. */
function reportUnrecovered(ctx: VmContext, vm: VmRow, error: string): void {
  ctx.log.error({ vm: vm.name, error }, 'cannot recover a VM');
  if (vm.phase === 'ready') ctx.vms.update(vm.uuid, { status: 'failed', message: error.slice(0, MAX_MESSAGE) });
}

async function recoverVm(ctx: VmContext, vm: VmRow): Promise<void> {
  const files = filesOf(ctx, vm);
  if (vm.phase !== 'creating' && (await lstat(files.stateDir).catch(() => null))) ctx.runner.secure(files);
  const machine = await adoptMachine(ctx, vm);
  if (vm.phase !== 'ready') {
    if (machine) ctx.machines.set(vm.uuid, machine);
    return finishDelete(ctx, vm);
  }
  if (machine) {
    if (await adopt(ctx, vm, machine)) return;
    await machine.quit();
  }
  await removePartFiles(ctx, vm.uuid);
  await removeUnknownTagFiles(ctx, vm.uuid);
  await recoverStatus(ctx, vm);
}

/** Null if it does not run. One that is to be deleted need not answer. */
async function adoptMachine(ctx: VmContext, vm: VmRow): Promise<Machine | null> {
  try {
    return await ctx.runner.adopt(filesOf(ctx, vm));
  } catch (cause) {
    if (vm.phase !== 'ready') return null;
    throw new AnkaError('internal', `its QEMU process does not answer; run 'anka stop -f ${vm.name}' to stop it`, { cause });
  }
}

/**
 * Adopts the machine if its guest runs, or was paused for a suspend that had not saved its memory or for a resume that
 * had loaded all of it. False for one that was interrupted while it was started or resumed, or at the end of a suspend:
 * then the disk, or the saved memory, is what counts.
 */
async function adopt(ctx: VmContext, vm: VmRow, machine: Machine): Promise<boolean> {
  const running = (await machine.status()) === 'running';
  const paused = (vm.status === 'running' || vm.status === 'suspended') && !(await hasSavedMemory(ctx, vm.uuid));
  if (!running && !paused) return false;
  await machine.cancelJobs();
  await rm(memoryFile(ctx, vm.uuid), { force: true }); // out of date once the guest has run
  if (!running) await machine.unpause();
  await removePartFiles(ctx, vm.uuid);
  registerMachine(ctx, vm, machine);
  return true;
}

/** Corrects the stored status of a VM that does not run. */
async function recoverStatus(ctx: VmContext, vm: VmRow): Promise<void> {
  const saved = await hasSavedMemory(ctx, vm.uuid);
  if (saved && vm.status !== 'suspended') ctx.vms.update(vm.uuid, { status: 'suspended', message: '' });
  else if (vm.status === 'running') {
    const message = 'its QEMU process had exited when the daemon started';
    ctx.vms.update(vm.uuid, { status: 'failed', message, ...DETACHED });
    ctx.events.emit('vm.status', `failed: ${message}`, vmName(vm));
  } else if (vm.status === 'suspended' && !saved) ctx.vms.update(vm.uuid, MEMORY_LOST);
  else if (vm.status !== 'suspended' && vm.outsideMac !== null) ctx.vms.update(vm.uuid, DETACHED);
}
