/** Running machines, and what the store says of a VM that does not run. */
import type { VmRow } from '../../store/vms.ts';
import type { Machine, MachineExit } from '../../vm/machine.ts';
import { vmName } from '../context.ts';
import type { VmContext } from './context.ts';

/** Until the database is written again, ms. */
const RETRY_MS = 1000;

/** The card of a stopped VM, which is attached to no network. */
export const DETACHED: Pick<VmRow, 'outsideMac' | 'guestMac' | 'guestMtu' | 'guestController' | 'guestQueues' | 'guestDriver' | 'uplink'> = {
  outsideMac: null,
  guestMac: null,
  guestMtu: null,
  guestController: null,
  guestQueues: null,
  guestDriver: null,
  uplink: '',
};

/** A suspended VM whose memory was loaded by a process that exited: there is nothing to resume from. */
export const MEMORY_LOST: Partial<VmRow> = { status: 'failed', message: 'its saved memory was lost', ...DETACHED };

/** Registers a running machine, and watches for its exit. */
export function registerMachine(ctx: VmContext, vm: VmRow, machine: Machine): void {
  ctx.machines.set(vm.uuid, machine);
  storeObserved(ctx, vm, { status: 'running', message: '' }, () => ctx.machines.get(vm.uuid) === machine);
  ctx.events.emit('vm.status', 'running', vmName(vm));
  machine.exited
    .then((exit) => onExit(ctx, vm, machine, exit))
    .catch((e: Error) => ctx.log.error({ vm: vm.name, error: e.stack }, 'cannot follow the exit of a VM'));
}

/** Stores what is observed of a VM. While that fails, as with a full disk, it is tried again as long as it is true. */
function storeObserved(ctx: VmContext, vm: VmRow, change: Partial<VmRow>, isTrue: () => boolean): void {
  let failed = false;
  const store = (): void => {
    try {
      if (!failed || isTrue()) ctx.vms.update(vm.uuid, change);
    } catch (cause) {
      if (!failed) ctx.log.error({ vm: vm.name, error: (cause as Error).message }, 'cannot store the state of a VM');
      failed = true;
      setTimeout(store, RETRY_MS).unref();
    }
  };
  store();
}

/** Stores the status of a VM that has ended. `before`: the status that is stored now. */
export function storeEnd(ctx: VmContext, vm: VmRow, end: Partial<VmRow>, before: VmRow['status'] = 'running'): void {
  storeObserved(ctx, vm, end, () => !ctx.machines.has(vm.uuid) && ctx.vms.find(vm.uuid)?.status === before);
}

async function onExit(ctx: VmContext, vm: VmRow, machine: Machine, exit: MachineExit): Promise<void> {
  if (ctx.machines.get(vm.uuid) !== machine) return;
  ctx.machines.delete(vm.uuid);
  if (exit.cause === 'quit') return; // the operation that asked for it does the rest
  if (exit.cause === 'crash') {
    storeEnd(ctx, vm, { status: 'failed', message: exit.reason, ...DETACHED });
    ctx.events.emit('vm.status', `failed: ${exit.reason}`, vmName(vm));
  } else {
    storeEnd(ctx, vm, { status: 'stopped', ...DETACHED });
    if (!ctx.stopping.has(vm.uuid)) ctx.events.emit('vm.status', 'powered off by the guest', vmName(vm));
  }
  await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot detach an exited VM from its network'));
}
