/**
 * The lease file: read once at start, replaced atomically after every change.
 *
 * Theory of operation: leases end by the host's monotonic clock (lib/clock.ts), which a change of the date does not
 * move. The file has the boot's id, the clock's reading and the date when it was written. After a restart in the same
 * boot, a lease ends when it would have ended. After a boot, when no guest is alive, the date says how long it was ago.
 *
 * Limits: links are not followed, as the directory may belong to a user who is not trusted (docs/decisions/0012). A
 * failed save is retried every 5 s.
 */
import { closeSync, constants, fchownSync, fstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { BOOT_ID } from '../../host/boot.ts';
import { monotonicMs } from '../../lib/clock.ts';
import type { AddressPool, Lease } from '../../net/dhcp/lease-pool.ts';

const SAVE_DELAY_MS = 20;
const RETRY_MS = 5000;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

/** Leases by network name; they end by this process's `monotonicMs`. */
export type Leases = Record<string, Lease[]>;

interface LeaseFile {
  version: number;
  networks: Leases;
  /** Boot, reading of `monotonicMs` and milliseconds since 1970 when it was written; absent in version 1. */
  boot?: string;
  clock?: number;
  date?: number;
}

/** Leases by network name. None when the file is missing or damaged: guests then request new ones. */
export function loadLeases(path: string): Leases {
  let fd = -1;
  try {
    fd = openSync(path, READ);
    if (!fstatSync(fd).isFile()) return {};
    return convert(JSON.parse(readFileSync(fd, 'utf8')) as LeaseFile);
  } catch {
    return {};
  } finally {
    if (fd >= 0) closeSync(fd);
  }
}

/** The file's leases, with their ends by today's clock. */
function convert({ version, networks, boot, clock = 0, date = 0 }: LeaseFile): Leases {
  if (version !== 1 && version !== 2) return {};
  if (version === 2 && boot === BOOT_ID && BOOT_ID !== '') return networks;
  // version 1 has ends in milliseconds since 1970
  const ago = version === 1 ? Date.now() : clock + Math.max(0, Date.now() - date);
  const shift = monotonicMs() - ago;
  return Object.fromEntries(Object.entries(networks).map(([name, leases]) => [name, leases.map((l) => ({ ...l, expires: l.bound ? l.expires + shift : 0 }))]));
}

/** Throws the file system's error. `owner` gets the file. */
export function saveLeases(path: string, networks: Leases, owner?: { uid: number; gid: number }): void {
  const part = `${path}.part`;
  rmSync(part, { force: true });
  const fd = openSync(part, 'wx', 0o600);
  try {
    writeFileSync(fd, JSON.stringify({ version: 2, boot: BOOT_ID, clock: monotonicMs(), date: Date.now(), networks } satisfies LeaseFile));
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
