/**
 * VLAN of bridge-type cards: bpf/vlan-tag.bpf.c at the hooks of their interfaces.
 *
 * Theory of operation: tags are put on and taken off at the tap, so it works on any bridge and changes nothing of it. What is attached is asked of the kernel; the
 * name of a filter tells its VLAN. A card that should have a tag and cannot get it is not plugged in, so that nothing leaves untagged.
 */
import { ebpfRefusal } from '../../host/ffi.ts';
import type { Link } from '../../host/links.ts';
import { ensureClsact, listBpfFilters, removeFilter, replaceBpfFilter, type TcDirection } from '../../host/tc.ts';
import type { DesiredState } from '../engine.ts';
import { objectName, objectWith, withObjectFile } from './ebpf-constant.ts';
import { withoutEbpf } from './ebpf-needs.ts';
import { tapName } from './names.ts';

const PREFIX = 'anka-vlan-';
/** After the translation of the MAC address. */
const PREFERENCE = 2;
const PROGRAMS: readonly { direction: TcDirection; section: string }[] = [
  { direction: 'ingress', section: 'tc/from_guest' },
  { direction: 'egress', section: 'tc/to_guest' },
];

/** Brings all cards that have an interface to what is wanted. Tells which (by id) must not be plugged in, and why. `dir` is a folder of ours for copies. */
export async function applyVlanTags(dir: string, desired: DesiredState, links: readonly Link[]): Promise<Map<string, string>> {
  const there = new Set(links.map((l) => l.name));
  const cards = desired.nics.filter((n) => there.has(tapName(n.id)));
  const unplugged = new Map<string, string>();
  const found = await listBpfFilters(cards.map((n) => tapName(n.id)));
  for (const nic of cards) {
    const device = tapName(nic.id);
    const ours = (found.get(device) ?? []).filter((f) => f.name.startsWith(PREFIX));
    if (nic.type !== 'bridge' || nic.vlan === undefined) {
      for (const f of ours) await removeFilter(device, f.direction, f.preference);
      continue;
    }
    const constant = Buffer.alloc(4);
    constant.writeUInt32LE(nic.vlan);
    const object = objectWith('vlan-tag', 'ANKAVLN', constant);
    const name = objectName(`${PREFIX}${nic.vlan}-`, object);
    const missing = PROGRAMS.filter((p) => !ours.some((f) => f.direction === p.direction && f.name === `${name}:[${p.section}]`));
    if (missing.length === 0) continue;
    try {
      await withObjectFile(dir, name, object, async (path) => {
        await ensureClsact(device);
        for (const p of missing) await replaceBpfFilter(device, { ...p, preference: PREFERENCE, object: path });
      });
    } catch (cause) {
      const refusal = ebpfRefusal();
      unplugged.set(
        nic.id,
        refusal === null ? `its VLAN ${nic.vlan} cannot be tagged, so it is not plugged in: ${(cause as Error).message}` : withoutEbpf(nic, refusal),
      );
    }
  }
  return unplugged;
}
