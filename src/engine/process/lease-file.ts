/**
 * The lease file: read once at start, replaced atomically after every change. Limits: links are not followed, as the
 * directory may belong to a user who is not trusted (docs/decisions/0012). A failed save is retried every 5 s.
 */
import { closeSync, constants, fchownSync, fstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { AddressPool, Lease } from '../../net/dhcp/lease-pool.ts';

const SAVE_DELAY_MS = 20;
const RETRY_MS = 5000;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

export type Leases = Record<string, Lease[]>;

/** Leases by network name. None when the file is missing or damaged: guests then request new ones. */
export function loadLeases(path: string): Leases {
  let fd = -1;
  try {
    fd = openSync(path, READ);
    if (!fstatSync(fd).isFile()) return {};
    const data = JSON.parse(readFileSync(fd, 'utf8')) as { version: number; networks: Leases };
    return data.version === 1 ? data.networks : {};
  } catch {
    return {};
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** Throws the file system's error. `owner` gets the file. */
export function saveLeases(path: string, networks: Leases, owner?: { uid: number; gid: number }): void {
  const part = `${path}.part`;
  rmSync(part, { force: true });
  const fd = openSync(part, 'wx', 0o600);
  try {
    writeFileSync(fd, JSON.stringify({ version: 1, networks }));
    if (owner) fchownSync(fd, owner.uid, owner.gid);
  } finally {
    closeSync(fd);
  }
  renameSync(part, path);
}

/**
 * The leases of a helper process: those of networks that it serves, and those that it keeps of others. Changes are
 * saved together after 20 ms.
 */
export class LeaseStore {
  readonly #path: string;
  readonly #log: { warn(o: object, m: string): void };
  readonly #saved: Leases;
  /** Pools of the networks that are served, by name. */
  readonly #pools = new Map<string, AddressPool>();
  #timer: NodeJS.Timeout | null = null;
  #failed = false;

  constructor(path: string, log: { warn(o: object, m: string): void }) {
    this.#path = path;
    this.#log = log;
    this.#saved = loadLeases(path);
  }

  /** A network is served from now on: restores its leases. */
  attach(network: string, pool: AddressPool): void {
    pool.restore(this.#saved[network] ?? []);
    this.#pools.set(network, pool);
  }

  /** A network is not served any more; its leases are kept. */
  detach(network: string): void {
    this.#saved[network] = this.#pools.get(network)?.snapshot() ?? [];
    this.#pools.delete(network);
  }

  /** Gives a deleted VM's lease back. */
  forget(id: string): void {
    for (const pool of this.#pools.values()) pool.forget(id);
    for (const [network, leases] of Object.entries(this.#saved)) this.#saved[network] = leases.filter((l) => l.id !== id);
    this.changed();
  }

  changed(): void {
    this.#timer ??= setTimeout(() => this.#save(), SAVE_DELAY_MS);
  }

  #save(): void {
    this.#timer = null;
    const all = { ...this.#saved, ...Object.fromEntries([...this.#pools].map(([network, pool]) => [network, pool.snapshot()])) };
    try {
      saveLeases(this.#path, all);
      this.#failed = false;
    } catch (cause) {
      if (!this.#failed) this.#log.warn({ error: (cause as Error).message }, 'the leases cannot be saved');
      this.#failed = true;
      this.#timer = setTimeout(() => this.#save(), RETRY_MS);
    }
  }
}
