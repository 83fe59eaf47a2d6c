/**
 * VLAN of bridge-type NICs: bpf/vlan-tag.bpf.c at the hooks of their taps.
 *
 * Theory of operation: frames are tagged and untagged at the tap, so this works on any bridge and changes nothing of
 * it. What is attached is read from the kernel; the name of a filter contains its VLAN. A NIC that cannot be tagged, or
 * whose state is unknown, is not attached to the bridge, so no frame leaves untagged.
 */
import { ebpfRefusal } from '../../../host/ffi/bpf.ts';
import type { Link } from '../../../host/links.ts';
import { type BpfFilter, listBpfFilters, removeFilter } from '../../../host/tc.ts';
import type { DesiredNic, DesiredState } from '../../engine.ts';
import { tapName } from '../names.ts';
import { withoutEbpf } from './needs.ts';
import { EbpfObject } from './object.ts';
import { attachFilters, findFilter, TAP_PROGRAMS } from './tap-filters.ts';

const PREFIX = 'anka-vlan-';
/** After the translation of the MAC address. */
const PREFERENCE = 2;

/** bpf/vlan-tag.bpf.c for one VLAN. */
export function vlanObject(vlan: number): EbpfObject {
  const config = Buffer.alloc(4);
  config.writeUInt32LE(vlan);
  return new EbpfObject('vlan-tag').setConfig('ANKAVLN', config);
}

/**
 * Attaches and removes the filters of all NICs that have a tap. Returns the NICs (by id) that must stay detached, and
 * why.
 */
export async function applyVlanTags(desired: DesiredState, links: readonly Link[]): Promise<Map<string, string>> {
  const present = new Set(links.map((l) => l.name));
  const nics = desired.nics.filter((n) => present.has(tapName(n.id)));
  const detached = new Map<string, string>();
  let found: Map<string, BpfFilter[]>;
  try {
    found = await listBpfFilters(nics.map((n) => tapName(n.id)));
  } catch (cause) {
    const why = `its VLAN cannot be checked, so it is not attached: ${(cause as Error).message}`;
    return new Map(nics.filter((n) => vlanOf(n) !== null).map((n) => [n.id, why]));
  }
  for (const nic of nics) {
    const device = tapName(nic.id);
    const vlan = vlanOf(nic);
    const ours = (found.get(device) ?? []).filter((f) => f.name.startsWith(PREFIX));
    try {
      if (vlan === null) for (const f of ours) await removeFilter(device, f.direction, f.preference);
      else await ensureTag(device, vlan, ours);
    } catch (cause) {
      const why = (cause as Error).message;
      const refusal = vlan === null ? null : ebpfRefusal();
      if (refusal !== null) detached.set(nic.id, withoutEbpf(nic, refusal));
      else detached.set(nic.id, `${vlan === null ? 'its VLAN cannot be removed' : `it cannot be tagged with VLAN ${vlan}`}, so it is not attached: ${why}`);
    }
  }
  return detached;
}

const vlanOf = (nic: DesiredNic): number | null => (nic.type === 'bridge' ? (nic.vlan ?? null) : null);

async function ensureTag(device: string, vlan: number, ours: readonly BpfFilter[]): Promise<void> {
  const object = vlanObject(vlan);
  const wanted = { device, preference: PREFERENCE, object, fileName: object.fileName(`${PREFIX}${vlan}-`) };
  const missing = TAP_PROGRAMS.filter((p) => findFilter(wanted, p, ours) === undefined);
  if (missing.length > 0) await attachFilters(wanted, missing);
}
