/** What a card gets when its VM starts: uplink, outside MAC address, and the device that QEMU creates. */
import { randomInt } from 'node:crypto';
import type { CallSettings } from '../../api/service.ts';
import { defaultUplink } from '../../host/ethernet.ts';
import { containerCards, listLinks, listRoutes } from '../../host/links.ts';
import { drawMac } from '../../net/mac-pool.ts';
import type { VmRow } from '../../store/vms.ts';
import type { MachineSpec } from '../../vm/machine.ts';
import { parseMac } from '../../wire/address.ts';
import type { Context } from '../context.ts';
import { guestController, guestMac } from '../desired.ts';
import { settingValue } from '../settings.ts';
import { guestMtu } from './card-mtu.ts';

/**
 * Interface of a VM of type bridge (B18): the VM's own, the setting, the default route's if it is Ethernet, or the
 * first Ethernet interface with a link.
 */
export async function chooseUplink(ctx: Context, vm: VmRow, settings: CallSettings): Promise<string> {
  if (vm.bridge) return vm.bridge;
  const configured = settingValue(ctx.settings, 'bridge_name', settings).value;
  if (configured) return configured;
  const [routes, links] = await Promise.all([listRoutes(), listLinks()]);
  const defaults = routes.filter((r) => r.isDefault).map((r) => r.dev);
  return defaultUplink(defaults, containerCards(links));
}

/** The MAC address that the network sees (B40): the one that the card has, or else a new one from the pool. */
export function drawOutsideMac(ctx: Context, vm: VmRow, settings: CallSettings): number {
  if (vm.outsideMac !== null) return vm.outsideMac;
  const prefix = settingValue(ctx.settings, 'permanent_mac_prefix', settings).value;
  const used = new Set(ctx.vms.all().flatMap((v) => [v.outsideMac, v.insideMac, v.guestMac].filter((m) => m !== null)));
  return drawMac(Math.floor((parseMac(`${prefix}:00:00:00`) as number) / 2 ** 24), used, () => randomInt(2 ** 24), vm.insideMac ?? undefined);
}

export function nicSpec(ctx: Context, vm: VmRow, linkUp: boolean): NonNullable<MachineSpec['nic']> {
  return { insideMac: guestMac(vm), controller: guestController(vm), linkUp, mtu: guestMtu(ctx, vm) };
}
