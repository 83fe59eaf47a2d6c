/** The networks of `anka network list`: shared, host, and the interfaces that running VMs are bridged to. */
import type { NetworkStatus } from '../api/types.ts';
import type { ObservedState } from '../engine/engine.ts';
import type { VmRow } from '../store/vms.ts';
import { formatIpv4, formatSubnet, gatewayOf } from '../wire/address.ts';
import type { Context } from './context.ts';
import { desiredNetworks } from './desired.ts';

/** Interfaces that running VMs are bridged to. Their addresses are assigned by the network outside. */
function bridges(running: readonly VmRow[], state: ObservedState | null): NetworkStatus[] {
  const bridged = running.filter((v) => v.type === 'bridge');
  const uplinkOf = (v: VmRow): string => v.bridge || v.uplink || '';
  return [...new Set(bridged.map(uplinkOf))].sort().map((uplink) => {
    const vms = bridged.filter((v) => uplinkOf(v) === uplink);
    const seen = state?.nics.filter((n) => vms.some((v) => v.uuid === n.id)) ?? [];
    const limits = [...new Set(seen.flatMap((n) => n.limit ?? []))];
    const problems = state?.problems.filter((p) => vms.some((v) => p.object === `nic:${v.uuid}`)).map((p) => p.message) ?? [];
    return {
      name: 'bridge',
      interface: uplink || null,
      subnet: null,
      gateway: null,
      healthy: seen.length === vms.length && seen.every((n) => n.healthy && !n.isUnused) && problems.length === 0,
      leases: null,
      pool_size: null,
      vms: vms.map((v) => v.name),
      message: [...new Set([...problems, ...limits])].join('; '),
    };
  });
}

/** `state`: what the engine observes; null while no VM runs. */
export function networks(ctx: Context, state: ObservedState | null): NetworkStatus[] {
  const running = ctx.vms.all().filter((v) => v.hasCard && ctx.machines.has(v.uuid));
  const own = desiredNetworks(ctx).map((n) => {
    const seen = state?.networks.find((s) => s.name === n.name);
    return {
      name: n.name,
      interface: seen?.interface ?? null,
      subnet: formatSubnet(n.subnet),
      gateway: formatIpv4(gatewayOf(n.subnet)),
      healthy: seen?.healthy ?? true,
      leases: seen?.leases ?? 0,
      pool_size: seen?.poolSize ?? 2 ** (32 - n.subnet.prefix) - 3,
      vms: running.filter((v) => v.type === n.name).map((v) => v.name),
      message: seen?.message ?? 'not in use',
    };
  });
  return [...own, ...bridges(running, state)];
}
