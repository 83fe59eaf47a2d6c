/**
 * The MTU of a card.
 *
 * Theory of operation: the guest learns its MTU at start, by virtio (and by DHCP on shared and host), and keeps it
 * until its next start. After a change of the setting, cards of different MTUs share a network.
 *
 * Limits: at most 1500 for an e1000 card, which cannot announce an MTU, and for a bridged card, whose network may not
 * take more.
 */
import type { VmRow } from '../../store/vms.ts';
import type { Context } from '../context.ts';
import { settingValue } from '../settings.ts';

const ETHERNET_MTU = 1500;

function settingMtu(ctx: Context): number {
  return Number(settingValue(ctx.settings, 'mtu').value);
}

/** MTU of the card if the VM starts now, bytes. */
function nextMtu(ctx: Context, vm: VmRow): number {
  const mtu = settingMtu(ctx);
  return vm.controller === 'e1000' || vm.type === 'bridge' ? Math.min(mtu, ETHERNET_MTU) : mtu;
}

/** MTU of the guest's card, now or at its next start, bytes. */
export function guestMtu(ctx: Context, vm: VmRow): number {
  return vm.guestMtu ?? nextMtu(ctx, vm);
}

/** Notice for a change of the setting `mtu`; empty if there is none. */
export function mtuNotice(ctx: Context): string {
  const mtu = settingMtu(ctx);
  const cards = ctx.vms.all().filter((v) => v.phase === 'ready' && v.hasCard);
  const deferred = cards.filter((v) => v.guestMtu !== null && v.guestMtu !== nextMtu(ctx, v)).map((v) => `${v.name} (now ${v.guestMtu})`);
  const e1000 = mtu > ETHERNET_MTU ? cards.filter((v) => v.controller === 'e1000').map((v) => v.name) : [];
  return [
    ...(deferred.length > 0 ? [`takes effect at the next start of ${deferred.join(', ')}`] : []),
    ...(e1000.length > 0 ? [`${e1000.join(', ')}: an e1000 card is limited to ${ETHERNET_MTU}; use '-c virtio-net' for a larger MTU`] : []),
  ].join('\n');
}

/** Note for a running guest whose card is attached to a bridge with a larger MTU; empty if there is none. */
export function bridgedMtuNote(vm: VmRow): string {
  if (vm.guestMtu === null || vm.guestMtu <= ETHERNET_MTU) return '';
  return `; its guest sends packets of up to ${vm.guestMtu} bytes, which that network may drop; run 'anka reboot ${vm.name}' to limit them to ${ETHERNET_MTU}`;
}
