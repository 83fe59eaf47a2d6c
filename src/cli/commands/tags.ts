/** `anka push`, `pull` and `registry`: local tags, and the answer where there is no registry. */
import type { ShownTag, VmListEntry } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { grid } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';

export interface TagOptions {
  tag?: string;
  local?: boolean;
  description?: string;
  force?: boolean;
  shrink?: boolean;
}

/** Throws what a command answers that needs a registry. */
export function noRegistry(): never {
  throw new AnkaError('noRegistry', "no registry is configured; anka keeps tags on this host only: use '--local', as in 'anka push --local --tag v1 vm1'");
}

export async function push(s: Session, ref: string, o: TagOptions): Promise<void> {
  if (!o.local) noRegistry();
  if (o.tag === undefined) throw new AnkaError('usage', "Missing option '-t' / '--tag'.");
  const request = { tag: o.tag, ...(o.description === undefined ? {} : { description: o.description }), ...(o.force ? { force: true } : {}) };
  const tag = await (await s.daemon()).post<ShownTag>(vmPath(ref, '/tags'), request, s.out.reporting());
  s.out.done(tag, `saved as tag ${tag.tag}`);
}

export async function pull(s: Session, ref: string, o: TagOptions): Promise<void> {
  if (!o.local) noRegistry();
  const daemon = await s.daemon();
  const tags = await daemon.get<ShownTag[]>(vmPath(ref, '/tags'));
  const tag = o.tag ?? tags.at(-1)?.tag;
  if (tag === undefined) throw new AnkaError('tagNotFound', `${ref} has no local tag; 'anka push --local --tag NAME ${ref}' saves one`);
  await daemon.post(vmPath(ref, '/restore'), { tag }, s.out.reporting());
  if (o.shrink) for (const other of tags) if (other.tag !== tag) await daemon.delete(tagPath(ref, other.tag));
  s.out.done({}, `restored from tag ${tag}`);
}

export const tagPath = (ref: string, tag: string): string => vmPath(ref, `/tags/${encodeURIComponent(tag)}`);

/** `anka registry list`: an error, by which clients know that there is no registry; `local`: the VMs with tags. */
export async function registryList(s: Session, local: boolean): Promise<void> {
  if (!local) noRegistry();
  const daemon = await s.daemon();
  const vms = await daemon.get<VmListEntry[]>('/v1/vms');
  const listed = await Promise.all(vms.map(async (v) => ({ id: v.uuid, name: v.name, tags: await daemon.get<ShownTag[]>(vmPath(v.uuid, '/tags')) })));
  const tagged = listed.filter((v) => v.tags.length > 0).map((v) => ({ id: v.id, name: v.name, latest: v.tags.at(-1)?.tag as string }));
  s.out.done(
    tagged,
    grid(
      ['id', 'name', 'latest'],
      tagged.map((v) => [v.id, v.name, v.latest]),
    ),
  );
}

/** `anka registry list-repos`: there are none, and so no default one. */
export async function registryRepos(s: Session, isDefault: boolean): Promise<void> {
  if (isDefault) noRegistry();
  s.out.done([]);
}
