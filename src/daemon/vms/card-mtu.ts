/**
 * How large the packets of a card are.
 *
 * A card's MTU is told to its guest when the guest starts, by virtio (and by DHCP on shared and host), and stays until
 * its next start: a changed setting waits. So cards of different MTUs meet on one network. An e1000 card has no way to
 * tell, and a bridged card's packets must fit a network that is not ours: both stay at 1500 at most.
 */
import type { VmRow } from '../../store/vms.ts';
import type { Context } from '../context.ts';
import { settingValue } from '../settings.ts';

const ETHERNET_MTU = 1500;

function settingMtu(ctx: Context): number {
  return Number(settingValue(ctx.settings, 'mtu').value);
}

/** What the card of a VM gets when it starts now. */
function nextMtu(ctx: Context, vm: VmRow): number {
  const mtu = settingMtu(ctx);
  return vm.controller === 'e1000' || vm.type === 'bridge' ? Math.min(mtu, ETHERNET_MTU) : mtu;
}

/** What the guest has on its card, or will have when it starts: bytes of IP packet. */
export function guestMtu(ctx: Context, vm: VmRow): number {
  return vm.guestMtu ?? nextMtu(ctx, vm);
}

/** What to know after the setting was changed; empty when there is nothing. */
export function mtuNotice(ctx: Context): string {
  const mtu = settingMtu(ctx);
  const cards = ctx.vms.all().filter((v) => v.phase === 'ready' && v.hasCard);
  const late = cards.filter((v) => v.guestMtu !== null && v.guestMtu !== nextMtu(ctx, v)).map((v) => `${v.name} (now ${v.guestMtu})`);
  const old = mtu > ETHERNET_MTU ? cards.filter((v) => v.controller === 'e1000').map((v) => v.name) : [];
  return [
    ...(late.length > 0 ? [`takes effect at the next start of ${late.join(', ')}`] : []),
    ...(old.length > 0 ? [`${old.join(', ')}: an e1000 card stays at ${ETHERNET_MTU}; '-c virtio-net' makes it one that takes more`] : []),
  ].join('\n');
}

/** What to know after a card came to a bridge while its guest runs. */
export function bridgedMtuNote(vm: VmRow): string {
  if (vm.guestMtu === null || vm.guestMtu <= ETHERNET_MTU) return '';
  return `; its guest sends packets of up to ${vm.guestMtu} bytes, which that network may lose: 'anka reboot ${vm.name}' makes them ${ETHERNET_MTU}`;
}
