/**
 * Delete VMs. A VM is in phase `deleting` before its first file is removed, so that recovery can finish the deletion.
 */
import type { OnProgress } from '../../api/service.ts';
import { removeTree } from '../../host/untrusted-files.ts';
import type { VmRow } from '../../store/vms.ts';
import { vmName } from '../context.ts';
import type { VmContext } from './context.ts';
import { filesOf } from './machine-spec.ts';

export async function deleteVm(ctx: VmContext, vm: VmRow, progress: OnProgress): Promise<void> {
  progress('deleting');
  ctx.vms.update(vm.uuid, { phase: 'deleting' });
  await finishDelete(ctx, vm);
  ctx.events.emit('vm.deleted', `deleted ${vm.name}`, vmName(vm));
}

/** Removes all that a VM has left, also one that was never completely created. */
export async function finishDelete(ctx: VmContext, vm: VmRow): Promise<void> {
  const machine = ctx.machines.get(vm.uuid);
  if (machine) {
    await machine.quit();
    ctx.machines.delete(vm.uuid);
  }
  await ctx.runner.kill(filesOf(ctx, vm));
  await removeTree(ctx.paths.vmState(vm.uuid));
  await removeTree(ctx.paths.vmRun(vm.uuid));
  ctx.vms.delete(vm.uuid);
  if (machine) await ctx.reconciler.apply();
  if (vm.hasCard) await (await ctx.engine()).forgetNic(vm.uuid);
}
