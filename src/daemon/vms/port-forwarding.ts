/** Port forwarding rules (B60–B66): add, delete, and settle their host ports before a start. */
import type { CallSettings } from '../../api/service.ts';
import type { RuleRequest } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { ANY_ADDRESS } from '../../net/policy/forwarding.ts';
import type { RuleRow } from '../../store/rules.ts';
import type { VmRow } from '../../store/vms.ts';
import { isLinkLocal6, isMulticast6 } from '../../wire/address6.ts';
import { type IpAddress, parseIp } from '../../wire/ip-address.ts';
import { type Context, vmName } from '../context.ts';
import { settingValue } from '../settings.ts';
import { demandCard } from './card-request.ts';
import type { Call, VmContext } from './context.ts';
import { checkRuleName } from './names.ts';
import { choosePort, demandPort, portIsFree } from './port-choice.ts';

const lowestPort = (ctx: Context, settings: CallSettings): number => Number(settingValue(ctx.settings, 'portfwd_base', settings).value);

/** Throws `badValue` for what no rule can listen on. */
function listenAddress(text: string): IpAddress {
  const ip = parseIp(text);
  const bad = (why: string): AnkaError => new AnkaError('badValue', `host address '${text}' ${why}`);
  if (ip === null) throw bad('is not an IPv4 or IPv6 address; omit -l to listen on every IPv4 address');
  if (typeof ip === 'number') return ip;
  if (ip.startsWith('::ffff:')) throw bad('is an IPv4 address in IPv6; write it as IPv4');
  if (isMulticast6(ip) || isLinkLocal6(ip)) throw bad("is a multicast or link-local address; use an address of one machine, or '::' for every IPv6 address");
  return ip;
}

/** Checks a request and stores the rule with its host port. */
export async function addRule(ctx: VmContext, vm: VmRow, request: RuleRequest, settings: CallSettings): Promise<RuleRow> {
  checkRuleName(request.name);
  demandCard(vm);
  demandFreeRuleName(ctx, vm, request.name);
  const hostIp = request.host_ip === undefined ? ANY_ADDRESS : listenAddress(request.host_ip);
  const rule: RuleRow = {
    vm: vm.uuid,
    name: request.name,
    protocol: request.protocol ?? 'tcp',
    guestPort: request.guest_port,
    hostIp,
    hostPort: request.host_port ?? 0,
    automatic: (request.host_port ?? 0) === 0,
  };
  await ctx.reconciler.settled(); // else a listener of a VM that just exited counts as another program
  if (rule.automatic) rule.hostPort = await choosePort(ctx, rule, lowestPort(ctx, settings));
  else await demandPort(ctx, rule);
  ctx.rules.put(rule);
  ctx.events.emit('rule.added', `${rule.protocol} port ${rule.hostPort} is forwarded to guest port ${rule.guestPort}`, vmName(vm));
  return rule;
}

function demandFreeRuleName(ctx: Context, vm: VmRow, name: string): void {
  if (ctx.rules.of(vm.uuid).some((r) => r.name === name))
    throw new AnkaError('ruleExists', `${vm.name} already has a rule '${name}'; run 'anka modify ${vm.name} delete port-forwarding ${name}' to delete it`);
}

function ruleNotFound(ctx: Context, vm: VmRow, name: string): AnkaError {
  const names = ctx.rules.of(vm.uuid).map((r) => r.name);
  return new AnkaError('ruleNotFound', `${vm.name} has no rule '${name}'${names.length > 0 ? `; its rules are ${names.join(', ')}` : ''}`);
}

/** Its ports stay, and so do its connections. */
export function renameRule(ctx: Context, vm: VmRow, name: string, newName: string): void {
  if (!ctx.rules.of(vm.uuid).some((r) => r.name === name)) throw ruleNotFound(ctx, vm, name);
  if (newName === name) return;
  checkRuleName(newName);
  demandFreeRuleName(ctx, vm, newName);
  ctx.rules.rename(vm.uuid, name, newName);
}

export function deleteRule(ctx: Context, vm: VmRow, name: string): void {
  if (!ctx.rules.delete(vm.uuid, name)) throw ruleNotFound(ctx, vm, name);
  ctx.events.emit('rule.removed', `rule ${name} was deleted`, vmName(vm));
}

/**
 * Settles host ports before a start. An automatic port that another program uses is replaced, which is reported. Throws
 * `portTaken` for a configured one.
 */
export async function settlePorts(ctx: VmContext, vm: VmRow, { settings, progress }: Call): Promise<void> {
  if (vm.type === 'bridge' || vm.type === 'disconnected') return;
  // else a listener of this VM, which may have just powered off, counts as another program
  await ctx.reconciler.settled();
  for (const rule of ctx.rules.of(vm.uuid)) {
    if (!rule.automatic) await demandPort(ctx, rule);
    else if (rule.hostPort === 0 || !(await portIsFree(rule))) {
      const hostPort = await choosePort(ctx, rule, lowestPort(ctx, settings));
      ctx.rules.put({ ...rule, hostPort });
      if (rule.hostPort !== 0) {
        const text = `rule ${rule.name}: port ${rule.hostPort} is in use by another program; the rule now uses port ${hostPort}`;
        progress(text);
        ctx.events.emit('rule.moved', text, vmName(vm));
      }
    }
  }
}
