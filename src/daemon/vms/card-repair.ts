/**
 * Cards of running guests whose tap another program has removed (`ip link del`).
 *
 * Theory of operation: the engine creates the tap anew, but QEMU's descriptors still belong to the removed one. They
 * are connected to the new one, by which neither QEMU nor its guest is disturbed. Without that, QEMU 7.2 ends itself
 * when the guest changes the number of queues. Limits: what the guest said of offloads is lost with the
 * tap: until it boots again, the host divides large TCP segments before the guest gets them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { vmName } from '../context.ts';
import { guestController } from '../desired.ts';
import type { VmContext } from './context.ts';

/** What `show` says of such a VM. */
export const LOST_BACKEND = 'another program has removed its tap: its guest has no network; if that lasts, stop and start the VM';
/** After a failure. */
const RETRY_MS = 30_000;
/**
 * Bytes that QEMU reads and writes before each frame (`struct virtio_net_hdr_mrg_rxbuf` of virtio 1, 5.1.6, and `struct
 * virtio_net_hdr`).
 */
const HEADER_BYTES = { 'virtio-net': 12, e1000: 10 };

/** Repairs cards from now on. */
export function repairCards(ctx: VmContext): void {
  /** VMs whose card is being repaired, or whose repair failed a moment ago. */
  const busy = new Set<string>();
  ctx.reconciler.onObserved(({ nics }) => {
    for (const { id, isUnused } of nics) {
      if (!isUnused || busy.has(id) || !ctx.machines.has(id)) continue;
      busy.add(id);
      void repair(ctx, id).finally(() => busy.delete(id));
    }
  });
}

async function repair(ctx: VmContext, uuid: string): Promise<void> {
  try {
    await ctx.queue.exclusive(uuid, async (vm) => {
      const machine = ctx.machines.get(uuid);
      // the VM may have been stopped, or its card changed, by an operation that came first
      if (!machine || !vm.hasCard || !(await isUnused(ctx, uuid))) return;
      await (await ctx.engine()).reconnectNic?.(uuid, machine.pid, HEADER_BYTES[guestController(vm)]);
      ctx.log.warn({ vm: vm.name }, 'another program has removed the tap of a VM: QEMU got the new one');
      ctx.events.emit('network.problem', 'another program removed its tap, and it got a new one', vmName(vm));
    });
  } catch (cause) {
    ctx.log.warn({ uuid, error: (cause as Error).message }, 'another program has removed the tap of a VM: QEMU cannot get the new one');
    await sleep(RETRY_MS, undefined, { ref: false });
  }
}

async function isUnused(ctx: VmContext, uuid: string): Promise<boolean> {
  await ctx.reconciler.apply(); // what was observed before is forgotten
  return (await ctx.reconciler.observe()).nics.some((n) => n.id === uuid && n.isUnused);
}
