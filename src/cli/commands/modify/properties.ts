/** `anka modify VM set ram|cpu|name|disk`, `… label`, and what has no effect on a guest here. */
import type { ModifyRequest, VmShow } from '../../../api/types.ts';
import { AnkaError } from '../../../lib/errors.ts';
import { integer } from '../../arguments.ts';
import { type Session, vmPath } from '../../session.ts';

export async function setProperties(s: Session, ref: string, request: ModifyRequest): Promise<void> {
  await (await s.daemon()).patch(vmPath(ref), request);
  s.out.done({});
}

/** Without a count, an option without effect must have been given. */
export async function setCpuCount(s: Session, ref: string, count: string | undefined): Promise<void> {
  if (count !== undefined) return setProperties(s, ref, { cpu_count: integer('N', count, { low: 1, high: 64 }) });
  if (!s.out.hasRemarks) throw new AnkaError('usage', "Missing argument 'N'.");
  await unchanged(s, ref);
}

export async function setDisk(s: Session, ref: string, index: string | undefined, o: { size?: string; file?: string; ro?: boolean }): Promise<void> {
  if (index !== undefined && index !== '0') oneDisk(ref);
  if (o.file !== undefined || o.ro) oneDisk(ref);
  if (o.size === undefined) throw new AnkaError('usage', "Missing option '-s' / '--size'.");
  await setProperties(s, ref, { disk_size: o.size });
}

export function oneDisk(ref: string): never {
  throw new AnkaError('unsupported', `a VM has one disk, made by 'anka create'; 'anka modify ${ref} set disk -s SIZE' grows it`);
}

/** For what has no effect. */
export async function ignored(s: Session, ref: string, note: string): Promise<void> {
  s.out.remark(note);
  await unchanged(s, ref);
}

/** The answer to a change without effect: an error if there is no such VM. */
export async function unchanged(s: Session, ref: string): Promise<void> {
  await (await s.daemon()).get<VmShow>(vmPath(ref));
  s.out.done({});
}

export async function setLabel(s: Session, ref: string, name: string, value: string | undefined, o: { delete?: boolean; setName?: boolean }): Promise<void> {
  if (o.delete) return deleteLabels(s, ref, [name], false);
  if (!o.setName) return setProperties(s, ref, { labels: { [name]: value ?? '' } });
  if (value === undefined) throw new AnkaError('usage', "Missing argument 'VALUE'.");
  const labels = await labelsOf(s, ref);
  demandLabels(ref, labels, [name]);
  await setProperties(s, ref, { labels: { [name]: null, [value]: labels[name] as string } });
}

export async function deleteLabels(s: Session, ref: string, names: readonly string[], all: boolean): Promise<void> {
  if (!all && names.length === 0) throw new AnkaError('usage', "Missing argument 'NAME...'.");
  const labels = await labelsOf(s, ref);
  demandLabels(ref, labels, names);
  await setProperties(s, ref, { labels: Object.fromEntries((all ? Object.keys(labels) : names).map((n) => [n, null])) });
}

const labelsOf = async (s: Session, ref: string): Promise<Record<string, string>> => (await (await s.daemon()).get<VmShow>(vmPath(ref))).labels ?? {};

function demandLabels(ref: string, labels: Record<string, string>, names: readonly string[]): void {
  for (const n of names) if (labels[n] === undefined) throw new AnkaError('badValue', `${ref} has no label '${n}'; 'anka show ${ref} label' prints its labels`);
}
