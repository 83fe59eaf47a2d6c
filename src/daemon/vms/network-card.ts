/**
 * The one network card of a VM (B20–B23, B30, B43, B51).
 *
 * Theory of operation: a change on a running VM is pulling the cable, plugging it into the other network, waiting until
 * any guest has noticed, and pushing it in; then it is checked that the guest asked for an address, and the cable is
 * pulsed again, longer, when it did not. Nothing of QEMU changes, but for taking the card out and putting it back,
 * which is PCI hotplug. Limits: MAC address and controller change at the next start.
 */
import { randomInt } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { CallSettings, OnProgress } from '../../api/service.ts';
import type { NetworkCardRequest } from '../../api/types.ts';
import type { ObservedState } from '../../engine/engine.ts';
import { defaultUplink, foreignMacDoubt } from '../../host/ethernet.ts';
import { listRoutes } from '../../host/links.ts';
import { AnkaError } from '../../lib/errors.ts';
import { isInterfaceName } from '../../lib/settings.ts';
import { drawMac } from '../../net/mac-pool.ts';
import type { VmRow } from '../../store/vms.ts';
import type { Machine, MachineSpec } from '../../vm/machine.ts';
import { broadcastOf, formatIpv4, formatSubnet, gatewayOf, isMulticastMac, parseIpv4, parseMac, subnetContains } from '../../wire/address.ts';
import type { Context } from '../context.ts';
import { desiredNetworks, desiredState, guestController, guestMac } from '../desired.ts';
import type { Reconciler } from '../reconcile.ts';
import { settingValue } from '../settings.ts';
import { bridgedMtuNote, guestMtu } from './card-mtu.ts';
import { settlePorts } from './port-forwarding.ts';

/** How long the cable stays out: guests notice from about 100 ms to 1 s on. */
export const PULSES_MS = [1200, 3000];
const DHCP_WAIT_MS = 5000;

/** Checks a request against a VM, and gives the row's change. `seen` is what the engine observes, where VMs run. */
export function cardChange(ctx: Context, vm: VmRow, r: NetworkCardRequest, seen: ObservedState | null): Partial<VmRow> {
  const change: Partial<VmRow> = {};
  if (r.type !== undefined) change.type = r.type === 'bridged' ? 'bridge' : r.type;
  if (r.bridge !== undefined) {
    if (r.bridge !== '' && !isInterfaceName(r.bridge))
      throw new AnkaError('badValue', `'${r.bridge}' is no interface name: it has at most 15 characters, and no blanks or slashes; 'ip link' lists them`);
    change.bridge = r.bridge;
  }
  if (r.controller !== undefined) change.controller = r.controller === 'anet' ? 'virtio-net' : r.controller;
  if (r.isolated !== undefined) change.isolated = r.isolated;
  if (r.vlan !== undefined) change.vlan = r.vlan;
  if (r.mac === null) change.insideMac = null;
  else if (r.mac !== undefined) change.insideMac = checkMac(r.mac);
  if (r.ip === 'auto') change.reservedIp = null;
  else if (r.ip !== undefined) change.reservedIp = checkReservation(ctx, { ...vm, ...change }, r.ip, seen);
  else if (change.type && change.type !== vm.type && vm.reservedIp !== null)
    change.reservedIp = keepsReservation(ctx, change.type, vm.reservedIp) ? vm.reservedIp : null;
  return change;
}

function checkMac(text: string): number {
  const mac = parseMac(text);
  if (mac === null) throw new AnkaError('badValue', `'${text}' is no MAC address; write it like 52:54:00:12:34:56`);
  if (mac === 0) throw new AnkaError('badValue', 'the MAC address 00:00:00:00:00:00 cannot be used; choose one like 52:54:00:12:34:56');
  if (isMulticastMac(mac)) throw new AnkaError('badValue', `'${text}' is a multicast MAC address (its first byte is odd); choose one like 52:54:00:12:34:56`);
  return mac;
}

function keepsReservation(ctx: Context, type: VmRow['type'], ip: number): boolean {
  const network = desiredNetworks(ctx).find((n) => n.name === type);
  return network !== undefined && subnetContains(network.subnet, ip);
}

function checkReservation(ctx: Context, vm: VmRow, text: string, seen: ObservedState | null): number {
  const ip = parseIpv4(text);
  if (ip === null) throw new AnkaError('badValue', `'${text}' is no IPv4 address; write one like 192.168.64.50, or auto`);
  const network = desiredNetworks(ctx).find((n) => n.name === vm.type);
  if (!network) throw new AnkaError('badValue', `--ip has no use on type ${vm.type}: addresses are that network's own`);
  const s = network.subnet;
  if (!subnetContains(s, ip) || ip === s.base || ip === broadcastOf(s))
    throw new AnkaError(
      'addressTaken',
      `${text} is not in ${vm.type}'s range ${formatIpv4(s.base + 2)}–${formatIpv4(broadcastOf(s) - 1)} (${formatSubnet(s)})`,
    );
  if (ip === gatewayOf(s)) throw new AnkaError('addressTaken', `${text} is the gateway's own address`);
  const owner = ctx.vms.all().find((v) => v.uuid !== vm.uuid && v.reservedIp === ip && v.type === vm.type);
  if (owner) throw new AnkaError('addressTaken', `${text} is reserved for VM ${owner.name}`);
  const user = ctx.vms.find(seen?.nics.find((n) => n.id !== vm.uuid && n.ip === ip)?.id ?? '');
  if (user) throw new AnkaError('addressTaken', `${text} is in use by VM ${user.name}; choose another, or stop ${user.name} first`);
  return ip;
}

/**
 * Interface of a bridge-type VM (B18): its own, the environment's, the setting's, the default route's if it is
 * Ethernet, the first card with a link.
 */
export async function chooseUplink(ctx: Context, vm: VmRow, settings: CallSettings): Promise<string> {
  if (vm.bridge) return vm.bridge;
  const named = settingValue(ctx.settings, 'bridge_name', settings).value;
  if (named) return named;
  return defaultUplink((await listRoutes()).filter((r) => r.isDefault).map((r) => r.dev));
}

/** Refuses what the engine cannot do, before anything is touched. */
async function demandPossible(ctx: Context, vm: VmRow): Promise<void> {
  const engine = await ctx.engine();
  const problem = (await engine.validate(desiredState(ctx, vm))).find((p) => p.object === `nic:${vm.uuid}`);
  if (problem) throw new AnkaError('network', problem.message);
}

/** The built-in guest's kernel is Debian's for clouds. */
function noDriverNote(vm: VmRow, changed: boolean): string {
  return changed && vm.controller === 'e1000' && vm.app === '' ? 'the built-in Debian guest has no driver for an e1000 card, and will be without network' : '';
}

/** Applies a checked change; says what happened. */
export async function changeCard(
  ctx: Context,
  reconciler: Reconciler,
  vm: VmRow,
  change: Partial<VmRow>,
  settings: CallSettings,
  progress: OnProgress,
): Promise<string> {
  if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card; 'anka modify ${vm.name} add network-card' brings one back`);
  const next = { ...vm, ...change };
  const machine = ctx.machines.get(vm.uuid);
  next.uplink = next.type === 'bridge' ? await chooseUplink(ctx, next, settings) : '';
  const otherMac = change.insideMac !== undefined && change.insideMac !== null;
  if (next.type === 'bridge' || otherMac) await demandPossible(ctx, { ...next, outsideMac: next.outsideMac ?? 0, ...(otherMac ? { guestMac: null } : {}) });
  const place = (v: VmRow): string => (v.type === 'bridge' ? `bridge ${v.bridge || v.uplink} ${v.vlan ?? ''}` : v.type);
  const moved = place(next) !== place(vm);
  const stored = { ...change, ...(machine ? { uplink: next.uplink } : {}) };
  const later = (['insideMac', 'controller'] as const).filter((k) => change[k] !== undefined && change[k] !== vm[k]);
  const driver = noDriverNote(next, later.includes('controller'));
  const note = machine && later.length > 0 ? `; MAC address and controller change at the next start${driver ? `; ${driver}` : ''}` : '';
  if (!machine) {
    ctx.vms.update(vm.uuid, stored);
    if (vm.status !== 'suspended') return driver;
    return `${vm.name} will be on ${next.type} when it resumes${later.length > 0 ? '; MAC address and controller change when it is stopped and started' : ''}`;
  }
  if (!moved) {
    ctx.vms.update(vm.uuid, stored);
    await reconciler.apply();
    if (change.reservedIp !== undefined && change.reservedIp !== vm.reservedIp && next.type !== 'disconnected')
      return `${await replug(ctx, reconciler, next, machine, progress)}${note}`;
    return note.slice(2);
  }
  progress('pulling the cable');
  await machine.setLink(false);
  ctx.vms.update(vm.uuid, stored);
  await reconciler.apply();
  if (next.type === 'disconnected') return `${vm.name} is disconnected${note}`;
  return `${await replug(ctx, reconciler, next, machine, progress)}${note}`;
}

/** Pulses the cable until the guest asks for an address; tells how it went. */
export async function replug(ctx: Context, reconciler: Reconciler, vm: VmRow, machine: Machine, progress: OnProgress): Promise<string> {
  const served = vm.type === 'shared' || vm.type === 'host';
  for (const pulse of PULSES_MS) {
    await machine.setLink(false);
    await sleep(pulse);
    const since = Date.now();
    await machine.setLink(true);
    if (!served) return `${await bridgedNow(reconciler, vm)}${bridgedMtuNote(vm)}`;
    progress('waiting for the guest to ask for an address');
    const ip = await addressAsked(reconciler, vm.uuid, since);
    if (ip !== null) return `${vm.name} is on ${vm.type} with address ${formatIpv4(ip)}`;
  }
  ctx.log.warn({ vm: vm.name }, 'the guest did not ask for an address after its cable was plugged in');
  return `${vm.name} is on ${vm.type}; its guest has not asked for an address (it may have a manual one)`;
}

/** Where a card of type bridge is now, and what may not work there. */
async function bridgedNow(reconciler: Reconciler, vm: VmRow): Promise<string> {
  const uplink = vm.bridge || vm.uplink;
  const limit = (await reconciler.observe()).nics.find((n) => n.id === vm.uuid)?.limit;
  return [`${vm.name} is on bridge ${uplink}`, foreignMacDoubt(uplink), limit].filter((t) => t).join('; ');
}

/** The address that the guest has asked for since then, waited for; null when it did not ask in time. */
export async function addressAsked(reconciler: Reconciler, uuid: string, since: number): Promise<number | null> {
  do {
    const nic = (await reconciler.observe()).nics.find((n) => n.id === uuid);
    if (nic?.ip != null && (nic.lastDhcp ?? 0) >= since) return nic.ip;
    await sleep(100);
  } while (Date.now() - since < DHCP_WAIT_MS);
  return null;
}

/** Takes the card away, from a running guest too. */
export async function removeCard(ctx: Context, reconciler: Reconciler, vm: VmRow): Promise<void> {
  if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card`);
  if (vm.status === 'suspended') throw new AnkaError('badState', `${vm.name} is suspended; start or stop it before its card is taken out`);
  const machine = ctx.machines.get(vm.uuid);
  if (machine && (await machine.hasCard())) await machine.removeCard();
  ctx.vms.update(vm.uuid, { hasCard: false, reservedIp: null, guestMac: null, guestMtu: null, guestController: null });
  if (machine) await reconciler.apply();
}

/**
 * Brings the card back (B21), into a running guest by PCI hotplug; says what happened. A second one is refused (B32).
 */
export async function addCard(
  ctx: Context,
  reconciler: Reconciler,
  vm: VmRow,
  r: NetworkCardRequest,
  seen: ObservedState | null,
  settings: CallSettings,
  progress: OnProgress,
): Promise<string> {
  if (vm.hasCard) throw new AnkaError('cardExists', `${vm.name} has a network card already; a VM has only one, index 0`);
  if (vm.status === 'suspended') throw new AnkaError('badState', `${vm.name} is suspended; start or stop it before a card is put in`);
  const blank: Partial<VmRow> = {
    hasCard: true,
    type: 'shared',
    bridge: '',
    uplink: '',
    vlan: null,
    controller: 'virtio-net',
    insideMac: null,
    reservedIp: null,
    isolated: false,
  };
  const change = { ...blank, ...cardChange(ctx, { ...vm, ...blank }, r, seen) };
  const machine = ctx.machines.get(vm.uuid);
  if (!machine) {
    ctx.vms.update(vm.uuid, change);
    return '';
  }
  const next = { ...vm, ...change };
  next.outsideMac = drawOutsideMac(ctx, next, settings);
  if (next.type === 'bridge') {
    next.uplink = await chooseUplink(ctx, next, settings);
    await demandPossible(ctx, next);
  }
  await settlePorts(ctx, reconciler, next, settings, progress);
  progress('putting the card in');
  const since = Date.now();
  try {
    ctx.vms.update(vm.uuid, {
      ...change,
      outsideMac: next.outsideMac,
      guestMac: guestMac(next),
      guestMtu: guestMtu(ctx, next),
      guestController: next.controller,
      uplink: next.uplink,
    });
    await plugCard(ctx, reconciler, next, machine);
  } catch (cause) {
    ctx.vms.update(vm.uuid, { hasCard: false, outsideMac: vm.outsideMac, guestMac: null, guestMtu: null, guestController: null });
    await reconciler.apply().catch((e: Error) => ctx.log.warn({ vm: vm.name, error: e.message }, 'after a card that was not put in'));
    throw cause;
  }
  if (next.type === 'disconnected') return `${vm.name} is disconnected`;
  if (next.type === 'bridge') return bridgedNow(reconciler, next);
  progress('waiting for the guest to ask for an address');
  const ip = await addressAsked(reconciler, vm.uuid, since);
  return ip === null ? replug(ctx, reconciler, next, machine, progress) : `${vm.name} is on ${next.type} with address ${formatIpv4(ip)}`;
}

/** Puts the card of a stored row into its running guest. */
export async function plugCard(ctx: Context, reconciler: Reconciler, vm: VmRow, machine: Machine): Promise<void> {
  const mine = (await reconciler.apply()).find((p) => p.object === `nic:${vm.uuid}` || p.object === 'host' || p.object === 'service');
  if (mine) throw new AnkaError('network', `${vm.name}: ${mine.message}`);
  await machine.addCard(nicSpec(ctx, vm, vm.type !== 'disconnected'), await (await ctx.engine()).openNic(vm.uuid));
}

/** The card as QEMU makes it. */
export function nicSpec(ctx: Context, vm: VmRow, linkUp: boolean): NonNullable<MachineSpec['nic']> {
  return {
    insideMac: guestMac(vm),
    controller: guestController(vm),
    linkUp,
    mtu: guestMtu(ctx, vm),
  };
}

/** What the network sees of a card that is about to be used (B40): kept while it has one, else drawn from the pool. */
export function drawOutsideMac(ctx: Context, vm: VmRow, settings: CallSettings): number {
  if (vm.outsideMac !== null) return vm.outsideMac;
  const prefix = settingValue(ctx.settings, 'permanent_mac_prefix', settings).value;
  const used = new Set(ctx.vms.all().flatMap((v) => [v.outsideMac, v.insideMac, v.guestMac].filter((m) => m !== null)));
  return drawMac(Math.floor((parseMac(`${prefix}:00:00:00`) as number) / 2 ** 24), used, () => randomInt(2 ** 24), vm.insideMac ?? undefined);
}
