/**
 * Finds the accelerator that works on this host.
 *
 * Theory of operation: QEMU's user must be able to open /dev/kvm, which is looked at each time, as it may change. That
 * alone proves nothing: a guest entry hangs on some nested hosts. A QEMU without devices is therefore started under
 * KVM, and its monitor is asked whether the CPU has left the reset vector. The result is kept until the next boot.
 *
 * Limits: KVM counts as broken if the CPU has not moved after 4 s.
 */
import { spawn } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BOOT_ID } from '../host/boot.ts';
import { kvmAccess } from '../host/kvm.ts';
import { monotonicMs } from '../lib/clock.ts';
import type { Accelerator } from './machine.ts';

const PROBE_LIMIT_MS = 4000;

/** Finds the fastest accelerator that works for QEMU processes of this daemon; `cacheDir` keeps what KVM does. */
export function acceleratorProbe(cacheDir: string, qemu: string): () => Promise<Accelerator> {
  let ofKvm: Promise<Accelerator> | null = null;
  return async () => {
    if (process.platform === 'darwin') return 'hvf';
    if (kvmAccess(process.getuid?.() ?? 0).kind !== 'granted') return 'tcg';
    ofKvm ??= probeKvm(cacheDir, qemu);
    return ofKvm;
  };
}

async function probeKvm(cacheDir: string, qemu: string): Promise<Accelerator> {
  const cache = join(cacheDir, 'accelerator.json');
  const known = await readCache(cache);
  if (BOOT_ID && known.boot === BOOT_ID && known.accel) return known.accel;
  const accel: Accelerator = (await entersGuest(qemu)) ? 'kvm' : 'tcg';
  // without it, the next daemon probes again
  await mkdir(cacheDir, { recursive: true })
    .then(() => writeFile(cache, JSON.stringify({ boot: BOOT_ID, accel }), { mode: 0o600 }))
    .catch(() => {});
  return accel;
}

/** Nothing when it is missing or damaged, as a full disk leaves it. */
async function readCache(path: string): Promise<{ boot?: string; accel?: Accelerator }> {
  try {
    return Object(JSON.parse(await readFile(path, 'utf8')));
  } catch {
    return {};
  }
}

/** Whether the guest's instruction pointer leaves the reset vector (0xfff0) under KVM. */
async function entersGuest(qemu: string): Promise<boolean> {
  const args = ['-machine', 'q35', '-accel', 'kvm', '-cpu', 'host', '-m', '64M', '-nodefaults', '-display', 'none', '-monitor', 'stdio', '-S'];
  const child = spawn(qemu, args, { stdio: ['pipe', 'pipe', 'ignore'], detached: true });
  let text = '';
  let exited = false;
  child.on('error', () => {
    exited = true;
  });
  if (child.pid === undefined) return false; // it has no streams then
  child.stdout.on('data', (d: Buffer) => {
    text = (text + d.toString()).slice(-65_536);
  });
  child.stdin.on('error', () => {});
  child.on('exit', () => {
    exited = true;
  });
  try {
    child.stdin.write('cont\n');
    const deadline = monotonicMs() + PROBE_LIMIT_MS;
    while (monotonicMs() < deadline && !exited) {
      await sleep(200);
      text = '';
      child.stdin.write('info registers\n');
      await sleep(200);
      const rip = /[RE]IP=([0-9a-f]+)/.exec(text)?.[1];
      if (rip && Number.parseInt(rip, 16) !== 0xfff0) return true;
    }
    return false;
  } finally {
    child.kill('SIGKILL');
    child.unref();
  }
}
