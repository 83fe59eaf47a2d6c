/** From a stored VM to the machine that QEMU runs. */
import { kvmAccess } from '../../host/kvm.ts';
import type { VmRow } from '../../store/vms.ts';
import { ensureBaseImage } from '../../vm/base-image.ts';
import { inspectImage } from '../../vm/disk.ts';
import type { Accelerator, Boot, MachineFiles, MachineSpec } from '../../vm/machine.ts';
import type { Context } from '../context.ts';
import { vmUid } from '../desired.ts';
import { nicSpec } from './card-spec.ts';
import { diskFile, memoryFile, seedFile } from './files.ts';
import { hostName } from './names.ts';

export function filesOf(ctx: Context, vm: VmRow): MachineFiles {
  return { uuid: vm.uuid, stateDir: ctx.paths.vmState(vm.uuid), runDir: ctx.paths.vmRun(vm.uuid), uid: vmUid(vm) };
}

/** `resume`: from saved memory, and with the link down. */
export async function machineSpec(ctx: Context, vm: VmRow, resume: boolean): Promise<MachineSpec> {
  const uid = vmUid(vm);
  const accel = await ctx.runner.accelerator();
  return {
    ...filesOf(ctx, vm),
    name: vm.name,
    ram: vm.ram,
    cpus: vm.cpus,
    disk: diskFile(ctx, vm.uuid),
    diskSize: vm.diskSize,
    boot: await bootOf(ctx, vm),
    nic: vm.hasCard ? nicSpec(ctx, vm, vm.type !== 'disconnected' && !resume) : null,
    gid: groupOf(uid, accel),
    accel,
    ...(resume ? { resumeFrom: memoryFile(ctx, vm.uuid) } : {}),
  };
}

/** An ordinary user's daemon gives QEMU its own group. */
function groupOf(uid: number, accel: Accelerator): number {
  if (process.getuid?.() !== 0) return process.getgid?.() ?? uid;
  const access = accel === 'kvm' ? kvmAccess(0) : null;
  return access?.kind === 'granted' ? (access.group ?? uid) : uid;
}

async function bootOf(ctx: Context, vm: VmRow): Promise<Boot> {
  if (vm.app) {
    await inspectImage(vm.app); // its owner may have changed it since the VM was created
    return { kind: 'firmware', seed: seedFile(ctx, vm.uuid) };
  }
  const base = await ensureBaseImage(ctx.paths.baseImage);
  return { kind: 'direct', kernel: base.kernel, initrd: base.initrd, append: `${base.append} systemd.hostname=${hostName(vm.name)}` };
}
