/** Access to a VM's guest: its ssh address, key and console; and waiting for its address or its end. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestAccess, VmShow } from '../api/types.ts';
import type { ObservedState } from '../engine/engine.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError } from '../lib/errors.ts';
import type { VmRow } from '../store/vms.ts';
import { findBaseImage } from '../vm/base-image.ts';
import { machineFiles } from '../vm/qemu-args.ts';
import { formatIpv4 } from '../wire/address.ts';
import type { Context } from './context.ts';

const POLL_MS = 200;

export async function guestAccess(ctx: Context, vm: VmRow, observed: ObservedState | null): Promise<GuestAccess> {
  const ip = vm.status === 'running' ? (observed?.nics.find((n) => n.id === vm.uuid)?.ip ?? null) : null;
  const base = vm.app ? null : await findBaseImage(ctx.paths.baseImage);
  const machine = ctx.machines.get(vm.uuid);
  const stream = machine && vm.hasCard ? ((await ctx.engine()).streamSocket?.(vm.uuid) ?? null) : null;
  return {
    uuid: vm.uuid,
    user: 'anka',
    port: 22,
    identity_file: base?.identityFile ?? join(ctx.paths.state, 'id_ed25519'),
    console: machineFiles(ctx.paths.vmRun(vm.uuid)).console,
    ...(ip === null ? {} : { address: formatIpv4(ip) }),
    ...(stream === null ? {} : { stream_socket: stream }),
    ...(machine ? { pid: machine.pid } : {}),
  };
}

/**
 * Resolves when `show` reports an address, or that the VM does not run. Throws `timeout`, or at once if there will be
 * no address.
 */
export async function waitFor(show: () => Promise<VmShow>, until: 'ip' | 'stopped', timeoutSeconds: number): Promise<VmShow> {
  const deadline = monotonicMs() + timeoutSeconds * 1000;
  for (;;) {
    const vm = await show();
    const running = vm.status === 'running';
    if (until === 'ip' ? vm.ip !== undefined : !running) return vm;
    const detail = vm.message ? `: ${vm.message}` : '';
    if (until === 'ip' && !running) throw new AnkaError('vmNotRunning', `${vm.name} is ${vm.status}${detail}`);
    if (until === 'ip' && (vm.network === undefined || vm.network.type === 'disconnected'))
      throw new AnkaError(
        'network',
        `${vm.name} ${vm.network ? 'is disconnected' : 'has no network card'} and has no address; run 'anka console ${vm.name}' to log in`,
      );
    if (monotonicMs() >= deadline) throw new AnkaError('timeout', `${vm.name} has no address after ${timeoutSeconds} s${detail}`);
    await sleep(POLL_MS);
  }
}
