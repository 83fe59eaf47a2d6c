/**
 * Which process is a VM's QEMU, as recorded when it was started: a QEMU that its guest has taken over may change its
 * arguments and close its files. Start time and boot distinguish it from a later process with the same pid.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { BOOT_ID } from '../host/boot.ts';
import { isRunning, type ProcessId, userOf } from '../host/process.ts';

const fileOf = (stateDir: string): string => join(stateDir, 'process.json');

/** Replaces the record in a VM's state directory. */
export function recordProcess(stateDir: string, { pid, started }: ProcessId): void {
  const part = `${fileOf(stateDir)}.part`;
  writeFileSync(part, JSON.stringify({ pid, started, boot: BOOT_ID }), { mode: 0o600 });
  renameSync(part, fileOf(stateDir));
}

/** The recorded process, if it still runs as this user. */
export async function recordedProcess(stateDir: string, uid: number): Promise<ProcessId | null> {
  const id = read(fileOf(stateDir));
  return id && userOf(id.pid) === uid && (await isRunning(id)) ? id : null;
}

function read(path: string): ProcessId | null {
  try {
    const { pid, started, boot } = Object(JSON.parse(readFileSync(path, 'utf8'))) as Record<string, unknown>;
    return typeof pid === 'number' && typeof started === 'string' && boot === BOOT_ID ? { pid, started } : null;
  } catch {
    return null; // it has never been started
  }
}
