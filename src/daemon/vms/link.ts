/**
 * A running VM's card and its network: attach, set the link down and up, wait for the guest's DHCP request.
 *
 * Theory of operation: after a change of network the link is down long enough for any guest to notice. When it is up
 * again, the guest requests an address; if it does not, the link is set down once more, for longer. Limits: a guest
 * with a static address sends no request; the change then takes 14 s and reports that there was none.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { OnProgress } from '../../api/service.ts';
import type { NicBackend } from '../../engine/engine.ts';
import { foreignMacDoubt } from '../../host/ethernet.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { VmRow } from '../../store/vms.ts';
import type { Machine } from '../../vm/machine.ts';
import { formatIpv4 } from '../../wire/address.ts';
import { bridgedMtuNote } from './card-mtu.ts';
import { nicSpec } from './card-spec.ts';
import type { VmContext } from './context.ts';

/** How long the link is down, first and second try, ms: guests notice after 100 ms to 1 s. */
export const LINK_DOWN_MS = [1200, 3000];
const DHCP_WAIT_MS = 5000;

/** Attaches the card of a stored VM to its network. */
export async function openBackend(ctx: VmContext, vm: VmRow): Promise<NicBackend> {
  const problem = (await ctx.reconciler.apply()).find((p) => p.object === `nic:${vm.uuid}` || p.object === 'host' || p.object === 'service');
  if (problem) throw new AnkaError('network', `${vm.name}: ${problem.message}`);
  return (await ctx.engine()).openNic(vm.uuid);
}

/** Adds the card of a stored VM to its running guest. */
export async function plugCard(ctx: VmContext, vm: VmRow, machine: Machine): Promise<void> {
  const backend = await openBackend(ctx, vm);
  await machine.addCard(nicSpec(ctx, vm, vm.type !== 'disconnected'), backend);
}

/** Sets the link down and up until the guest requests an address; returns the outcome as a sentence. */
export async function reconnect(ctx: VmContext, vm: VmRow, machine: Machine, progress: OnProgress): Promise<string> {
  const served = vm.type === 'shared' || vm.type === 'host';
  for (const down of LINK_DOWN_MS) {
    await machine.setLink(false);
    await sleep(down);
    const since = monotonicMs();
    await machine.setLink(true);
    if (!served) return `${await bridgedOutcome(ctx, vm)}${bridgedMtuNote(vm)}`;
    progress('waiting for the guest to request an address');
    const ip = await requestedAddress(ctx, vm.uuid, since);
    if (ip !== null) return addressOutcome(vm, ip);
  }
  ctx.log.warn({ vm: vm.name }, 'the guest did not request an address after its link was set up');
  return `${vm.name} is on ${vm.type}; its guest has not requested an address (it may use a static one)`;
}

export const addressOutcome = (vm: VmRow, ip: number): string => `${vm.name} is on ${vm.type} with address ${formatIpv4(ip)}`;

/** Where a bridged card is attached, and what may not work there. */
export async function bridgedOutcome(ctx: VmContext, vm: VmRow): Promise<string> {
  const uplink = vm.bridge || vm.uplink;
  const limit = (await ctx.reconciler.observe()).nics.find((n) => n.id === vm.uuid)?.limit;
  return [`${vm.name} is on bridge ${uplink}`, foreignMacDoubt(uplink), limit].filter((t) => t).join('; ');
}

/** Waits for the address that the guest requests by DHCP after `since` (`monotonicMs`); null after 5 s. */
export async function requestedAddress(ctx: VmContext, uuid: string, since: number): Promise<number | null> {
  do {
    const nic = (await ctx.reconciler.observe()).nics.find((n) => n.id === uuid);
    if (nic?.ip != null && (nic.lastDhcp ?? 0) >= since) return nic.ip;
    await sleep(100);
  } while (monotonicMs() - since < DHCP_WAIT_MS);
  return null;
}
