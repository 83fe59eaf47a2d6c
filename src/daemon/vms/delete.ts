/**
 * Delete VMs. A VM is in phase `deleting` before its first file is removed, so that recovery can finish the deletion,
 * and not before its process has exited: a VM whose disk another program uses stays.
 */
import type { OnProgress } from '../../api/service.ts';
import { removeTree } from '../../host/untrusted-files.ts';
import type { VmRow } from '../../store/vms.ts';
import { vmName } from '../context.ts';
import type { VmContext } from './context.ts';
import { filesOf } from './machine-spec.ts';
import { DETACHED, storeEnd } from './running.ts';

export async function deleteVm(ctx: VmContext, vm: VmRow, progress: OnProgress): Promise<void> {
  progress('deleting');
  const ran = ctx.machines.has(vm.uuid);
  try {
    await endProcess(ctx, vm);
  } catch (cause) {
    if (ran && !ctx.machines.has(vm.uuid)) {
      storeEnd(ctx, vm, { status: 'stopped', message: '', ...DETACHED }, vm.status);
      await ctx.reconciler.apply();
    }
    throw cause;
  }
  ctx.vms.update(vm.uuid, { phase: 'deleting' });
  await removeVm(ctx, vm, ran);
  ctx.events.emit('vm.deleted', `deleted ${vm.name}`, vmName(vm));
}

/** Removes all that a VM has left, also one that was never completely created. */
export async function finishDelete(ctx: VmContext, vm: VmRow): Promise<void> {
  const ran = ctx.machines.has(vm.uuid);
  await endProcess(ctx, vm);
  await removeVm(ctx, vm, ran);
}

/** Throws `badState` if another program uses the disk. */
async function endProcess(ctx: VmContext, vm: VmRow): Promise<void> {
  const machine = ctx.machines.get(vm.uuid);
  if (machine) {
    await machine.quit();
    ctx.machines.delete(vm.uuid);
  }
  await ctx.runner.kill(filesOf(ctx, vm));
}

async function removeVm(ctx: VmContext, vm: VmRow, ran: boolean): Promise<void> {
  await removeTree(ctx.paths.vmState(vm.uuid));
  await removeTree(ctx.paths.vmRun(vm.uuid));
  ctx.vms.delete(vm.uuid);
  if (ran) await ctx.reconciler.apply();
  if (vm.hasCard) await (await ctx.engine()).forgetNic(vm.uuid);
}
