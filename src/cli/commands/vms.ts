/** Commands on whole VMs. */
import { isAbsolute, resolve } from 'node:path';
import { createInterface } from 'node:readline/promises';
import type { CreateRequest, VmDescribe, VmListEntry, VmShow } from '../../api/types.ts';
import { AnkaError } from '../../lib/errors.ts';
import { grid, pairs } from '../grid.ts';
import { type Session, vmPath } from '../session.ts';

const reporter = (s: Session, prefix = '') => ({ onProgress: (p: { step: string; fraction?: number }) => s.out.progress(`${prefix}${p.step}`, p.fraction) });

export interface CreateOptions {
  ramSize?: string;
  cpuCount?: string;
  diskSize?: string;
  app?: string;
}

function wholeNumber(option: string, text: string): number {
  if (!/^\d{1,6}$/.test(text)) throw new AnkaError('usage', `Invalid value for '${option}': '${text}' is not a valid integer.`);
  return Number(text);
}

export async function create(s: Session, name: string, o: CreateOptions): Promise<void> {
  const request: CreateRequest = {
    name,
    ...(o.ramSize === undefined ? {} : { ram_size: o.ramSize }),
    ...(o.cpuCount === undefined ? {} : { cpu_count: wholeNumber('-c', o.cpuCount) }),
    ...(o.diskSize === undefined ? {} : { disk_size: o.diskSize }),
    ...(o.app === undefined ? {} : { app: isAbsolute(o.app) ? o.app : resolve(o.app) }),
  };
  const body = await (await s.daemon()).post<{ uuid: string }>('/v1/vms', request, reporter(s));
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

/** One value of a VM: `ip`, `uuid`, `network ip`, … */
function bareValue(vm: VmShow, words: readonly string[]): unknown {
  let value: unknown = vm;
  for (const w of words) value = typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[w] : undefined;
  return value;
}

const FIELDS = [
  'uuid',
  'name',
  'creation_date',
  'cpu_cores',
  'ram',
  'hard_drive',
  'image_size',
  'status',
  'message',
  'ip',
  'mac',
  'network',
  'port_forwarding',
  'inactive_rules',
];
const NETWORK_FIELDS = ['type', 'bridge', 'ip', 'mac', 'inside_mac', 'address_source', 'healthy', 'limit'];

export async function show(s: Session, ref: string, words: readonly string[]): Promise<void> {
  const vm = await (await s.daemon()).get<VmShow>(vmPath(ref));
  if (words.length > 0) {
    const known =
      words[0] === 'network' && words.length <= 2
        ? words.length === 1 || NETWORK_FIELDS.includes(words[1] as string)
        : words.length === 1 && FIELDS.includes(words[0] as string);
    if (!known)
      throw new AnkaError(
        'usage',
        `No such property '${words.join(' ')}'. Known are ${FIELDS.join(', ')}, and network followed by one of ${NETWORK_FIELDS.join(', ')}.`,
      );
    const value = bareValue(vm, words);
    if (typeof value === 'object' && value !== null)
      return s.out.done(value, Array.isArray(value) ? rulesTable(vm) : pairs(Object.entries(value as Record<string, string>).map(([k, v]) => [k, String(v)])));
    return s.out.done(value ?? '', value === undefined ? '' : String(value));
  }
  s.out.done(vm, showText(vm));
}

function rulesTable(vm: VmShow): string {
  return grid(
    ['guest_port', 'host_port', 'protocol', 'name', 'host_ip'],
    vm.port_forwarding.map((r) => [r.guest_port, r.host_port, r.protocol, r.name, r.host_ip]),
  );
}

function humanBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let power = 0;
  let value = bytes;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power++;
  }
  return `${power === 0 || Number.isInteger(value) ? value : value.toFixed(1)} ${units[power]}`;
}

/** `show` for people: the VM, its network, and its rules as the seed page prints them. */
export function showText(vm: VmShow): string {
  const rows: [string, string][] = [
    ['uuid', vm.uuid],
    ['name', vm.name],
    ['creation_date', vm.creation_date.slice(0, 19).replace('T', ' ')],
    ['cpu_cores', String(vm.cpu_cores)],
    ['ram', vm.ram],
    ['hard_drive', `${humanBytes(vm.hard_drive)} (${humanBytes(vm.image_size)} on disk)`],
    ['status', vm.status],
  ];
  if (vm.message) rows.push(['message', vm.message]);
  if (vm.ip) rows.push(['ip', vm.ip]);
  if (vm.mac) rows.push(['mac', vm.mac]);
  const parts = [pairs(rows)];
  if (vm.network) {
    const n = vm.network;
    const network: [string, string][] = [['type', n.type]];
    if (n.bridge) network.push(['bridge', n.bridge]);
    if (n.inside_mac) network.push(['inside_mac', n.inside_mac]);
    if (n.address_source) network.push(['address', n.address_source]);
    if (vm.status === 'running') network.push(['healthy', n.healthy ? 'yes' : 'no']);
    if (n.limit) network.push(['limit', n.limit]);
    parts.push(`network\n\n${pairs(network)}`);
  }
  if (vm.port_forwarding.length > 0) parts.push(`port_forwarding\n\n${rulesTable(vm)}`);
  if (vm.inactive_rules) {
    const rules = vm.inactive_rules.map((r) => [r.name, r.reason] as const);
    parts.push(`inactive port_forwarding rules\n\n${grid(['name', 'reason'], rules)}`);
  }
  return parts.join('\n\n');
}

export async function describe(s: Session, ref: string): Promise<void> {
  const vm = await (await s.daemon()).get<VmDescribe>(vmPath(ref, '/config'));
  s.out.done(vm, JSON.stringify(vm, null, 2));
}

export interface ManyOptions {
  all?: boolean;
}

/** The VMs that a command names, or all of those states. */
async function chosen(s: Session, names: readonly string[], o: ManyOptions, states: readonly string[]): Promise<string[]> {
  if (o.all && names.length > 0) throw new AnkaError('usage', "Give VMs or '--all', not both.");
  if (!o.all && names.length === 0) throw new AnkaError('usage', "Missing argument 'VM...'.");
  if (!o.all) return [...names];
  return (await (await s.daemon()).get<VmListEntry[]>('/v1/vms')).filter((v) => states.includes(v.status)).map((v) => v.name);
}

/** Runs one thing on each VM; goes on after a failure, and fails with the first in the end. */
async function onEach(s: Session, refs: readonly string[], work: (ref: string) => Promise<unknown>): Promise<unknown> {
  let first: unknown;
  let last: unknown = {};
  for (const ref of refs) {
    try {
      last = await work(ref);
    } catch (cause) {
      if (refs.length > 1 && first !== undefined) s.out.note(`anka: ${(first as Error).message}`);
      first = cause;
    }
  }
  if (first !== undefined) throw first;
  return last;
}

export async function start(s: Session, names: readonly string[], o: ManyOptions): Promise<void> {
  const daemon = await s.daemon();
  const refs = await chosen(s, names, o, ['stopped', 'suspended', 'failed']);
  const body = await onEach(s, refs, (ref) =>
    daemon.post<VmShow>(
      vmPath(ref, '/start'),
      {},
      { onProgress: (p) => (p.step.startsWith('rule ') ? s.out.note(p.step) : s.out.progress(`${ref}: ${p.step}`, p.fraction)) },
    ),
  );
  s.out.done(
    refs.length === 1 ? body : {},
    refs.length === 1
      ? pairs([
          ['uuid', (body as VmShow).uuid],
          ['name', (body as VmShow).name],
          ['status', (body as VmShow).status],
        ])
      : `started ${refs.length} VMs`,
  );
}

export async function stop(s: Session, names: readonly string[], o: ManyOptions & { force?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await chosen(s, names, o, ['running', 'suspended']);
  await onEach(s, refs, (ref) => daemon.post(vmPath(ref, '/stop'), { force: o.force ?? false }, reporter(s, `${ref}: `)));
  s.out.done({});
}

export async function suspend(s: Session, names: readonly string[], o: ManyOptions): Promise<void> {
  const daemon = await s.daemon();
  const refs = await chosen(s, names, o, ['running']);
  await onEach(s, refs, (ref) => daemon.post(vmPath(ref, '/suspend'), {}, reporter(s, `${ref}: `)));
  s.out.done({});
}

export async function reboot(s: Session, names: readonly string[], o: ManyOptions & { force?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await chosen(s, names, o, ['running']);
  await onEach(s, refs, (ref) => daemon.post(vmPath(ref, '/reboot'), { force: o.force ?? false }, reporter(s, `${ref}: `)));
  s.out.done({});
}

export async function clone(s: Session, ref: string, name: string): Promise<void> {
  const body = await (await s.daemon()).post<{ uuid: string }>(vmPath(ref, '/clone'), { name }, reporter(s));
  s.out.done(body, `vm cloned with uuid ${body.uuid}`);
}

export async function remove(s: Session, names: readonly string[], o: ManyOptions & { yes?: boolean }): Promise<void> {
  const daemon = await s.daemon();
  const refs = await chosen(s, names, o, ['running', 'stopped', 'suspended', 'failed']);
  if (!o.yes && refs.length > 0) {
    if (!process.stdin.isTTY || s.out.machine) throw new AnkaError('usage', `Deleting ${refs.join(', ')} needs '--yes' where nobody can be asked.`);
    const ask = createInterface({ input: process.stdin, output: process.stderr });
    const answer = await ask.question(`Delete ${refs.join(', ')} for good? [y/N] `);
    ask.close();
    if (!/^y(es)?$/i.test(answer.trim())) return s.out.done({}, 'nothing was deleted');
  }
  await onEach(s, refs, (ref) => daemon.delete(vmPath(ref), reporter(s, `${ref}: `)));
  s.out.done({});
}
