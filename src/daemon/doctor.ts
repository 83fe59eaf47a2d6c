/** What `anka doctor` finds in the daemon's own state, besides what the engine finds on the host (B93). */
import type { DoctorFinding } from '../engine/engine.ts';
import { unresolvableName } from '../net/dns-local-zones.ts';
import type { VmRow } from '../store/vms.ts';

/** VMs that were created before their names were refused. */
export function nameFindings(vms: readonly VmRow[]): DoctorFinding[] {
  const found = vms.flatMap((vm): DoctorFinding[] => {
    const why = unresolvableName(vm.name);
    if (why === null) return [];
    const message = `VM '${vm.name}' is not found by its DNS name, as ${why}`;
    return [{ id: 'names', level: 'warning', message, remedy: `run 'anka modify ${vm.uuid} set name NEW_NAME'` }];
  });
  return found.length > 0 ? found : [{ id: 'names', level: 'ok', message: 'every VM is found by its DNS name', remedy: '' }];
}
