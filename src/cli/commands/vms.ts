/** `anka create`, `list`, `clone` and `delete`. */
import { isAbsolute, resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import type { CreateRequest, VmListEntry } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { integer } from '../arguments.ts';
import { grid } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';
import { forEachVm, type Selection, selectVms } from './selection.ts';

export interface CreateOptions {
  ramSize?: string;
  cpuCount?: string;
  diskSize?: string;
  app?: string;
}

export async function create(s: Session, name: string, o: CreateOptions): Promise<void> {
  const request: CreateRequest = {
    name,
    ...(o.ramSize === undefined ? {} : { ram_size: o.ramSize }),
    ...(o.cpuCount === undefined ? {} : { cpu_count: integer('-c', o.cpuCount) }),
    ...(o.diskSize === undefined ? {} : { disk_size: o.diskSize }),
    ...(o.app === undefined ? {} : { app: isAbsolute(o.app) ? o.app : resolve(o.app) }),
  };
  const body = await (await s.daemon()).post<{ uuid: string }>('/v1/vms', request, s.out.reporting());
  s.out.done(body, `vm created with uuid ${body.uuid}`);
}

export async function list(s: Session): Promise<void> {
  const vms = await (await s.daemon()).get<VmListEntry[]>('/v1/vms');
  s.out.done(
    vms,
    grid(
      ['name', 'uuid', 'creation_date', 'status', 'ip'],
      vms.map((v) => [v.name, v.uuid, v.creation_date.slice(0, 19).replace('T', ' '), v.status, v.ip ?? '']),
    ),
  );
}

export async function clone(s: Session, ref: string, name: string): Promise<void> {
  const body = await (await s.daemon()).post<{ uuid: string }>(vmPath(ref, '/clone'), { name }, s.out.reporting());
  s.out.done(body, `vm cloned with uuid ${body.uuid}`);
}

/** Asks on the terminal. Throws when nobody can answer: no terminal, or `-j`. */
async function confirmDelete(s: Session, refs: readonly string[]): Promise<boolean> {
  if (!process.stdin.isTTY || s.out.machine)
    throw new AnkaError('usage', `Deleting ${refs.join(', ')} requires confirmation: 'anka delete --yes ${refs.join(' ')}' confirms it.`);
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`Permanently delete ${refs.join(', ')}? [y/N] `);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim());
}

export async function deleteVms(s: Session, names: readonly string[], o: Selection & { yes?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['running', 'stopped', 'suspended', 'failed']);
  if (!o.yes && refs.length > 0 && !(await confirmDelete(s, refs))) return s.out.done({}, 'nothing was deleted');
  await forEachVm(s, refs, (ref) => daemon.delete(vmPath(ref), s.out.reporting(`${ref}: `)));
  s.out.done({});
}
