/** Running machines, and what the store says of a VM that does not run. */
import type { VmRow } from '../../store/vms.ts';
import type { Machine, MachineExit } from '../../vm/machine.ts';
import { vmName } from '../context.ts';
import type { VmContext } from './context.ts';

/** The card of a stopped VM, which is attached to no network. */
export const DETACHED: Pick<VmRow, 'outsideMac' | 'guestMac' | 'guestMtu' | 'guestController' | 'uplink'> = {
  outsideMac: null,
  guestMac: null,
  guestMtu: null,
  guestController: null,
  uplink: '',
};

/** A suspended VM whose memory was loaded by a process that exited: there is nothing to resume from. */
export const MEMORY_LOST: Partial<VmRow> = { status: 'failed', message: 'its saved memory was lost', ...DETACHED };

/** Registers a running machine, and watches for its exit. */
export function registerMachine(ctx: VmContext, vm: VmRow, machine: Machine): void {
  ctx.machines.set(vm.uuid, machine);
  ctx.vms.update(vm.uuid, { status: 'running', message: '' });
  ctx.events.emit('vm.status', 'running', vmName(vm));
  void machine.exited.then((exit) => onExit(ctx, vm, machine, exit));
}

async function onExit(ctx: VmContext, vm: VmRow, machine: Machine, exit: MachineExit): Promise<void> {
  if (ctx.machines.get(vm.uuid) !== machine) return;
  ctx.machines.delete(vm.uuid);
  if (exit.cause === 'quit') return; // the operation that asked for it does the rest
  if (exit.cause === 'crash') {
    ctx.vms.update(vm.uuid, { status: 'failed', message: exit.reason, ...DETACHED });
    ctx.events.emit('vm.status', `failed: ${exit.reason}`, vmName(vm));
  } else {
    ctx.vms.update(vm.uuid, { status: 'stopped', ...DETACHED });
    if (!ctx.stopping.has(vm.uuid)) ctx.events.emit('vm.status', 'powered off by the guest', vmName(vm));
  }
  await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot detach an exited VM from its network'));
}
