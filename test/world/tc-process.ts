/**
 * Runs src/host/tc.ts inside a namespace: attaches, replaces, lists and detaches the programs of the eBPF object $3 at
 * interface $2; prints the results.
 */
import { EbpfObject } from '../../src/engine/kernel/ebpf/object.ts';
import { ensureClsact, hasClsact, listBpfFilters, removeClsact, removeFilter, replaceBpfFilter, type TcDirection } from '../../src/host/tc.ts';

const [, , device, object] = process.argv as [string, string, string, string];
const seen = async (): Promise<unknown> => (await listBpfFilters([device, 'lo'])).get(device);
const replace = (direction: TcDirection, preference: number, section: string): Promise<void> =>
  replaceBpfFilter(device, { direction, preference, name: `${object}.bpf.o:[${section}]`, code: new EbpfObject(object).program(section) });
const bare = [await hasClsact(device), await seen()];
await ensureClsact(device);
await ensureClsact(device);
await replace('ingress', 1, 'tc/from_guest');
await replace('ingress', 7, 'tc/from_guest');
await replace('ingress', 7, 'tc/to_guest');
await replace('egress', 1, 'tc/to_guest');
const attached = await seen();
await removeFilter(device, 'ingress', 1);
const less = await seen();
await removeClsact(device);
await removeClsact(device);
console.log(JSON.stringify({ bare, attached, less, removed: [await hasClsact(device), await seen()] }));
