/** `anka mount` and `unmount`, and shared directories for other commands. */
import { resolve } from 'node:path';
import type { MountRequest, ShownMount } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { parseMount } from '../../lib/mount-spec.ts';
import { grid } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';

const mountsPath = (vm: string, mount = ''): string => vmPath(vm, `/mounts${mount === '' ? '' : `/${encodeURIComponent(mount)}`}`);

/** The request for `DIR[:NAME][:ro]`; DIR may be relative to the current directory. Throws `usage`. */
function requestOf(text: string, persistent: boolean): MountRequest {
  const { directory, name, readOnly } = parseMount(text);
  return { directory: resolve(directory), read_only: readOnly, persistent, ...(name === undefined ? {} : { name }) };
}

/** Shares `DIR[:NAME][:ro]` with a running VM, until it stops. Resolves when the guest has mounted it. */
export async function shareDirectory(s: Session, vm: string, text: string): Promise<ShownMount> {
  const request = requestOf(text, false);
  return (await s.daemon()).post<ShownMount>(mountsPath(vm), request, s.out.reporting());
}

/**
 * Runs `work` with directories shared as `DIR[:NAME][:ro]`, for `anka run -v`. Afterwards they are unmounted, also when
 * it fails; those of a VM that has stopped meanwhile are gone.
 */
export async function withSharedDirectories<T>(s: Session, vm: string, texts: readonly string[], work: () => Promise<T>): Promise<T> {
  for (const text of texts) requestOf(text, false); // nothing is mounted if one is wrong
  const shared: ShownMount[] = [];
  try {
    for (const text of texts) shared.push(await shareDirectory(s, vm, text));
    return await work();
  } finally {
    const daemon = await s.daemon();
    for (const { id } of shared)
      await daemon.delete(mountsPath(vm, String(id))).catch((cause: unknown) => {
        if (!(cause instanceof AnkaError && ['mountNotFound', 'vmNotFound'].includes(cause.kind))) throw cause;
      });
  }
}

/** A mount in a sentence. */
function sentence(m: ShownMount): string {
  const where = m.state === 'inactive' ? `will be ${m.guest_path} in the guest after the next start` : `is ${m.guest_path} in the guest`;
  return `${m.host_path} ${where}${m.read_only ? ', read-only' : ''} (ID ${m.id})`;
}

/** `anka mount [--ro] VM [DIR[:NAME]]`. */
export async function mount(s: Session, vm: string, text: string | undefined, o: { ro?: boolean }): Promise<void> {
  const [shown] = await mountAll(s, vm, [requestOf(text ?? '.', false)], o);
  s.out.done(shown, sentence(shown as ShownMount));
}

/** `anka modify VM mount DIR…`: from now on at each start. */
export async function mountAtStart(s: Session, vm: string, texts: readonly string[], o: { ro?: boolean }): Promise<void> {
  const requests = texts.map((text) => requestOf(text, true));
  const shown = await mountAll(s, vm, requests, o);
  s.out.done(shown.length === 1 ? shown[0] : shown, shown.map(sentence).join('\n'));
}

async function mountAll(s: Session, vm: string, requests: readonly MountRequest[], o: { ro?: boolean }): Promise<ShownMount[]> {
  const daemon = await s.daemon();
  const mounts: ShownMount[] = [];
  for (const request of requests) {
    const shown = await daemon.post<ShownMount>(mountsPath(vm), { ...request, read_only: request.read_only || (o.ro ?? false) }, s.out.reporting());
    if (shown.message) s.out.note(`${shown.host_path}: ${shown.message}; the guest can read it only`);
    mounts.push(shown);
  }
  return mounts;
}

/** `anka unmount VM ID|NAME…`, or all. */
export async function unmount(s: Session, vm: string, mounts: readonly string[], o: { all?: boolean }): Promise<void> {
  if (o.all && mounts.length > 0) throw new AnkaError('usage', "Name mounts or use '--all', not both.");
  if (!o.all && mounts.length === 0) throw new AnkaError('usage', "Missing argument 'MOUNT...'.");
  const daemon = await s.daemon();
  const refs = o.all ? (await daemon.get<ShownMount[]>(mountsPath(vm))).map((m) => String(m.id)) : mounts;
  for (const ref of refs) await daemon.delete(mountsPath(vm, ref));
  s.out.done({});
}

/** `anka show VM mount`. */
export async function showMounts(s: Session, vm: string): Promise<void> {
  const mounts = await (await s.daemon()).get<ShownMount[]>(mountsPath(vm));
  const rows = mounts.map(
    (m) => [m.id, m.name, m.host_path, m.guest_path, m.read_only ? 'ro' : 'rw', m.persistent ? 'yes' : 'no', m.state, m.message ?? ''] as const,
  );
  s.out.done(mounts, grid(['id', 'name', 'host_path', 'guest_path', 'access', 'persistent', 'state', 'message'], rows));
}
