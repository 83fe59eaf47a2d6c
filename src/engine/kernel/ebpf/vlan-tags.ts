/**
 * VLAN of bridge-type cards: bpf/vlan-tag.bpf.c at the hooks of their interfaces.
 *
 * Theory of operation: tags are put on and taken off at the tap, so it works on any bridge and changes nothing of it.
 * What is attached is asked of the kernel; the name of a filter tells its VLAN. A card that should have a tag and
 * cannot get it, or of which that is not known, is not plugged in, so that nothing leaves untagged.
 */
import { ebpfRefusal } from '../../../host/ffi/bpf.ts';
import type { Link } from '../../../host/links.ts';
import { type BpfFilter, ensureClsact, listBpfFilters, removeFilter, replaceBpfFilter, type TcDirection } from '../../../host/tc.ts';
import type { DesiredNic, DesiredState } from '../../engine.ts';
import { tapName } from '../names.ts';
import { objectName, objectWith, withObjectFile } from './constant.ts';
import { withoutEbpf } from './needs.ts';

const PREFIX = 'anka-vlan-';
/** After the translation of the MAC address. */
const PREFERENCE = 2;
const PROGRAMS: readonly { direction: TcDirection; section: string }[] = [
  { direction: 'ingress', section: 'tc/from_guest' },
  { direction: 'egress', section: 'tc/to_guest' },
];

/**
 * Brings all cards that have an interface to what is wanted. Tells which (by id) must not be plugged in, and why. `dir`
 * is a folder of ours for copies.
 */
export async function applyVlanTags(dir: string, desired: DesiredState, links: readonly Link[]): Promise<Map<string, string>> {
  const there = new Set(links.map((l) => l.name));
  const cards = desired.nics.filter((n) => there.has(tapName(n.id)));
  const unplugged = new Map<string, string>();
  let found: Map<string, BpfFilter[]>;
  try {
    found = await listBpfFilters(cards.map((n) => tapName(n.id)));
  } catch (cause) {
    const why = `it is not known whether its frames are tagged, so it is not plugged in: ${(cause as Error).message}`;
    return new Map(cards.filter((n) => vlanOf(n) !== null).map((n) => [n.id, why]));
  }
  for (const nic of cards) {
    const device = tapName(nic.id);
    const vlan = vlanOf(nic);
    const ours = (found.get(device) ?? []).filter((f) => f.name.startsWith(PREFIX));
    try {
      if (vlan === null) for (const f of ours) await removeFilter(device, f.direction, f.preference);
      else await tag(dir, device, vlan, ours);
    } catch (cause) {
      const why = (cause as Error).message;
      const refusal = vlan === null ? null : ebpfRefusal();
      if (refusal !== null) unplugged.set(nic.id, withoutEbpf(nic, refusal));
      else unplugged.set(nic.id, `${vlan === null ? 'its VLAN cannot be taken away' : `its VLAN ${vlan} cannot be tagged`}, so it is not plugged in: ${why}`);
    }
  }
  return unplugged;
}

const vlanOf = (nic: DesiredNic): number | null => (nic.type === 'bridge' ? (nic.vlan ?? null) : null);

async function tag(dir: string, device: string, vlan: number, ours: readonly BpfFilter[]): Promise<void> {
  const constant = Buffer.alloc(4);
  constant.writeUInt32LE(vlan);
  const object = objectWith('vlan-tag', 'ANKAVLN', constant);
  const name = objectName(`${PREFIX}${vlan}-`, object);
  const missing = PROGRAMS.filter((p) => !ours.some((f) => f.direction === p.direction && f.name === `${name}:[${p.section}]`));
  if (missing.length === 0) return;
  await withObjectFile(dir, name, object, async (path) => {
    await ensureClsact(device);
    for (const p of missing) await replaceBpfFilter(device, { ...p, preference: PREFERENCE, object: path });
  });
}
