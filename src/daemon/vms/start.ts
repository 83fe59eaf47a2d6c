/** Start and resume VMs. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { VmRow } from '../../store/vms.ts';
import { transition } from '../../vm/lifecycle.ts';
import type { Machine } from '../../vm/machine.ts';
import { guestController, guestMac } from '../desired.ts';
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
  try {
    if (vm.hasCard) await prepareCard(ctx, vm, call);
    ctx.starting.add(vm.uuid);
    await launch(ctx, ctx.queue.find(vm.uuid), resume, call);
  } catch (cause) {
    ctx.starting.delete(vm.uuid);
    if (!resume) ctx.vms.update(vm.uuid, DETACHED);
    else if (!(await hasSavedMemory(ctx, vm.uuid))) ctx.vms.update(vm.uuid, MEMORY_LOST);
    await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot detach a VM that failed to start'));
    throw cause;
  }
  ctx.starting.delete(vm.uuid);
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
        since = Date.now();
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
