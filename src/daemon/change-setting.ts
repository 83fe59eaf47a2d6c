/**
 * Changes of settings, with their effect on running VMs (B24, B70).
 *
 * Theory of operation: a change is checked first: a new subnet against the host's routes and the other network, a new
 * engine against running VMs. After a change of a subnet the engine renumbers the network, and the link of each of its
 * VMs is set down and up, so that the guest requests a new address. Limits: MAC prefix, MTU and port range take effect
 * at a VM's next start.
 */
import type { SettingValue } from '../api/types.ts';
import { AnkaError } from '../lib/errors.ts';
import { checkSetting, findSetting } from '../lib/settings.ts';
import { formatIpv4, formatSubnet, type SubnetLike, subnetsOverlap } from '../wire/address.ts';
import { type Context, networksInUse, usesNetworks, vmName } from './context.ts';
import { desiredNetworks, desiredState } from './desired.ts';
import { checkFilter } from './net-filter.ts';
import { settingValue } from './settings.ts';
import { mtuNotice } from './vms/card-mtu.ts';
import type { VmContext } from './vms/context.ts';
import { reconnect } from './vms/link.ts';

/** Settings that the engine applies at once. */
const ENGINE_SETTINGS = ['dns_servers', 'dns_hosts', 'bridge_method', 'metadata', 'net_filter'];
/** Each subnet's setting, with the network that it belongs to. */
const SUBNET_SETTINGS: Record<string, 'shared' | 'host'> = { shared_subnet: 'shared', host_subnet: 'host' };

export async function setSetting(ctx: VmContext, key: string, value: string): Promise<SettingValue> {
  const checked = key === 'net_filter' ? checkFilter(value) : checkSetting(key, value);
  const differs = checked !== settingValue(ctx.settings, key).value;
  await change(ctx, key, checked, { differs, store: () => ctx.settings.put(key, checked) });
  if (!differs) return settingValue(ctx.settings, key);
  ctx.events.emit('config.changed', key === 'net_filter' ? 'net_filter was changed' : `${key} = ${checked}`);
  return applied(ctx, key);
}

export async function resetSetting(ctx: VmContext, key: string): Promise<SettingValue> {
  const value = findSetting(key).default;
  const differs = settingValue(ctx.settings, key).value !== value;
  await change(ctx, key, value, { differs, store: () => ctx.settings.delete(key) });
  ctx.events.emit('config.changed', `${key} was reset to its default`);
  return differs ? applied(ctx, key) : withNotice(ctx, key);
}

/** Stores a value; one that differs from the value in force is checked first. */
async function change(ctx: VmContext, key: string, value: string, { differs, store }: { differs: boolean; store: () => void }): Promise<void> {
  const network = SUBNET_SETTINGS[key];
  if (differs && network) await demandFreeSubnet(ctx, network, value);
  if (differs && key === 'engine') await changeEngine(ctx, store);
  else store();
}

/** Has the networks follow a changed setting. */
async function applied(ctx: VmContext, key: string): Promise<SettingValue> {
  const network = SUBNET_SETTINGS[key];
  if (network) await renumber(ctx, network);
  else if (ENGINE_SETTINGS.includes(key) && networksInUse(ctx)) await ctx.reconciler.apply();
  return withNotice(ctx, key);
}

function withNotice(ctx: Context, key: string): SettingValue {
  const notice = key === 'mtu' ? mtuNotice(ctx) : '';
  return { ...settingValue(ctx.settings, key), ...(notice === '' ? {} : { notice }) };
}

/** Applies a network's new subnet; its guests request new addresses, those of VMs that start once these run. */
async function renumber(ctx: VmContext, network: 'shared' | 'host'): Promise<void> {
  if (!networksInUse(ctx)) return;
  await ctx.reconciler.apply();
  const affected = ctx.vms.all().filter((v) => v.hasCard && v.type === network && usesNetworks(ctx, v.uuid));
  await Promise.all(
    affected.map(({ uuid, name }) =>
      ctx.queue
        .exclusive(uuid, async (vm) => {
          const machine = ctx.machines.get(vm.uuid);
          if (!machine) return;
          ctx.events.emit('vm.network', 'requests an address of another subnet', vmName(vm));
          ctx.log.info({ vm: vm.name, outcome: await reconnect(ctx, vm, machine, () => {}) }, 'reconnected to a renumbered network');
        })
        .catch((e: Error) => ctx.log.warn({ vm: name, error: e.message }, 'cannot reconnect to a renumbered network')),
    ),
  );
}

/**
 * Replaces the engine; on an error the old value is restored. Refused while VMs run, start or are suspended, as their
 * cards belong to one engine.
 */
function changeEngine(ctx: VmContext, store: () => void): Promise<void> {
  return ctx.starts.close(() => replaceEngine(ctx, store));
}

async function replaceEngine(ctx: VmContext, store: () => void): Promise<void> {
  const bound = ctx.vms.all().flatMap((v) => (usesNetworks(ctx, v.uuid) || v.status === 'suspended' ? v.name : []));
  if (bound.length > 0)
    throw new AnkaError(
      'badState',
      `the engine cannot be changed while VMs run, start or are suspended: ${bound.join(', ')}; run 'anka stop ${bound.join(' ')}' first`,
    );
  await ctx.reconciler.settled(); // the old engine detaches the cards of VMs that exited
  const before = settingValue(ctx.settings, 'engine').value;
  await ctx.engine().catch(() => null); // creates the old engine, so that it can remove its objects
  store();
  try {
    await ctx.engine();
  } catch (cause) {
    ctx.settings.put('engine', before);
    throw cause;
  }
}

/**
 * Throws if a subnet clashes with a reservation, a route of the host (with a free one proposed), or the other network
 * (B24).
 */
async function demandFreeSubnet(ctx: Context, network: 'shared' | 'host', value: string): Promise<void> {
  const networks = desiredNetworks(ctx, { [`${network}_subnet`]: value });
  demandNoReservation(ctx, network);
  const engine = await ctx.engine();
  const problem = (await engine.validate({ ...desiredState(ctx), networks })).find((p) => p.object === `network:${network}`);
  if (problem) throw new AnkaError('subnetClash', problem.message);
  demandNoReservation(ctx, network); // one may have been made during the validation
  const subnetOf = (name: string): SubnetLike => networks.find((n) => n.name === name)?.subnet as SubnetLike;
  const other = network === 'shared' ? 'host' : 'shared';
  if (subnetsOverlap(subnetOf(network), subnetOf(other)))
    throw new AnkaError('subnetClash', `${value} clashes with the ${other} network's ${formatSubnet(subnetOf(other))}; choose another`);
}

function demandNoReservation(ctx: Context, network: 'shared' | 'host'): void {
  const reserved = ctx.vms.all().find((v) => v.reservedIp !== null && v.type === network);
  if (reserved)
    throw new AnkaError(
      'addressTaken',
      `${formatIpv4(reserved.reservedIp as number)} is reserved for VM ${reserved.name}; run 'anka modify ${reserved.name} set network-card --ip auto' first`,
    );
}
