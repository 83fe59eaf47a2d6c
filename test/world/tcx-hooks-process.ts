/**
 * Runs src/host/tcx.ts and src/engine/kernel/bridging/uplink-tcx.ts inside a namespace: beside a foreign program at
 * interface $2, ours are attached, replaced, removed, repaired and detached. Programs are loaded from eBPF object $4
 * at interface $3. Prints the results, or only that the kernel has no tcx.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { TCX_STORE, UplinkTcx } from '../../src/engine/kernel/bridging/uplink-tcx.ts';
import { EbpfObject } from '../../src/engine/kernel/ebpf/object.ts';
import { type BpfFilter, ensureClsact, listBpfFilters, replaceBpfFilter, type TcDirection } from '../../src/host/tc.ts';
import { attachTcx, detachTcx, hasTcx, listTcx } from '../../src/host/tcx.ts';

const [, , device, storeDevice, object] = process.argv as [string, string, string, string, string];
const index = Number(readFileSync(`/sys/class/net/${device}/ifindex`, 'utf8'));
const seen = (): unknown => [listTcx(index, 'ingress').map((p) => p.name), listTcx(index, 'egress').map((p) => p.name)];

const store = (direction: TcDirection, chain: number, preference: number, object: string, section: string): Promise<void> =>
  replaceBpfFilter(storeDevice, { direction, chain, preference, name: `${object}.bpf.o:[${section}]`, code: new EbpfObject(object).program(section) });

async function filters(preference: number): Promise<BpfFilter[]> {
  await ensureClsact(storeDevice);
  await store('ingress', TCX_STORE, preference, object, 'tc/nic_in');
  await store('egress', TCX_STORE, preference, object, 'tc/nic_out');
  return ((await listBpfFilters([storeDevice])).get(storeDevice) ?? []).filter((f) => f.preference === preference);
}

async function tryAll(): Promise<object> {
  const old = await filters(1);
  const now = await filters(2);
  await store('egress', 1, 1, 'vlan-tag', 'tc/to_guest');
  const others = (await listBpfFilters([storeDevice])).get(storeDevice)?.find((f) => f.chain === 1) as BpfFilter;
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
