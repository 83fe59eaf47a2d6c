/**
 * What a NIC needs eBPF at its tap for, without a fallback: translation of its MAC address, and its VLAN. Pure.
 */
import type { DesiredNic } from '../../engine.ts';

export function needsEbpf(nic: DesiredNic): boolean {
  return nic.insideMac !== nic.outsideMac || (nic.type === 'bridge' && nic.vlan !== undefined);
}

/** Why such a NIC cannot be attached where eBPF is not available, and the command that does without it. */
export function withoutEbpf(nic: DesiredNic, refusal: string): string {
  const [option, need, off] =
    nic.insideMac !== nic.outsideMac ? ['--mac', 'to translate the MAC address', '--no-mac'] : ['--vlan', 'to tag frames with the VLAN', '--vlan none'];
  return `${option} cannot be used on this host: it needs eBPF ${need}, and ${refusal}; 'anka modify ${nic.vmName} set network-card ${off}' removes it`;
}
