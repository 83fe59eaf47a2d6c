/**
 * An outside machine in a VLAN; many kernels have no VLAN interfaces, so it is done by the product's own program at its
 * card.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { vlanObject } from '../../src/engine/kernel/ebpf/vlan-tags.ts';
import type { Namespace, World } from './world.ts';

/**
 * All that leaves by `device` is put into the VLAN, and nothing else comes in by it. `tc qdisc del dev DEVICE clsact`
 * ends it.
 */
export function putInVlan(world: World, ns: Namespace, device: string, vlan: number): void {
  const object = join(world.dir, 'vlan.o');
  writeFileSync(object, vlanObject(vlan).bytes);
  ns.run(
    `tc qdisc add dev ${device} clsact; tc filter add dev ${device} egress bpf da obj ${object} sec tc/from_guest; tc filter add dev ${device} ingress bpf da obj ${object} sec tc/to_guest`,
  );
}
