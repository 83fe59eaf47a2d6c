/** What the kernel engine cannot do on this host, found without changing anything. */
import { ebpfRefusal } from '../../host/ffi/bpf.ts';
import { type Link, listLinks, listRoutes } from '../../host/links.ts';
import { subnetProblems } from '../doctor/subnet-clash.ts';
import type { DesiredNic, DesiredState, EngineProblem } from '../engine.ts';
import { needsEbpf, withoutEbpf } from './ebpf/needs.ts';
import { BRIDGES } from './names.ts';

/** `bridgeProblem`: why a NIC cannot be bridged as desired, or null. */
export async function validateState(
  desired: DesiredState,
  bridgeProblem: (nic: DesiredNic, links: readonly Link[]) => string | null,
): Promise<EngineProblem[]> {
  const ours = new Set<string>(Object.values(BRIDGES));
  const foreign = (await listRoutes()).filter((r) => !ours.has(r.dev));
  const problems = subnetProblems(desired.networks, foreign);
  const refusal = desired.nics.some(needsEbpf) ? ebpfRefusal() : null;
  const links = desired.nics.some((n) => n.type === 'bridge') ? await listLinks() : [];
  for (const nic of desired.nics) {
    const problem = nic.type === 'bridge' ? bridgeProblem(nic, links) : null;
    if (problem) problems.push({ object: `nic:${nic.id}`, message: problem });
    else if (refusal !== null && needsEbpf(nic)) problems.push({ object: `nic:${nic.id}`, message: withoutEbpf(nic, refusal) });
  }
  return problems;
}
