/** Checks a client's request for a network card, and turns it into a change of the stored VM. */
import type { NetworkCardRequest } from '../../api/types.ts';
import type { ObservedState } from '../../engine/engine.ts';
import { AnkaError } from '../../lib/errors.ts';
import { isInterfaceName } from '../../lib/settings.ts';
import type { VmRow } from '../../store/vms.ts';
import { broadcastOf, formatIpv4, formatSubnet, gatewayOf, isMulticastMac, parseIpv4, parseMac, subnetContains } from '../../wire/address.ts';
import type { Context } from '../context.ts';
import { desiredNetworks } from '../desired.ts';
import { checkFilter } from '../net-filter.ts';

/** Throws `cardNotFound` with the command that adds a card. */
export function demandCard(vm: VmRow): void {
  if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card; run 'anka modify ${vm.name} add network-card' to add one`);
}

/** `observed`: the engine's view; null while no VM runs. */
export function cardChange(ctx: Context, vm: VmRow, r: NetworkCardRequest, observed: ObservedState | null): Partial<VmRow> {
  const change: Partial<VmRow> = {};
  if (r.type !== undefined) change.type = r.type === 'bridged' ? 'bridge' : r.type;
  if (r.bridge !== undefined) {
    if (r.bridge !== '' && !isInterfaceName(r.bridge))
      throw new AnkaError(
        'badValue',
        `'${r.bridge}' is not an interface name: it has at most 15 characters, without blanks, slashes and colons; run 'ip link' to list the interfaces`,
      );
    change.bridge = r.bridge;
  }
  if (r.controller !== undefined) change.controller = r.controller === 'anet' ? 'virtio-net' : r.controller;
  if (r.isolated !== undefined) change.isolated = r.isolated;
  if (r.filter !== undefined) change.filter = r.filter === null ? null : checkFilter(r.filter);
  if (r.vlan !== undefined) change.vlan = r.vlan;
  if (r.mac === null) change.insideMac = null;
  else if (r.mac !== undefined) change.insideMac = checkMac(r.mac);
  if (r.ip === 'auto') change.reservedIp = null;
  else if (r.ip !== undefined) change.reservedIp = checkReservation(ctx, { ...vm, ...change }, r.ip, observed);
  else if (change.type && change.type !== vm.type && vm.reservedIp !== null)
    change.reservedIp = reservationFits(ctx, change.type, vm.reservedIp) ? vm.reservedIp : null;
  return change;
}

function checkMac(text: string): number {
  const mac = parseMac(text);
  if (mac === null) throw new AnkaError('badValue', `'${text}' is not a MAC address; use the form 52:54:00:12:34:56`);
  if (mac === 0) throw new AnkaError('badValue', 'the MAC address 00:00:00:00:00:00 cannot be used; choose one like 52:54:00:12:34:56');
  if (isMulticastMac(mac)) throw new AnkaError('badValue', `'${text}' is a multicast MAC address (its first byte is odd); choose one like 52:54:00:12:34:56`);
  return mac;
}

function reservationFits(ctx: Context, type: VmRow['type'], ip: number): boolean {
  const network = desiredNetworks(ctx).find((n) => n.name === type);
  return network !== undefined && subnetContains(network.subnet, ip);
}

function checkReservation(ctx: Context, vm: VmRow, text: string, observed: ObservedState | null): number {
  const ip = parseIpv4(text);
  if (ip === null) throw new AnkaError('badValue', `'${text}' is not an IPv4 address; use one such as 192.168.64.50, or auto`);
  const network = desiredNetworks(ctx).find((n) => n.name === vm.type);
  if (!network) throw new AnkaError('badValue', `--ip works only with types shared and host, and the card is of type ${vm.type}`);
  const s = network.subnet;
  if (!subnetContains(s, ip) || ip === s.base || ip === broadcastOf(s))
    throw new AnkaError(
      'addressTaken',
      `${text} is outside the ${vm.type} network's range ${formatIpv4(s.base + 2)}–${formatIpv4(broadcastOf(s) - 1)} (${formatSubnet(s)})`,
    );
  if (ip === gatewayOf(s)) throw new AnkaError('addressTaken', `${text} is the gateway's address; choose another`);
  const owner = ctx.vms.all().find((v) => v.uuid !== vm.uuid && v.reservedIp === ip && v.type === vm.type);
  if (owner) throw new AnkaError('addressTaken', `${text} is reserved for VM ${owner.name}; choose another`);
  const user = ctx.vms.find(observed?.nics.find((n) => n.id !== vm.uuid && n.ip === ip)?.id ?? '');
  if (user) throw new AnkaError('addressTaken', `${text} is in use by VM ${user.name}; choose another, or run 'anka stop ${user.name}' first`);
  return ip;
}
