/** VMs as `list`, `show` and `describe` print them (B82). */
import { lstat } from 'node:fs/promises';
import type { ShownAddress, VmDescribe, VmListEntry, VmShow } from '../../api/types.ts';
import type { ObservedAddress, ObservedNic, ObservedState } from '../../engine/engine.ts';
import { formatSize } from '../../lib/sizes.ts';
import type { VmRow } from '../../store/vms.ts';
import { formatIpv4, formatMac } from '../../wire/address.ts';
import { formatIp } from '../../wire/ip-address.ts';
import type { Context } from '../context.ts';
import { filterOf } from '../net-filter.ts';
import { LOST_BACKEND } from './card-repair.ts';
import { diskFile } from './files.ts';

/** Only a running VM has an address. */
function liveNic(vm: VmRow, state: ObservedState | null): ObservedNic | null {
  return vm.status === 'running' ? (state?.nics.find((n) => n.id === vm.uuid) ?? null) : null;
}

export function listEntry(vm: VmRow, state: ObservedState | null): VmListEntry {
  const ip = liveNic(vm, state)?.ip ?? null;
  return {
    uuid: vm.uuid,
    name: vm.name,
    creation_date: vm.created,
    status: vm.status,
    ...(vm.tag === '' ? {} : { version: vm.tag }),
    ...(ip === null ? {} : { ip: formatIpv4(ip) }),
  };
}

export async function show(ctx: Context, vm: VmRow, state: ObservedState | null): Promise<VmShow> {
  const nic = liveNic(vm, state);
  const running = vm.status === 'running';
  const rules = ctx.rules.of(vm.uuid);
  const labels = ctx.labels.of(vm.uuid);
  const ip = nic?.ip ?? null;
  const mac = running && vm.hasCard && vm.outsideMac !== null ? formatMac(vm.outsideMac) : null;
  const inactive = nic?.rules.filter((r) => !r.active).map((r) => ({ name: r.name, reason: r.reason })) ?? [];
  const filter = filterOf(ctx, vm);
  const message = vm.message || networkMessage(vm, nic, state);
  const disk = await lstat(diskFile(ctx, vm.uuid)).catch(() => null);
  return {
    uuid: vm.uuid,
    name: vm.name,
    creation_date: vm.created,
    access_date: `${(disk?.mtime ?? new Date(vm.created)).toISOString().slice(0, 19)}Z`,
    ...(vm.tag === '' ? {} : { version: vm.tag }),
    cpu_cores: vm.cpus,
    ram: formatSize(vm.ram * 1048576),
    ram_size: vm.ram * 1048576,
    image_id: vm.uuid,
    hard_drive: vm.diskSize,
    image_size: disk ? disk.blocks * 512 : 0,
    status: vm.status,
    ...(message ? { message } : {}),
    ...(ip === null ? {} : { ip: formatIpv4(ip) }),
    ...(mac === null ? {} : { mac }),
    ...(vm.hasCard
      ? {
          network: {
            type: vm.type,
            ...(vm.type === 'bridge' && (vm.bridge || vm.uplink) ? { bridge: vm.bridge || vm.uplink } : {}),
            ...(ip === null ? {} : { ip: formatIpv4(ip) }),
            ...(mac === null ? {} : { mac }),
            ...(vm.insideMac === null ? {} : { inside_mac: formatMac(vm.insideMac) }),
            ...(nic && nic.source !== 'none' ? { address_source: nic.source } : {}),
            ...(nic && nic.addresses.length > 0 ? { addresses: nic.addresses.map(shownAddress) } : {}),
            healthy: nic ? nic.healthy && !nic.isUnused : !running,
            ...(nic?.limit ? { limit: nic.limit } : {}),
            ...(filter === '' ? {} : { filter }),
          },
        }
      : {}),
    port_forwarding: vm.hasCard
      ? rules.map((r) => ({ guest_port: r.guestPort, host_port: r.hostPort, protocol: r.protocol, name: r.name, host_ip: formatIp(r.hostIp) }))
      : [],
    ...(Object.keys(labels).length > 0 ? { labels } : {}),
    ...(inactive.length > 0 ? { inactive_rules: inactive } : {}),
  };
}

const seconds = (ms: number): number => Math.max(0, Math.round(ms / 1000));

function shownAddress({ ip, source, age, heard }: ObservedAddress): ShownAddress {
  return { ip: formatIpv4(ip), source, age: seconds(age), ...(heard === null ? {} : { last_arp: seconds(heard) }) };
}

/** The fault of a running VM's network; empty if there is none. */
function networkMessage(vm: VmRow, nic: ObservedNic | null, state: ObservedState | null): string {
  if (vm.status !== 'running' || !vm.hasCard) return '';
  if (state === null) return 'the network engine does not respond';
  const problem = state.problems.find((p) => p.object === `nic:${vm.uuid}`) ?? state.problems.find((p) => p.object === 'host' || p.object === 'service');
  if (problem) return problem.message;
  if (nic?.isUnused) return LOST_BACKEND;
  if (nic && nic.ip === null) return state.networks.find((n) => n.name === vm.type)?.message ?? '';
  return '';
}

export function describe(ctx: Context, vm: VmRow): VmDescribe {
  return {
    uuid: vm.uuid,
    name: vm.name,
    creation_date: vm.created,
    cpu: { cores: vm.cpus },
    ram: formatSize(vm.ram * 1048576),
    hard_drives: [{ file: diskFile(ctx, vm.uuid), size: vm.diskSize }],
    network_cards: vm.hasCard
      ? [
          {
            index: 0,
            mode: vm.type,
            mac_address: vm.insideMac === null ? '' : formatMac(vm.insideMac),
            type: vm.controller,
            ...(vm.bridge ? { bridge: vm.bridge } : {}),
            ...(vm.vlan === null ? {} : { vlan: vm.vlan }),
            ...(vm.reservedIp === null ? {} : { ip: formatIpv4(vm.reservedIp) }),
            local: !vm.isolated,
            ...(vm.filter === null ? {} : { net_filter: vm.filter }),
            port_forwarding_rules: ctx.rules.of(vm.uuid).map((r) => ({
              rule_name: r.name,
              guest_port: r.guestPort,
              host_port: r.automatic ? 0 : r.hostPort,
              protocol: r.protocol,
              host_ip: formatIp(r.hostIp),
            })),
          },
        ]
      : [],
  };
}
