/** The engine's desired state, from stored rows and running machines: pure but for the stores it reads. */

import type { CallSettings } from '../api/service.ts';
import type { BridgeMethod, DesiredNic, DesiredState } from '../engine/engine.ts';
import type { VmRow } from '../store/vms.ts';
import { parseSubnet } from '../wire/address.ts';
import { type Context, usesNetworks } from './context.ts';
import { filterOf } from './net-filter.ts';
import { settingValue } from './settings.ts';
import { guestMtu } from './vms/card-mtu.ts';

/** First user id of VMs under root's daemon: far above those that distributions and containers assign. */
const VM_UID_BASE = 1_640_000_000;

/** The user that a VM's QEMU runs as. */
export function vmUid(vm: VmRow): number {
  const uid = process.getuid?.() ?? 0;
  return uid === 0 ? VM_UID_BASE + vm.number : uid;
}

/** MAC address of the guest's card, now or at its next start. */
export function guestMac(vm: VmRow): number {
  return vm.guestMac ?? vm.insideMac ?? (vm.outsideMac as number);
}

/** Model of the guest's card, now or at its next start. */
export function guestController(vm: VmRow): VmRow['controller'] {
  return vm.guestController ?? vm.controller;
}

export function desiredNic(ctx: Context, vm: VmRow): DesiredNic | null {
  if (!vm.hasCard || vm.outsideMac === null) return null;
  const bridge = vm.bridge || vm.uplink;
  const filter = filterOf(ctx, vm);
  return {
    id: vm.uuid,
    vmName: vm.name,
    type: vm.type,
    outsideMac: vm.outsideMac,
    insideMac: guestMac(vm),
    mtu: guestMtu(ctx, vm),
    isolated: vm.isolated,
    ...(filter === '' ? {} : { filter }),
    ownerUid: vmUid(vm),
    queues: vm.guestQueues ?? 1,
    vhost: vm.guestDriver === 'vhost',
    ...(vm.type === 'bridge' && bridge ? { bridge } : {}),
    ...(vm.vlan === null ? {} : { vlan: vm.vlan }),
    ...(vm.reservedIp === null ? {} : { reservedIp: vm.reservedIp }),
    rules: ctx.rules
      .of(vm.uuid)
      .filter((r) => r.hostPort !== 0)
      .map((r) => ({ name: r.name, protocol: r.protocol, hostIp: r.hostIp, hostPort: r.hostPort, guestPort: r.guestPort })),
  };
}

/** The shared and the host network, by the settings. */
export function desiredNetworks(ctx: Context, overrides: CallSettings = {}): DesiredState['networks'] {
  return (['shared', 'host'] as const).map((name) => ({
    name,
    subnet: parseSubnet(settingValue(ctx.settings, `${name}_subnet`, overrides).value) as { base: number; prefix: number },
  }));
}

/**
 * `change` replaces one VM's row, to validate a change before it is made. Networks exist only while a card needs them.
 */
export function desiredState(ctx: Context, change?: VmRow): DesiredState {
  const rows = ctx.vms.all().map((v) => (change && v.uuid === change.uuid ? change : v));
  const nics = rows.filter((v) => usesNetworks(ctx, v.uuid) || v.uuid === change?.uuid).flatMap((v) => desiredNic(ctx, v) ?? []);
  const servers = settingValue(ctx.settings, 'dns_servers').value;
  return {
    networks: nics.length > 0 ? desiredNetworks(ctx) : [],
    nics,
    dnsServers: servers === '' ? [] : servers.split(',').map((s) => s.trim()),
    dnsHosts: settingValue(ctx.settings, 'dns_hosts').value === 'on',
    bridgeMethod: settingValue(ctx.settings, 'bridge_method').value as BridgeMethod,
    metadata: settingValue(ctx.settings, 'metadata').value === 'allow',
  };
}
