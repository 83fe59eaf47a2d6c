/**
 * Shared directories of all VMs: what is stored, kept mounted in the guests that run.
 *
 * Theory of operation: each stored mount of a running VM has a keeper. It adopts the session that an earlier daemon has
 * begun, or begins one, and another whenever one ends: the guest has rebooted, or was resumed, or a process was killed.
 * Events of the VMs begin and end keepers. A mount that is not persistent is deleted when its VM has stopped, whatever
 * the cause; not by a suspend or a reboot.
 *
 * Limits: a guest's open files on a mount do not survive the end of its session. A clone has no mounts.
 */
import { lstat, realpath } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { OnProgress } from '../../api/service.ts';
import type { DaemonEvent, GuestAccess, MountRequest, ShownMount } from '../../api/types.ts';
import { ownProgram } from '../../host/own-program.ts';
import { AnkaError, ankaError, wrap } from '../../lib/errors.ts';
import { type SshTarget, shellQuote } from '../../lib/guest-ssh.ts';
import { checkMountName, guestPath, MAX_MOUNTS } from '../../lib/mount-spec.ts';
import type { MountRow } from '../../store/mounts.ts';
import type { VmRow } from '../../store/vms.ts';
import { vmName } from '../context.ts';
import { vmUid } from '../desired.ts';
import { waitFor } from '../guest.ts';
import type { LoginTurns } from '../login-turns.ts';
import type { VmContext } from '../vms/context.ts';
import { show } from '../vms/show.ts';
import { adoptSession, beginSession, removeSession, type Session, type SessionPlace } from './session.ts';

/** How long `mount` waits for a guest that is still booting, s. */
const WAIT_S = 300;
/** Pauses between attempts, ms: the first, and the longest. */
const RETRY_MS = [500, 15_000] as const;
/** What a new attempt does not change soon: pause, ms. */
const FIXED_RETRY_MS = 60_000;
const FIXED_KINDS = ['guest', 'noRights', 'badValue', 'missingProgram'];

/** A mount of a running VM. */
interface Keeper {
  row: MountRow;
  state: 'connecting' | 'mounted';
  message: string;
  session: Session | null;
  /** Ends the keeper and its session, for good. */
  end: AbortController;
  /** Resolves when the mount is up, or rejects with the reason that a new attempt does not change. */
  first: Promise<void>;
  /** Resolves when the keeper has ended. */
  done: Promise<void>;
}

/** How the daemon reaches a guest. */
export interface GuestLogins {
  turns: LoginTurns;
  access(vm: VmRow): Promise<GuestAccess>;
}

const keyOf = (row: MountRow): string => `${row.vm} ${row.id}`;

export class Mounts {
  readonly #ctx: VmContext;
  readonly #logins: GuestLogins;
  readonly #keepers = new Map<string, Keeper>();

  constructor(ctx: VmContext, logins: GuestLogins) {
    this.#ctx = ctx;
    this.#logins = logins;
    ctx.events.on((event) => this.#onEvent(event));
  }

  /** Adopts and begins the sessions of VMs that run, and removes what is left of those that do not. */
  async recover(): Promise<void> {
    for (const row of this.#ctx.mounts.all()) {
      const vm = this.#ctx.vms.find(row.vm);
      if (!vm || vm.phase !== 'ready') continue;
      if (this.#ctx.machines.has(vm.uuid)) this.#keep(vm, row);
      else {
        await removeSession(this.#ctx.paths.vmRun(vm.uuid), row.id);
        if (vm.status !== 'suspended') this.#ctx.mounts.deleteTemporary(vm.uuid);
      }
    }
  }

  list(vm: VmRow): ShownMount[] {
    return this.#ctx.mounts.of(vm.uuid).map((row) => this.#shown(row));
  }

  /**
   * Stores a mount, and mounts it in a running guest. On an error nothing is stored. Throws `vmNotRunning` for a VM
   * that does not run, unless the mount is persistent.
   */
  async add(vm: VmRow, request: MountRequest, progress: OnProgress): Promise<ShownMount> {
    const runs = this.#ctx.machines.has(vm.uuid);
    if (!runs && !request.persistent)
      throw new AnkaError(
        'vmNotRunning',
        `${vm.name} is not running; run 'anka start ${vm.name}' first, or 'anka modify ${vm.name} mount DIR' for its next start`,
      );
    const directory = await checkDirectory(request.directory);
    const name = request.name ?? basename(directory);
    checkMountName(name);
    this.#demandRoom(vm, name);
    const row = this.#ctx.mounts.add({ vm: vm.uuid, name, directory, readOnly: request.read_only ?? false, persistent: request.persistent ?? false });
    const added = (): ShownMount => {
      this.#ctx.events.emit('mount.added', `shares ${directory} as ${guestPath(name)}`, vmName(vm));
      return this.#shown(row);
    };
    if (!runs) return added();
    progress(`${vm.name}: mounting ${directory}`);
    const keeper = this.#keep(vm, row);
    try {
      await Promise.race([keeper.first, this.#timeout(vm, keeper)]);
    } catch (cause) {
      await this.#drop(row);
      throw wrap(`sharing ${directory} with ${vm.name}`, cause);
    }
    return added();
  }

  /** Ends a mount for good. `ref`: its ID or its name. */
  async remove(vm: VmRow, ref: string): Promise<void> {
    const row = this.#ctx.mounts.of(vm.uuid).find((m) => String(m.id) === ref || m.name === ref || m.directory === ref);
    if (!row) throw new AnkaError('mountNotFound', `${vm.name} has no mount '${ref}'; 'anka show ${vm.name} mount' lists its mounts`);
    await this.#drop(row);
    this.#ctx.events.emit('mount.removed', `no longer shares ${row.directory}`, vmName(vm));
  }

  /** Deletes the mounts that end with a VM's run. */
  endRun(uuid: string): void {
    this.#ctx.mounts.deleteTemporary(uuid);
  }

  #demandRoom(vm: VmRow, name: string): void {
    const mounts = this.#ctx.mounts.of(vm.uuid);
    const other = mounts.find((m) => m.name === name);
    if (other)
      throw new AnkaError(
        'mountExists',
        `${vm.name} has a mount named '${name}' already, of ${other.directory}; choose another name with DIR:NAME, or run 'anka unmount ${vm.name} ${name}'`,
      );
    if (mounts.length >= MAX_MOUNTS)
      throw new AnkaError('badState', `${vm.name} has ${MAX_MOUNTS} mounts, which is the limit; run 'anka unmount ${vm.name} ID' to remove one`);
  }

  /** Rejects when the guest had no session for `WAIT_S`. */
  async #timeout(vm: VmRow, keeper: Keeper): Promise<never> {
    await sleep(WAIT_S * 1000, undefined, { ref: false, signal: keeper.end.signal }).catch(() => {});
    if (keeper.end.signal.aborted) throw new AnkaError('badState', `${vm.name} was stopped, or the mount was removed, meanwhile`);
    throw new AnkaError('timeout', `the guest has not mounted it within ${WAIT_S} s${keeper.message ? ` (${keeper.message})` : ''}`);
  }

  #shown(row: MountRow): ShownMount {
    const keeper = this.#keepers.get(keyOf(row));
    return {
      id: row.id,
      name: row.name,
      host_path: row.directory,
      guest_path: guestPath(row.name),
      read_only: row.readOnly,
      persistent: row.persistent,
      state: keeper?.state ?? 'inactive',
      ...(keeper?.message ? { message: keeper.message } : {}),
    };
  }

  #onEvent({ type, message, vm }: DaemonEvent): void {
    if (!vm) return;
    if (type === 'vm.deleted') return void this.#endKeepers(vm.uuid);
    if (type !== 'vm.status') return;
    const row = this.#ctx.vms.find(vm.uuid);
    if (message === 'running' && row) for (const m of this.#ctx.mounts.of(vm.uuid)) this.#keep(row, m);
    else if (message === 'reset') for (const k of this.#of(vm.uuid)) k.session?.stop();
    else if (message !== 'running') {
      this.#endKeepers(vm.uuid);
      // a stop by a client is followed by `endRun`, a reboot by a start
      if (message.startsWith('failed') || message.startsWith('powered off')) this.#ctx.mounts.deleteTemporary(vm.uuid);
    }
  }

  #of(uuid: string): Keeper[] {
    return [...this.#keepers.values()].filter((k) => k.row.vm === uuid);
  }

  #endKeepers(uuid: string): void {
    for (const k of this.#of(uuid)) k.end.abort();
  }

  async #drop(row: MountRow): Promise<void> {
    const keeper = this.#keepers.get(keyOf(row));
    keeper?.end.abort();
    await keeper?.done;
    this.#ctx.mounts.delete(row.vm, row.id);
    await removeSession(this.#ctx.paths.vmRun(row.vm), row.id);
  }

  /** Begins to keep a mount; its earlier keeper ends first. */
  #keep(vm: VmRow, row: MountRow): Keeper {
    const before = this.#keepers.get(keyOf(row));
    before?.end.abort();
    let up = (): void => {};
    let failed = (_cause: unknown): void => {};
    const first = new Promise<void>((resolve, reject) => {
      up = resolve;
      failed = reject;
    });
    first.catch(() => {}); // only `add` waits for it
    const keeper: Keeper = { row, state: 'connecting', message: '', session: null, end: new AbortController(), first, done: Promise.resolve() };
    this.#keepers.set(keyOf(row), keeper);
    keeper.done = (before?.done ?? Promise.resolve())
      .then(() => this.#run(vm, keeper, up, failed))
      .catch((e: Error) => this.#ctx.log.error({ vm: vm.name, error: e.stack }, 'cannot keep a shared directory'))
      .finally(() => {
        if (this.#keepers.get(keyOf(row)) === keeper) this.#keepers.delete(keyOf(row));
      });
    return keeper;
  }

  /** One session after the other, until the keeper is ended. */
  async #run(vm: VmRow, keeper: Keeper, up: () => void, failed: (cause: unknown) => void): Promise<void> {
    const { signal } = keeper.end;
    const place: SessionPlace = { vmName: vm.name, runDir: this.#ctx.paths.vmRun(vm.uuid), uid: vmUid(vm) };
    let pause: number = RETRY_MS[0];
    let adopted = signal.aborted ? null : await adoptSession(place, keeper.row);
    while (!signal.aborted) {
      try {
        const session = adopted ?? (await this.#begin(vm, keeper, place));
        adopted = null;
        pause = RETRY_MS[0];
        keeper.session = session;
        keeper.state = 'mounted';
        keeper.message = session.unwritable ? `the VM's user (uid ${place.uid}) may not write to it` : '';
        up();
        const onEnd = (): void => session.stop();
        signal.addEventListener('abort', onEnd);
        if (signal.aborted) session.stop();
        await session.ended;
        signal.removeEventListener('abort', onEnd);
        keeper.session = null;
        keeper.state = 'connecting';
        keeper.message = 'the connection to the guest was closed';
      } catch (cause) {
        const error = ankaError(cause);
        if (error.message !== keeper.message) this.#ctx.log.info({ vm: vm.name, directory: keeper.row.directory, error: error.message }, 'not mounted yet');
        keeper.message = error.message;
        const isFixed = FIXED_KINDS.includes(error.kind);
        if (isFixed) failed(error);
        pause = isFixed ? FIXED_RETRY_MS : Math.min(2 * pause, RETRY_MS[1]);
      }
      await sleep(pause, undefined, { ref: false, signal }).catch(() => {});
    }
    await removeSession(place.runDir, keeper.row.id);
  }

  /** Logs in to the guest in its turn, and begins a session. */
  async #begin(vm: VmRow, keeper: Keeper, place: SessionPlace): Promise<Session> {
    const shown = async () => show(this.#ctx, this.#ctx.queue.find(vm.uuid), await this.#ctx.reconciler.observe().catch(() => null));
    await waitFor(shown, 'ip', WAIT_S);
    const turn = this.#logins.turns.take(vm.uuid);
    try {
      await turn.granted;
      const access = await this.#logins.access(this.#ctx.queue.find(vm.uuid));
      if (access.address === undefined) throw new AnkaError('network', `${vm.name} has no IP address`);
      return await beginSession(place, keeper.row, targetOf(access), () => !keeper.end.signal.aborted);
    } finally {
      turn.end();
    }
  }
}

/** ssh's target; by `anka nc` where only the VM's network process reaches the guest. */
function targetOf(access: GuestAccess): SshTarget {
  const nc = [...ownProgram(new URL('../../cli/main.ts', import.meta.url)), 'nc', access.uuid, '22'].map(shellQuote).join(' ');
  return {
    user: access.user,
    address: access.address as string,
    port: access.port,
    identityFile: access.identity_file,
    ...(access.stream_socket === undefined ? {} : { proxyCommand: nc.replaceAll('%', '%%') }),
  };
}

/** The directory without links on its path. Throws `badValue`. */
async function checkDirectory(path: string): Promise<string> {
  if (!path.startsWith('/')) throw new AnkaError('badValue', `directory: '${path}' must be an absolute path`);
  try {
    const resolved = await realpath(path);
    if ((await lstat(resolved)).isDirectory()) return resolved;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'EACCES') throw new AnkaError('noRights', `you may not open ${path}; check its permissions with 'namei -l ${path}'`);
    throw new AnkaError('badValue', code === 'ENOENT' ? `${path} does not exist; create the directory first` : `${path}: ${(cause as Error).message}`);
  }
  throw new AnkaError('badValue', `${path} is not a directory`);
}
