/**
 * The one network card of a VM (B20–B23, B30, B43, B51): add, change, delete.
 *
 * Theory of operation: for a running VM, `changeCard` sets the link down, has the engine attach the card to the other
 * network, and sets the link up again (link.ts). QEMU's device stays the same. `addCard` and `removeCard` are PCI
 * hotplug. Limits: MAC address and controller change at the next start.
 */

import type { NetworkCardRequest } from '../../api/types.ts';
import type { EngineProblem, ObservedState } from '../../engine/engine.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { VmRow } from '../../store/vms.ts';
import type { Machine } from '../../vm/machine.ts';
import { type Context, vmName } from '../context.ts';
import { desiredState, guestMac } from '../desired.ts';
import { filterOf } from '../net-filter.ts';
import { guestBackend } from './card-backend.ts';
import { guestMtu } from './card-mtu.ts';
import { cardChange, demandCard } from './card-request.ts';
import { chooseUplink, drawOutsideMac } from './card-spec.ts';
import type { Call, VmContext } from './context.ts';
import { addressOutcome, bridgedOutcome, plugCard, reconnect, requestedAddress } from './link.ts';
import { settlePorts } from './port-forwarding.ts';

/** A card as `add network-card` without options creates it. */
const DEFAULT_CARD: Partial<VmRow> = {
  hasCard: true,
  type: 'shared',
  bridge: '',
  uplink: '',
  vlan: null,
  controller: 'virtio-net',
  insideMac: null,
  reservedIp: null,
  isolated: false,
  filter: null,
};

/** The guest has no card. */
const NO_CARD: Partial<VmRow> = { hasCard: false, guestMac: null, guestMtu: null, guestController: null, guestQueues: null, guestDriver: null };

/** Throws if the engine cannot attach such a card, before anything is changed. */
async function demandSupported(ctx: Context, vm: VmRow): Promise<void> {
  const engine = await ctx.engine();
  const problem = (await engine.validate(desiredState(ctx, vm))).find((p) => p.object === `nic:${vm.uuid}`);
  if (problem) throw new AnkaError('network', problem.message);
}

/** Applies a checked change; returns what the client should know of it, or nothing. */
export async function changeCard(ctx: VmContext, vm: VmRow, change: Partial<VmRow>, call: Call): Promise<string> {
  demandCard(vm);
  const next = { ...vm, ...change };
  next.uplink = next.type === 'bridge' ? await chooseUplink(ctx, next, call.settings) : '';
  const newMac = change.insideMac !== undefined && change.insideMac !== null;
  if (next.type === 'bridge' || newMac) await demandSupported(ctx, { ...next, outsideMac: next.outsideMac ?? 0, ...(newMac ? { guestMac: null } : {}) });
  const machine = ctx.machines.get(vm.uuid);
  if (machine) return changeLiveCard(ctx, { vm, next, machine }, { ...change, uplink: next.uplink }, call);
  ctx.vms.update(vm.uuid, change);
  if (vm.status !== 'suspended') return driverNote(vm, next);
  const deferred = isDeferred(vm, next) ? '; MAC address and controller change when it is stopped and started' : '';
  return `${vm.name} will be on ${next.type} when it resumes${deferred}`;
}

async function changeLiveCard(
  ctx: VmContext,
  { vm, next, machine }: { vm: VmRow; next: VmRow; machine: Machine },
  change: Partial<VmRow>,
  { progress }: Call,
): Promise<string> {
  const driver = driverNote(vm, next);
  const note = isDeferred(vm, next) ? `MAC address and controller change at the next start${driver ? `; ${driver}` : ''}` : '';
  const withNote = (outcome: string): string => (note ? `${outcome}; ${note}` : outcome);
  if (attachment(next) === attachment(vm)) {
    ctx.vms.update(vm.uuid, change);
    demandFiltered(ctx, next, await ctx.reconciler.apply());
    const renumbered = next.reservedIp !== vm.reservedIp && next.type !== 'disconnected';
    if (renumbered) ctx.events.emit('vm.network', 'requests another address', vmName(vm));
    return renumbered ? withNote(await reconnect(ctx, next, machine, progress)) : note;
  }
  progress('setting the link down');
  await machine.setLink(false);
  try {
    ctx.vms.update(vm.uuid, change);
  } catch (cause) {
    await machine.setLink(vm.type !== 'disconnected'); // a full disk changes nothing
    throw cause;
  }
  ctx.events.emit('vm.network', next.type === 'disconnected' ? 'is disconnected' : `is on ${attachment(next)} now`, vmName(vm));
  const problems = await ctx.reconciler.apply();
  if (next.type === 'disconnected') return withNote(`${vm.name} is disconnected`);
  demandFiltered(ctx, next, problems);
  return withNote(await reconnect(ctx, next, machine, progress));
}

/** Throws if a card with a packet filter was not applied: the filter may not be in force. */
function demandFiltered(ctx: Context, vm: VmRow, problems: readonly EngineProblem[]): void {
  const problem = problems.find((p) => p.object === `nic:${vm.uuid}` || p.object === `network:${vm.type}` || p.object === 'host');
  if (problem && filterOf(ctx, vm) !== '')
    throw new AnkaError('network', `the packet filter of ${vm.name} is stored, but not in force: ${problem.message}; run 'anka doctor'`);
}

/** The network that a card is attached to, as text to compare. */
function attachment(vm: VmRow): string {
  return vm.type === 'bridge' ? `bridge ${vm.bridge || vm.uplink}${vm.vlan === null ? '' : ` VLAN ${vm.vlan}`}` : vm.type;
}

/** Whether the change has a part that waits for the next start. */
function isDeferred(vm: VmRow, next: VmRow): boolean {
  return next.insideMac !== vm.insideMac || next.controller !== vm.controller;
}

/** The built-in guest's kernel, Debian's for clouds, has no e1000 driver. */
function driverNote(vm: VmRow, next: VmRow): string {
  return next.controller === 'e1000' && vm.controller !== 'e1000' && vm.app === ''
    ? 'the built-in Debian guest has no driver for an e1000 card and will have no network'
    : '';
}

/** Removes the card, also from a running guest. */
export async function removeCard(ctx: VmContext, vm: VmRow): Promise<void> {
  if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card`);
  if (vm.status === 'suspended') throw new AnkaError('badState', `${vm.name} is suspended; start or stop it before deleting its network card`);
  const machine = ctx.machines.get(vm.uuid);
  // stored first, so that a full disk changes nothing; the next daemon removes it if this one dies meanwhile
  const removal: Partial<VmRow> = { ...NO_CARD, reservedIp: null };
  ctx.vms.update(vm.uuid, removal);
  if (!machine) return;
  try {
    if (await machine.hasCard()) await machine.removeCard();
  } catch (cause) {
    const before = Object.keys(removal).map((key) => [key, vm[key as keyof VmRow]]);
    ctx.vms.update(vm.uuid, Object.fromEntries(before));
    throw cause;
  }
  ctx.events.emit('vm.network', 'has no network card', vmName(vm));
  await ctx.reconciler.apply();
}

/** Adds a card (B21), also to a running guest; returns the outcome, if there is one. A second card is refused (B32). */
export async function addCard(ctx: VmContext, vm: VmRow, request: NetworkCardRequest, observed: ObservedState | null, call: Call): Promise<string> {
  if (vm.hasCard) throw new AnkaError('cardExists', `${vm.name} already has a network card; a VM has only one, index 0`);
  if (vm.status === 'suspended') throw new AnkaError('badState', `${vm.name} is suspended; start or stop it before adding a network card`);
  const change = { ...DEFAULT_CARD, ...cardChange(ctx, { ...vm, ...DEFAULT_CARD }, request, observed) };
  const machine = ctx.machines.get(vm.uuid);
  if (machine) return addLiveCard(ctx, { vm, change, machine }, call);
  ctx.vms.update(vm.uuid, change);
  return '';
}

async function addLiveCard(ctx: VmContext, { vm, change, machine }: { vm: VmRow; change: Partial<VmRow>; machine: Machine }, call: Call): Promise<string> {
  const card: VmRow = { ...vm, ...change };
  card.outsideMac = drawOutsideMac(ctx, card, call.settings);
  if (card.type === 'bridge') {
    card.uplink = await chooseUplink(ctx, card, call.settings);
    await demandSupported(ctx, card);
  }
  await settlePorts(ctx, card, call);
  call.progress('adding the network card');
  const since = monotonicMs();
  try {
    ctx.vms.update(vm.uuid, {
      ...change,
      outsideMac: card.outsideMac,
      guestMac: guestMac(card),
      guestMtu: guestMtu(ctx, card),
      guestController: card.controller,
      ...(await guestBackend(ctx, card)),
      uplink: card.uplink,
    });
    await plugCard(ctx, card, machine);
  } catch (cause) {
    ctx.vms.update(vm.uuid, { ...NO_CARD, outsideMac: vm.outsideMac });
    await ctx.reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'cannot detach a network card that was not added'));
    throw cause;
  }
  if (card.type === 'disconnected') return `${vm.name} is disconnected`;
  if (card.type === 'bridge') return bridgedOutcome(ctx, card);
  call.progress('waiting for the guest to request an address');
  const ip = await requestedAddress(ctx, vm.uuid, since);
  return ip === null ? reconnect(ctx, card, machine, call.progress) : addressOutcome(card, ip);
}
