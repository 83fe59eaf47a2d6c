/**
 * Puts an outside machine into a VLAN by the product's own eBPF program, as many kernels have no VLAN interfaces.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { vlanObject } from '../../src/engine/kernel/ebpf/vlan-tags.ts';
import type { Namespace, World } from './world.ts';

/**
 * Tags all outbound frames of `device`, and accepts inbound frames of that VLAN only. Undone by `tc qdisc del dev
 * DEVICE clsact`.
 */
export function putInVlan(world: World, ns: Namespace, device: string, vlan: number): void {
  const object = join(world.dir, 'vlan.o');
  writeFileSync(object, vlanObject(vlan).bytes);
  ns.run(
    `tc qdisc add dev ${device} clsact; tc filter add dev ${device} egress bpf da obj ${object} sec tc/from_guest; tc filter add dev ${device} ingress bpf da obj ${object} sec tc/to_guest`,
  );
}
