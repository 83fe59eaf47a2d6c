/** Stop, suspend and reboot VMs. */
import { rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OnProgress } from '../../api/service.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { VmRow } from '../../store/vms.ts';
import { transition } from '../../vm/lifecycle.ts';
import type { Machine } from '../../vm/machine.ts';
import { vmName } from '../context.ts';
import { settingValue } from '../settings.ts';
import type { Call, VmContext } from './context.ts';
import { memoryFile } from './files.ts';
import { filesOf } from './machine-spec.ts';
import { DETACHED, storeEnd } from './running.ts';
import { startVm } from './start.ts';

/** The power button is pressed again after this time: a guest that is still booting ignores it. */
const PRESS_AGAIN_MS = 5000;
/** How long a forced stop waits for the VM's operations, ms. */
const OPERATION_MS = 5000;

/** Stops at once: an operation that still waits for QEMU fails when QEMU is killed. */
export async function forceStop(ctx: VmContext, ref: string, call: Call): Promise<void> {
  const end = (vm: VmRow): Promise<void> =>
    ctx.runner.kill(filesOf(ctx, vm)).catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot end an operation for a forced stop'));
  await ctx.queue.drain(ref, OPERATION_MS, end);
  await ctx.queue.exclusive(ref, (vm) => stopVm(ctx, vm, true, call));
}

export async function stopVm(ctx: VmContext, vm: VmRow, force: boolean, call: Call): Promise<void> {
  transition(vm.name, vm.status, 'stop');
  const machine = ctx.machines.get(vm.uuid);
  if (machine) {
    if (force) await machine.quit();
    else await powerOff(ctx, vm, machine, call);
    ctx.machines.delete(vm.uuid);
  } else if (force) await ctx.runner.kill(filesOf(ctx, vm));
  else if (await ctx.runner.isRunning(filesOf(ctx, vm)))
    throw new AnkaError('badState', `the QEMU process of ${vm.name} does not answer; run 'anka stop -f ${vm.name}' to stop it at once`);
  await rm(memoryFile(ctx, vm.uuid), { force: true });
  storeEnd(ctx, vm, { status: 'stopped', message: '', ...DETACHED }, vm.status);
  if (vm.status !== 'stopped') ctx.events.emit('vm.status', 'stopped', vmName(vm));
  if (machine || force) await ctx.reconciler.apply();
}

/** Presses the power button until the guest is off. Throws `timeout`. */
async function powerOff(ctx: VmContext, vm: VmRow, machine: Machine, { settings, progress }: Call): Promise<void> {
  const limit = Number(settingValue(ctx.settings, 'stop_timeout', settings).value);
  let off = false;
  progress('asking the guest to power off');
  ctx.stopping.add(vm.uuid);
  try {
    await machine.powerDown();
    for (let left = limit * 1000; !off && left > 0; left -= PRESS_AGAIN_MS) {
      off = await Promise.race([machine.exited.then(() => true), sleep(Math.min(left, PRESS_AGAIN_MS), false, { ref: false })]);
      if (!off) await machine.powerDown();
    }
  } finally {
    ctx.stopping.delete(vm.uuid);
  }
  if (!off) throw new AnkaError('timeout', `${vm.name} did not power off within ${limit} s; run 'anka stop -f ${vm.name}' to stop it at once`);
}

export async function suspendVm(ctx: VmContext, vm: VmRow, progress: OnProgress): Promise<void> {
  transition(vm.name, vm.status, 'suspend');
  if (vm.status === 'suspended') return;
  const machine = demandMachine(ctx, vm);
  progress('saving memory', 0);
  await machine.suspendTo(memoryFile(ctx, vm.uuid), (fraction) => progress('saving memory', fraction));
  ctx.machines.delete(vm.uuid);
  storeEnd(ctx, vm, { status: 'suspended' });
  ctx.events.emit('vm.status', 'suspended', vmName(vm));
  await ctx.reconciler.apply();
}

/** `force`: a reset, without asking the guest. */
export async function rebootVm(ctx: VmContext, vm: VmRow, force: boolean, call: Call): Promise<void> {
  transition(vm.name, vm.status, 'reboot');
  const machine = demandMachine(ctx, vm);
  if (force) {
    await machine.reset();
    ctx.events.emit('vm.status', 'reset', vmName(vm));
    return;
  }
  await stopVm(ctx, vm, false, call);
  await startVm(ctx, ctx.queue.find(vm.uuid), call);
}

function demandMachine(ctx: VmContext, vm: VmRow): Machine {
  const machine = ctx.machines.get(vm.uuid);
  if (!machine) throw new AnkaError('vmNotRunning', `${vm.name} is not running; run 'anka start ${vm.name}' first`);
  return machine;
}
