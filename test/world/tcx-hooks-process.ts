/**
 * Runs src/host/tcx.ts and src/engine/kernel/bridging/uplink-tcx.ts inside a namespace: beside a foreign program at
 * interface $2, ours are attached, replaced, removed, repaired and detached. Programs are loaded from object $4 at
 * interface $3. Prints the results, or only that the kernel has no tcx.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { TCX_STORE, UplinkTcx } from '../../src/engine/kernel/bridging/uplink-tcx.ts';
import { type BpfFilter, ensureClsact, listBpfFilters, replaceBpfFilter } from '../../src/host/tc.ts';
import { attachTcx, detachTcx, hasTcx, listTcx } from '../../src/host/tcx.ts';

const [, , device, store, object] = process.argv as [string, string, string, string, string];
const index = Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8'));
const seen = (): unknown => [listTcx(index, 'ingress').map((p) => p.name), listTcx(index, 'egress').map((p) => p.name)];

async function filters(preference: number): Promise<BpfFilter[]> {
  await ensureClsact(store);
  await replaceBpfFilter(store, { direction: 'ingress', chain: TCX_STORE, preference, object, section: 'tc/nic_in' });
  await replaceBpfFilter(store, { direction: 'egress', chain: TCX_STORE, preference, object, section: 'tc/nic_out' });
  return ((await listBpfFilters([store])).get(store) ?? []).filter((f) => f.preference === preference);
}

async function tryAll(): Promise<object> {
  const old = await filters(1);
  const now = await filters(2);
  await replaceBpfFilter(store, { direction: 'egress', chain: 1, preference: 1, object: 'assets/bpf/vlan-tag.bpf.o', section: 'tc/to_guest' });
  const others = (await listBpfFilters([store])).get(store)?.find((f) => f.chain === 1) as BpfFilter;
  const idOf = (of: readonly BpfFilter[]): number => of.find((f) => f.direction === 'ingress')?.id as number;
  const ids = (): number[] => listTcx(index, 'ingress').map((p) => p.id - others.id);
  const hooks = new UplinkTcx();
  const bare = [hooks.has(index), seen()];
  attachTcx(index, 'ingress', others.id);
  const steps = {
    first: [hooks.attach(index, old), hooks.attach(index, old), hooks.has(index), seen()],
    exchanged: [hooks.attach(index, now), seen(), ids().map((id) => id === idOf(now) - others.id)],
    undisturbed: hooks.hasDrifted(),
  };
  // of another daemon, beside ours
  attachTcx(index, 'ingress', idOf(old));
  const doubled = [seen(), hooks.hasDrifted(), hooks.attach(index, now), seen()];
  detachTcx(index, 'egress', now.find((f) => f.direction === 'egress')?.id as number);
  const taken = [seen(), hooks.hasDrifted(), hooks.hasDrifted(), hooks.attach(index, now), seen()];
  const later = new UplinkTcx();
  later.detach(index);
  later.detach(index);
  const removed = seen();
  hooks.attach(index, now);
  execFileSync('ip', ['link', 'del', device]);
  return { bare, ...steps, doubled, taken, removed, withoutInterface: [hooks.hasDrifted(), hasTcx(index), seen()] };
}

console.log(JSON.stringify(hasTcx(index) ? await tryAll() : { hooks: false }));
