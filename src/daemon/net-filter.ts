/** Packet filters of VMs: the check of a text, and the filter in force (docs/filters.md). */
import { parseFilter } from '../net/filter/parse-filter.ts';
import type { VmRow } from '../store/vms.ts';
import type { Context } from './context.ts';
import { settingValue } from './settings.ts';

/** The text as it is stored. Throws `badValue` with the line that cannot be read. */
export function checkFilter(text: string): string {
  parseFilter(text);
  return text.replaceAll('\r\n', '\n').trimEnd();
}

/** The VM's own filter, else that of the setting `net_filter`; empty = none. */
export function filterOf(ctx: Context, vm: VmRow): string {
  return vm.filter ?? settingValue(ctx.settings, 'net_filter').value;
}
