/**
 * The lease file: read once at start, replaced atomically after every change. Limits: links are not followed, as the
 * folder may belong to a user who is not trusted (docs/decisions/0012). What cannot be saved is tried again every 5 s.
 */
import { closeSync, constants, fchownSync, fstatSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import type { Lease } from '../../net/dhcp/lease-pool.ts';

const SAVE_DELAY_MS = 20;
const RETRY_MS = 5000;
const READ = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;

export type Leases = Record<string, Lease[]>;

/** Leases by network name. A file that is missing or damaged gives none, as a lease can be asked for again. */
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

/** Throws what the file system says. `owner` gets the file. */
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

/** Saves leases in a moment, however often they change in it. */
export class LeaseSaver {
  readonly #path: string;
  readonly #collect: () => Leases;
  readonly #log: { warn(o: object, m: string): void };
  #timer: NodeJS.Timeout | null = null;
  #failed = false;

  constructor(path: string, collect: () => Leases, log: { warn(o: object, m: string): void }) {
    this.#path = path;
    this.#collect = collect;
    this.#log = log;
  }

  changed(): void {
    this.#timer ??= setTimeout(() => this.#save(), SAVE_DELAY_MS);
  }

  #save(): void {
    this.#timer = null;
    try {
      saveLeases(this.#path, this.#collect());
      this.#failed = false;
    } catch (cause) {
      if (!this.#failed) this.#log.warn({ error: (cause as Error).message }, 'the leases cannot be saved');
      this.#failed = true;
      this.#timer = setTimeout(() => this.#save(), RETRY_MS);
    }
  }
}
