/**
 * Runs src/host/tc.ts inside a namespace: attaches, replaces, lists and detaches the programs of object $3 at interface
 * $2; prints the results.
 */
import { ensureClsact, hasClsact, listBpfFilters, removeClsact, removeFilter, replaceBpfFilter } from '../../src/host/tc.ts';

const [, , device, object] = process.argv as [string, string, string, string];
const seen = async (): Promise<unknown> => (await listBpfFilters([device, 'lo'])).get(device);
const bare = [await hasClsact(device), await seen()];
await ensureClsact(device);
await ensureClsact(device);
await replaceBpfFilter(device, { direction: 'ingress', preference: 1, object, section: 'tc/from_guest' });
await replaceBpfFilter(device, { direction: 'ingress', preference: 7, object, section: 'tc/from_guest' });
await replaceBpfFilter(device, { direction: 'ingress', preference: 7, object, section: 'tc/to_guest' });
await replaceBpfFilter(device, { direction: 'egress', preference: 1, object, section: 'tc/to_guest' });
const attached = await seen();
await removeFilter(device, 'ingress', 1);
const less = await seen();
await removeClsact(device);
await removeClsact(device);
console.log(JSON.stringify({ bare, attached, less, removed: [await hasClsact(device), await seen()] }));
