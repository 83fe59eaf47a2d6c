/** The lease file: read once at start, replaced atomically after every change. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { Lease } from '../net/pool.ts';

/** Leases by network name. A file that is missing or damaged gives none, as a lease can be asked for again. */
export function loadLeases(path: string): Record<string, Lease[]> {
  try {
    const data = JSON.parse(readFileSync(path, 'utf8')) as { version: number; networks: Record<string, Lease[]> };
    return data.version === 1 ? data.networks : {};
  } catch {
    return {};
  }
}

export function saveLeases(path: string, networks: Record<string, Lease[]>): void {
  writeFileSync(`${path}.part`, JSON.stringify({ version: 1, networks }), { mode: 0o600 });
  renameSync(`${path}.part`, path);
}
