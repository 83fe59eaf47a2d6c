/** `anka doctor` on hardware acceleration (B93): without KVM guests are emulated, and slow. */
import { kvmAccess } from '../../host/kvm.ts';
import type { DoctorFinding } from '../engine.ts';

const ID = 'rights.kvm';

/** `daemonUid`: the user whose daemon starts QEMU. */
export function accelerationFinding(daemonUid: number): DoctorFinding {
  const { kind } = kvmAccess(daemonUid);
  if (kind === 'granted') return { id: ID, level: 'ok', message: '/dev/kvm can be opened', remedy: '' };
  if (kind === 'absent') {
    const remedy = "enable virtualisation in the firmware, or run 'modprobe kvm' as root";
    return { id: ID, level: 'warning', message: 'this host has no /dev/kvm: guests are emulated and slow', remedy };
  }
  if (daemonUid !== 0) {
    const remedy = "run 'usermod -aG kvm USER' as root, then log in again";
    return { id: ID, level: 'warning', message: 'you have no access to /dev/kvm: guests are emulated and slow', remedy };
  }
  const remedy = "run 'chmod 666 /dev/kvm' as root, and start the VMs again";
  return { id: ID, level: 'warning', message: 'only root may open /dev/kvm, and VMs do not run as root: guests are emulated and slow', remedy };
}
