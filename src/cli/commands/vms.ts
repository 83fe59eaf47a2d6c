/** `anka create`, `list`, `clone` and `delete`. */
import { isAbsolute, resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import type { CreateRequest, VmListEntry } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { choice, integer } from '../arguments.ts';
import { grid } from '../output/grid.ts';
import { type Session, vmPath } from '../session.ts';
import { type CardOptions, cardRequest } from './modify/network-card.ts';
import { forEachVm, type Selection, selectVms } from './selection.ts';
import { tagPath } from './tags.ts';

/** ANKA_CREATE_SUSPEND: a guest has this long to boot, seconds. */
const BOOT_LIMIT_S = 600;

export interface CreateOptions {
  ramSize?: string;
  cpuCount?: string;
  diskSize?: string;
  app?: string;
  list?: boolean;
}

/** Variables of Anka that `create` reads, besides the settings. */
const VARIABLES_WITHOUT_EFFECT = {
  ANKA_DEFAULT_USER: "the guest's user is anka",
  ANKA_DEFAULT_PASSWD: "the password of the guest's user is admin",
} as const;

/** The card that the environment demands of a new VM; null if none. */
function cardOfEnvironment(env: NodeJS.ProcessEnv): CardOptions | null {
  const { ANKA_NETWORK_MODE: type, ANKA_NETWORK_CONTROLLER: controller, ANKA_VLAN: vlan } = env;
  const card: CardOptions = { ...(type ? { type } : {}), ...(controller ? { controller } : {}), ...(vlan ? { vlan } : {}) };
  return Object.keys(card).length > 0 ? card : null;
}

export async function create(s: Session, name: string | undefined, image: string | undefined, o: CreateOptions): Promise<void> {
  if (o.list) return s.out.done([]);
  if (name === undefined) throw new AnkaError('usage', "Missing argument 'NAME'.");
  const app = o.app ?? image;
  const request: CreateRequest = {
    name,
    ...(o.ramSize === undefined ? {} : { ram_size: o.ramSize }),
    ...(o.cpuCount === undefined ? {} : { cpu_count: integer('-c', o.cpuCount) }),
    ...(o.diskSize === undefined ? {} : { disk_size: o.diskSize }),
    ...(app === undefined ? {} : { app: isAbsolute(app) ? app : resolve(app) }),
  };
  const card = cardOfEnvironment(process.env);
  const cardRequested = card === null ? null : await cardRequest(card);
  for (const [variable, why] of Object.entries(VARIABLES_WITHOUT_EFFECT)) if (process.env[variable]) s.out.remark(`${variable} has no effect: ${why}`);
  const daemon = await s.daemon();
  const body = await daemon.post<{ uuid: string }>('/v1/vms', request, s.out.reporting());
  try {
    if (cardRequested !== null) await daemon.put(vmPath(body.uuid, '/network-card'), cardRequested, s.out.reporting());
    if (process.env['ANKA_CREATE_SUSPEND'] === '1') await suspendOnceBooted(s, body.uuid);
  } catch (cause) {
    await daemon.delete(vmPath(body.uuid));
    throw cause;
  }
  s.out.done(body, `vm created with uuid ${body.uuid}`);
}

/** ANKA_CREATE_SUSPEND: the new VM boots, and is suspended once its guest has an address. */
async function suspendOnceBooted(s: Session, uuid: string): Promise<void> {
  const daemon = await s.daemon();
  await daemon.post(vmPath(uuid, '/start'), {}, s.out.reporting());
  await daemon.post(vmPath(uuid, '/wait'), { until: 'ip', timeout: BOOT_LIMIT_S });
  await daemon.post(vmPath(uuid, '/suspend'), {}, s.out.reporting());
}

const FIELDS = ['name', 'uuid', 'creation_date', 'version', 'status', 'ip'] as const;
type Field = (typeof FIELDS)[number];

export interface ListOptions {
  running?: boolean;
  stopped?: boolean;
  /** `NAME[=VALUE]`, several separated by commas. */
  field?: string[];
}

/** The columns to show, and the values that VMs must have. */
function fieldsOf(o: ListOptions): { shown: Field[]; wanted: [Field, string][] } {
  const entries = (o.field ?? []).flatMap((f) => f.split(',')).map((f) => f.split('=') as [Field, string?]);
  for (const [name] of entries) choice('-f', name, FIELDS);
  const wanted = entries.filter((e): e is [Field, string] => e[1] !== undefined);
  return { shown: entries.map(([name]) => name), wanted };
}

/** Whether an entry is the VM that `ref` names, by UUID or by name in any letter case. */
const isVm = (v: VmListEntry, ref: string): boolean => v.uuid === ref.toLowerCase() || v.name.toLowerCase() === ref.toLowerCase();

export async function list(s: Session, refs: readonly string[], o: ListOptions): Promise<void> {
  const { shown, wanted } = fieldsOf(o);
  const all = await (await s.daemon()).get<VmListEntry[]>('/v1/vms');
  for (const ref of refs) if (!all.some((v) => isVm(v, ref))) throw new AnkaError('vmNotFound', `${ref}: not found`);
  const both = o.running && o.stopped;
  const vms = all.filter(
    (v) =>
      (refs.length === 0 || refs.some((ref) => isVm(v, ref))) &&
      (both || ((!o.running || v.status === 'running') && (!o.stopped || v.status !== 'running'))) &&
      wanted.every(([name, value]) => (v[name] ?? '') === value),
  );
  const columns = shown.length > 0 ? shown : FIELDS.filter((f) => f !== 'version' || vms.some((v) => v.version !== undefined));
  const cell = (v: VmListEntry, f: Field): string => (f === 'creation_date' ? v.creation_date.slice(0, 19).replace('T', ' ') : (v[f] ?? ''));
  s.out.done(
    shown.length === 0 ? vms : vms.map((v) => Object.fromEntries(shown.filter((f) => v[f] !== undefined).map((f) => [f, v[f]]))),
    grid(
      columns,
      vms.map((v) => columns.map((f) => cell(v, f))),
    ),
  );
}

export async function clone(s: Session, ref: string, names: readonly string[], o: { tag?: string }): Promise<void> {
  const daemon = await s.daemon();
  const targets = names.length > 0 ? names : [await freeCloneName(s, ref)];
  const made: { uuid: string }[] = [];
  for (const name of targets)
    made.push(await daemon.post<{ uuid: string }>(vmPath(ref, '/clone'), { name, ...(o.tag === undefined ? {} : { tag: o.tag }) }, s.out.reporting()));
  s.out.done(made.length === 1 ? made[0] : made, made.map((m) => `vm cloned with uuid ${m.uuid}`).join('\n'));
}

async function freeCloneName(s: Session, ref: string): Promise<string> {
  const vms = await (await s.daemon()).get<VmListEntry[]>('/v1/vms');
  const stem = `${(vms.find((v) => isVm(v, ref))?.name ?? ref).slice(0, 50)}-clone`;
  const taken = new Set(vms.map((v) => v.name.toLowerCase()));
  for (let i = 1; ; i++) {
    const name = i === 1 ? stem : `${stem}-${i}`;
    if (!taken.has(name.toLowerCase())) return name;
  }
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

export interface DeleteOptions extends Selection {
  yes?: boolean;
  /** Deletes only this local tag. */
  tag?: string;
}

export async function deleteVms(s: Session, names: readonly string[], o: DeleteOptions): Promise<void> {
  if (names.length === 0 && !o.all && s.out.hasRemarks) return s.out.done({});
  const daemon = await s.daemon();
  const refs = await selectVms(s, names, o, ['running', 'stopped', 'suspended', 'failed']);
  if (!o.yes && refs.length > 0 && !(await confirmDelete(s, refs))) return s.out.done({}, 'nothing was deleted');
  const ignoreAbsent = isOn(process.env['ANKA_DELETE_IGNORE_ABSENT']);
  await forEachVm(s, refs, async (ref) => {
    try {
      await daemon.delete(o.tag === undefined ? vmPath(ref) : tagPath(ref, o.tag), s.out.reporting(`${ref}: `));
    } catch (cause) {
      if (!ignoreAbsent || !(cause instanceof AnkaError) || cause.kind !== 'vmNotFound') throw cause;
    }
  });
  s.out.done({});
}

const isOn = (value: string | undefined): boolean => value !== undefined && !['', '0', 'false', 'no', 'off'].includes(value.toLowerCase());
