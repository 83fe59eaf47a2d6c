/**
 * The sockets of cards: QEMU listens, the process of the card's network connects.
 *
 * Theory of operation: QEMU creates the socket, as the VM's user. Root lets it do so in a directory that is QEMU's for
 * this moment. Root then moves what is there into a directory of its own, where nobody can replace it any more, and
 * checks it: a socket of that user. It is given to the user of the network's process: no other one can connect. So
 * neither root nor the process follows a path that QEMU can change.
 *
 * Limits: under an ordinary user all of them are one user, and QEMU creates the socket where it stays.
 */
import { chmod, chown, lchown, lstat, mkdir, readdir, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { removeTree, takeDirectory } from '../../host/untrusted-files.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import type { DesiredNic, NetworkType, NicBackend } from '../engine.ts';
import { isRoot, PROCESS_GID, PROCESS_UIDS } from '../process/users.ts';

/** Time that QEMU has to listen, ms. */
const LISTEN_MS = 30_000;
const POLL_MS = 5;
const OWN = 0o600;

type Card = Pick<DesiredNic, 'id' | 'type' | 'ownerUid'>;

/** The process that may connect to a card; root only while it is on no network of ours. */
const reader = (type: NetworkType): { uid: number; gid: number } =>
  type === 'shared' || type === 'host' ? { uid: PROCESS_UIDS[type], gid: PROCESS_GID } : { uid: 0, gid: 0 };

export class NicSockets {
  readonly #dir: string;

  constructor(runDir: string) {
    this.#dir = join(runDir, 'nic');
  }

  path(id: string): string {
    return join(this.#dir, id.slice(0, 8), 'qemu.sock');
  }

  /** For QEMU to listen. Removes what an earlier QEMU has left. */
  async open(card: Card): Promise<NicBackend> {
    const path = this.path(card.id);
    const dir = dirname(path);
    await mkdir(this.#dir, { recursive: true, mode: 0o711 });
    await mkdir(dir, { recursive: true, mode: 0o700 });
    if (!isRoot()) return { kind: 'stream', path, async listening() {}, release() {} };
    takeDirectory(dir, card.ownerUid, {});
    const inbox = join(dir, 'in');
    for (const old of [inbox, `${path}.new`]) await removeTree(old);
    await mkdir(inbox, { mode: 0o700 });
    await chown(inbox, card.ownerUid, card.ownerUid);
    const made = join(inbox, 'qemu.sock');
    return { kind: 'stream', path: made, listening: () => this.#take(made, card), release() {} };
  }

  /** Moves the socket to where it stays, and gives it to the process of the card's network. */
  async #take(made: string, card: Card): Promise<void> {
    const path = this.path(card.id);
    const moved = `${path}.new`;
    await moveOnceThere(made, moved);
    const found = await lstat(moved);
    try {
      if (!found.isSocket() || found.uid !== card.ownerUid) throw new AnkaError('noRights', `${made} is not used: it is not a socket of this VM`);
      const { uid, gid } = reader(card.type);
      await chmod(moved, OWN);
      await lchown(moved, uid, gid);
      await rename(moved, path);
    } finally {
      for (const rest of [moved, dirname(made)]) await removeTree(rest);
    }
  }

  /** Lets the process of a card's network connect, and no other. */
  async grant({ id, type }: DesiredNic): Promise<void> {
    if (!isRoot()) return;
    const path = this.path(id);
    const dir = await lstat(dirname(path)).catch(() => null);
    if (dir?.uid !== 0) return; // there is none yet, or an earlier version has left it to QEMU
    const { uid, gid } = reader(type);
    await lchown(path, uid, gid).catch((e: NodeJS.ErrnoException) => {
      if (e.code !== 'ENOENT') throw e;
    });
  }

  async remove(id: string): Promise<void> {
    await removeTree(dirname(this.path(id)));
  }

  /** Removes all of them. Returns the names of the cards. */
  async removeAll(): Promise<string[]> {
    const cards = await readdir(this.#dir).catch(() => []);
    await removeTree(this.#dir);
    return cards;
  }
}

/** Waits until QEMU has created it. Throws `timeout`. */
async function moveOnceThere(from: string, to: string): Promise<void> {
  const deadline = monotonicMs() + LISTEN_MS;
  for (;;) {
    try {
      await rename(from, to);
      return;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
      if (monotonicMs() > deadline) throw new AnkaError('timeout', `QEMU does not listen at ${from} after ${LISTEN_MS / 1000} s`);
    }
    await sleep(POLL_MS);
  }
}
