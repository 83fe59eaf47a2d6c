/** Start and resume VMs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { monotonicMs } from '../../lib/clock.ts';
import type { VmRow } from '../../store/vms.ts';
import { transition } from '../../vm/lifecycle.ts';
import type { Machine } from '../../vm/machine.ts';
import { guestController, guestMac } from '../desired.ts';
import { guestBackend } from './card-backend.ts';
import { guestMtu } from './card-mtu.ts';
import { chooseUplink, drawOutsideMac } from './card-spec.ts';
import type { Call, VmContext } from './context.ts';
import { hasSavedMemory } from './files.ts';
import { LINK_DOWN_MS, openBackend, requestedAddress } from './link.ts';
import { machineSpec } from './machine-spec.ts';
import { settlePorts } from './port-forwarding.ts';
import { DETACHED, MEMORY_LOST, registerMachine } from './running.ts';

export async function startVm(ctx: VmContext, vm: VmRow, call: Call): Promise<void> {
  transition(vm.name, vm.status, 'start');
  if (vm.status === 'running') return;
  const resume = vm.status === 'suspended';
  await ctx.starts.enter(vm.uuid);
  try {
    if (vm.hasCard) await prepareCard(ctx, vm, call);
    await launch(ctx, ctx.queue.find(vm.uuid), resume, call);
  } catch (cause) {
    ctx.starts.leave(vm.uuid);
    const end = resume ? ((await hasSavedMemory(ctx, vm.uuid)) ? {} : MEMORY_LOST) : DETACHED;
    storeFailure(ctx, vm, end);
    await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot detach a VM that failed to start'));
    throw cause;
  }
  ctx.starts.leave(vm.uuid);
}

/** The cause of the failed start may keep the database from being written, too. */
function storeFailure(ctx: VmContext, vm: VmRow, end: Partial<VmRow>): void {
  try {
    ctx.vms.update(vm.uuid, end);
  } catch (cause) {
    ctx.log.warn({ vm: vm.name, error: (cause as Error).message }, 'cannot store that a VM failed to start');
  }
}

/** Settles host ports, uplink and MAC address. A suspended guest keeps the card that it has. */
async function prepareCard(ctx: VmContext, vm: VmRow, call: Call): Promise<void> {
  await settlePorts(ctx, vm, call);
  const uplink = vm.type === 'bridge' ? await chooseUplink(ctx, vm, call.settings) : '';
  const outsideMac = drawOutsideMac(ctx, vm, call.settings);
  ctx.vms.update(vm.uuid, {
    outsideMac,
    guestMac: guestMac({ ...vm, outsideMac }),
    guestMtu: guestMtu(ctx, vm),
    guestController: guestController(vm),
    ...(await guestBackend(ctx, vm)),
    uplink,
  });
}

async function launch(ctx: VmContext, vm: VmRow, resume: boolean, { progress }: Call): Promise<void> {
  const spec = await machineSpec(ctx, vm, resume);
  if (vm.hasCard) progress('attaching to the network');
  const backend = vm.hasCard ? await openBackend(ctx, vm) : null;
  const step = resume ? 'resuming the guest' : 'starting the guest';
  progress(step);
  const machine = await ctx.runner.launch(spec, backend, (fraction) => progress(step, fraction));
  registerMachine(ctx, vm, machine);
  if (resume && vm.hasCard && vm.type !== 'disconnected') void connectAfterResume(ctx, vm.uuid, machine);
}

/**
 * Sets the link up a moment after the resume, so that the guest renews its lease (B4); if it does not, once more after
 * a longer time. Runs in the VM's queue, so that a link that a client sets down in the meantime stays down.
 */
async function connectAfterResume(ctx: VmContext, uuid: string, machine: Machine): Promise<void> {
  try {
    for (const down of LINK_DOWN_MS) {
      let since = 0;
      await ctx.queue.exclusive(uuid, async (vm) => {
        if (ctx.machines.get(uuid) !== machine || !vm.hasCard || vm.type === 'disconnected') return;
        await machine.setLink(false);
        await sleep(down);
        since = monotonicMs();
        await machine.setLink(true);
      });
      const type = ctx.vms.find(uuid)?.type;
      if (since === 0 || (type !== 'shared' && type !== 'host') || (await requestedAddress(ctx, uuid, since)) !== null) return;
    }
    ctx.log.warn({ vm: ctx.vms.find(uuid)?.name }, 'the guest did not request an address after it was resumed');
  } catch (cause) {
    ctx.log.warn({ uuid, error: (cause as Error).message }, 'cannot connect a resumed VM to its network');
  }
}
