/**
 * How the frames of a guest's card reach its tap: the number of queues, and vhost-net or QEMU.
 *
 * As elsewhere (libvirt, Incus), vhost-net is the default where it works, and a card has a pair of queues for each CPU
 * of its VM ([decision 30](../../../docs/decisions/0030-vhost-net-and-a-queue-per-cpu.md)). A guest keeps what it
 * started with: its saved memory fits no other card.
 */
import type { Engine } from '../../engine/engine.ts';
import { vhostRefusal } from '../../host/vhost.ts';
import type { VmRow } from '../../store/vms.ts';
import type { Accelerator } from '../../vm/machine.ts';
import { guestController } from '../desired.ts';
import type { VmContext } from './context.ts';

/** What the choice depends on. */
export interface CardBackendFacts {
  engine: Engine['name'];
  accel: Accelerator;
  controller: VmRow['controller'];
  /** Of the VM. */
  cpus: number;
  /** Why /dev/vhost-net cannot be opened; null if it can. */
  vhostRefusal: string | null;
}

export interface CardBackend {
  queues: number;
  driver: 'vhost' | 'qemu';
  /** Why a card that could have vhost-net does not; null for others. */
  reason: string | null;
}

/** The card of a VM that starts now. */
export function chooseCardBackend({ engine, accel, controller, cpus, vhostRefusal: refusal }: CardBackendFacts): CardBackend {
  if (engine !== 'kernel' || controller !== 'virtio-net') return { queues: 1, driver: 'qemu', reason: null };
  const reason = refusal ?? (accel === 'kvm' ? null : 'guests are emulated, without KVM');
  return { queues: cpus, driver: reason === null ? 'vhost' : 'qemu', reason };
}

/** The columns of the guest's card: those that it has, or else those for its start. Logs each reason once. */
export async function guestBackend(ctx: VmContext, vm: VmRow): Promise<Pick<VmRow, 'guestQueues' | 'guestDriver'>> {
  if (vm.guestQueues !== null && vm.guestDriver !== null) return { guestQueues: vm.guestQueues, guestDriver: vm.guestDriver };
  const { name: engine } = await ctx.engine();
  const { queues, driver, reason } = chooseCardBackend({
    ...{ engine, accel: await ctx.runner.accelerator(), controller: guestController(vm), cpus: vm.cpus },
    vhostRefusal: engine === 'kernel' ? vhostRefusal() : null,
  });
  if (reason !== null && !ctx.vhostReasons.has(reason)) {
    ctx.vhostReasons.add(reason);
    ctx.log.info({ reason }, 'vhost-net is not used: QEMU moves the frames of network cards');
  }
  return { guestQueues: queues, guestDriver: driver };
}
