/** Counters in Prometheus's text format. */
import type { NicStats, ObservedState } from '../engine/engine.ts';
import type { Context } from './context.ts';
import type { ProcessHealth } from './process-health.ts';

const label = (v: string): string => v.replaceAll('\\', '\\\\').replaceAll('"', '\\"');

export function metricsText(ctx: Context, state: ObservedState | null, stats: readonly NicStats[], processes: readonly ProcessHealth[]): string {
  const lines = ['# TYPE anka_vms gauge', `anka_vms ${ctx.vms.all().length}`, '# TYPE anka_vms_running gauge', `anka_vms_running ${ctx.machines.size}`];
  lines.push('# TYPE anka_network_leases gauge');
  for (const n of state?.networks ?? []) lines.push(`anka_network_leases{network="${n.name}"} ${n.leases}`);
  lines.push('# TYPE anka_network_healthy gauge');
  for (const n of state?.networks ?? []) lines.push(`anka_network_healthy{network="${n.name}"} ${Number(n.healthy)}`);
  lines.push('# TYPE anka_nic_drops_total counter');
  for (const nic of stats) {
    const name = label(ctx.vms.find(nic.id)?.name ?? nic.id);
    for (const [reason, count] of Object.entries(nic.drops)) lines.push(`anka_nic_drops_total{vm="${name}",reason="${reason}"} ${count}`);
  }
  lines.push('# TYPE anka_unexpected_errors_total counter');
  for (const p of processes) lines.push(`anka_unexpected_errors_total{process="${p.name}"} ${p.unexpectedErrors}`);
  lines.push('# TYPE anka_process_hangs_total counter');
  for (const p of processes) if (p.name !== 'daemon') lines.push(`anka_process_hangs_total{process="${p.name}"} ${p.hangs}`);
  return `${lines.join('\n')}\n`;
}
