/**
 * What of a card is done by eBPF at its tap, and cannot be done without: translation of its MAC address, and its VLAN.
 * Pure.
 */
import type { DesiredNic } from '../../engine.ts';

export function needsEbpf(nic: DesiredNic): boolean {
  return nic.insideMac !== nic.outsideMac || (nic.type === 'bridge' && nic.vlan !== undefined);
}

/** Why such a card cannot be plugged in where the kernel refuses eBPF, and what to do. */
export function withoutEbpf(nic: DesiredNic, refusal: string): string {
  const [option, need, off] =
    nic.insideMac !== nic.outsideMac ? ['--mac', 'to translate the MAC address', '--no-mac'] : ['--vlan', 'to tag frames with the VLAN', '--vlan none'];
  return `${option} cannot be used on this host: ${need} takes eBPF, and ${refusal}; 'anka modify ${nic.vmName} set network-card ${off}' does without`;
}
