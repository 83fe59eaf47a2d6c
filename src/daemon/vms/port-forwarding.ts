/** Port forwarding rules (B60–B66): added, removed, and their ports settled before a start. */
import type { CallSettings, OnProgress } from '../../api/service.ts';
import type { RuleRequest } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { RuleRow } from '../../store/rules.ts';
import type { VmRow } from '../../store/vms.ts';
import { parseIpv4 } from '../../wire/address.ts';
import { type Context, vmName } from '../context.ts';
import type { Reconciler } from '../reconcile.ts';
import { settingValue } from '../settings.ts';
import { checkRuleName } from './names.ts';
import { choosePort, demandPort, portIsFree } from './port-choice.ts';

const base = (ctx: Context, settings: CallSettings): number => Number(settingValue(ctx.settings, 'portfwd_base', settings).value);

/** Checks a request and stores the rule, its port settled. */
export async function addRule(ctx: Context, reconciler: Reconciler, vm: VmRow, request: RuleRequest, settings: CallSettings): Promise<RuleRow> {
  checkRuleName(request.name);
  if (!vm.hasCard) throw new AnkaError('cardNotFound', `${vm.name} has no network card; 'anka modify ${vm.name} add network-card' brings one back`);
  if (ctx.rules.of(vm.uuid).some((r) => r.name === request.name)) {
    throw new AnkaError(
      'ruleExists',
      `${vm.name} has a rule named '${request.name}' already; 'anka modify ${vm.name} delete port-forwarding ${request.name}' removes it`,
    );
  }
  const hostIp = request.host_ip === undefined ? 0 : parseIpv4(request.host_ip);
  if (hostIp === null) throw new AnkaError('badValue', `host address '${request.host_ip}' is no IPv4 address; leave -l out for every address`);
  const rule: RuleRow = {
    vm: vm.uuid,
    name: request.name,
    protocol: request.protocol ?? 'tcp',
    guestPort: request.guest_port,
    hostIp,
    hostPort: request.host_port ?? 0,
    automatic: (request.host_port ?? 0) === 0,
  };
  await reconciler.settled(); // what ended a moment ago still listens, and is no other program
  if (rule.automatic) rule.hostPort = await choosePort(ctx, rule, base(ctx, settings));
  else await demandPort(ctx, rule);
  ctx.rules.put(rule);
  ctx.events.emit('rule.added', `${rule.protocol} port ${rule.hostPort} leads to guest port ${rule.guestPort}`, vmName(vm));
  return rule;
}

export function deleteRule(ctx: Context, vm: VmRow, name: string): void {
  if (!ctx.rules.delete(vm.uuid, name)) {
    const names = ctx.rules.of(vm.uuid).map((r) => r.name);
    throw new AnkaError('ruleNotFound', `${vm.name} has no rule named '${name}'${names.length > 0 ? `; it has ${names.join(', ')}` : ''}`);
  }
  ctx.events.emit('rule.removed', `rule ${name} removed`, vmName(vm));
}

/**
 * Before a start: automatic ports that somebody took are chosen anew and told; explicit ones are refused, naming who
 * has them.
 */
export async function settlePorts(ctx: Context, reconciler: Reconciler, vm: VmRow, settings: CallSettings, progress: OnProgress): Promise<void> {
  if (vm.type === 'bridge' || vm.type === 'disconnected') return;
  await reconciler.settled(); // the guest may just have powered itself off: its own listeners are no other program
  for (const rule of ctx.rules.of(vm.uuid)) {
    if (!rule.automatic) await demandPort(ctx, rule);
    else if (rule.hostPort === 0 || !(await portIsFree(rule))) {
      const hostPort = await choosePort(ctx, rule, base(ctx, settings));
      ctx.rules.put({ ...rule, hostPort });
      if (rule.hostPort !== 0) {
        const text = `rule ${rule.name}: port ${rule.hostPort} was taken by another program, it is ${hostPort} now`;
        progress(text);
        ctx.events.emit('rule.moved', text, vmName(vm));
      }
    }
  }
}
