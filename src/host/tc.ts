/**
 * Traffic control: eBPF programs at an interface's clsact hooks, in direct action mode.
 *
 * Theory of operation: a filter is identified by its direction, chain and preference. The kernel keeps the origin of
 * its program (`bpf_name`: the object file's name and the section) and a digest of its instructions (`tag`). Replacing
 * a filter is atomic: no frame passes between the old program and the new. Removing an interface removes all of it.
 *
 * Limits: clsact is shared with others (a CNI, a tracer), so callers remove it only if nobody else uses it.
 */
import { run } from './exec.ts';

/** `ingress`: frames that the host receives from the interface; `egress`: frames that it sends. */
export type TcDirection = 'ingress' | 'egress';

export interface BpfFilter {
  direction: TcDirection;
  /** Frames enter chain 0; others are reached only by a jump. */
  chain: number;
  /** 1–65535, lower ones first. */
  preference: number;
  /** Object file's name and section, as `x.o:[tc/name]`. */
  name: string;
  directAction: boolean;
  /** Digest of the program's instructions, 16 hex digits. */
  tag: string;
  /** Program id in the kernel. */
  id: number;
}

export interface BpfProgram {
  direction: TcDirection;
  /** 0 by default. */
  chain?: number;
  preference: number;
  /** Path of the ELF object; the kernel keeps its base name. */
  object: string;
  /** The program's section in it. */
  section: string;
}

const HANDLE = '1';

interface TcFilter {
  pref: number;
  chain?: number;
  kind: string;
  options?: { bpf_name?: string; 'direct-action'?: boolean; prog?: { id?: number; tag?: string } };
}

/** Adds clsact to an interface that lacks it. */
export async function ensureClsact(device: string): Promise<void> {
  if (await hasClsact(device)) return;
  await run('tc', ['qdisc', 'add', 'dev', device, 'clsact']);
}

/** Whether an interface has clsact, ours or another's. */
export async function hasClsact(device: string): Promise<boolean> {
  const found = JSON.parse((await run('tc', ['-j', 'qdisc', 'show', 'dev', device])) || '[]') as { kind: string }[];
  return found.some((q) => q.kind === 'clsact');
}

/** Removes clsact and every filter of it. */
export async function removeClsact(device: string): Promise<void> {
  if (await hasClsact(device)) await run('tc', ['qdisc', 'del', 'dev', device, 'clsact']);
}

/** Attaches a program, replacing the filter of its direction, chain and preference. */
export async function replaceBpfFilter(device: string, program: BpfProgram): Promise<void> {
  const { direction, chain = 0, preference, object, section } = program;
  await run('tc', [
    ...['filter', 'replace', 'dev', device, direction, 'chain', String(chain), 'pref', String(preference), 'handle', HANDLE],
    ...['bpf', 'direct-action', 'object-file', object, 'section', section],
  ]);
}

/** Removes the filter of this direction and preference from chain 0. */
export async function removeFilter(device: string, direction: TcDirection, preference: number): Promise<void> {
  await run('tc', ['filter', 'del', 'dev', device, direction, 'pref', String(preference)]);
}

/** eBPF filters of both directions, by interface, read by one process. Throws if an interface does not exist. */
export async function listBpfFilters(devices: readonly string[]): Promise<Map<string, BpfFilter[]>> {
  const hooks = devices.flatMap((device) => (['ingress', 'egress'] as const).map((direction) => ({ device, direction })));
  const found = new Map<string, BpfFilter[]>(devices.map((d) => [d, []]));
  if (hooks.length === 0) return found;
  const text = await run('tc', ['-j', '-batch', '-'], { input: hooks.map((h) => `filter show dev ${h.device} ${h.direction}\n`).join('') });
  // one array per input line
  const answers = text.split('\n').filter((l) => l.trim() !== '');
  for (const [i, { device, direction }] of hooks.entries()) {
    for (const f of JSON.parse(answers[i] ?? '[]') as TcFilter[]) {
      if (f.kind !== 'bpf' || !f.options) continue;
      found.get(device)?.push({
        direction,
        chain: f.chain ?? 0,
        preference: f.pref,
        name: f.options.bpf_name ?? '',
        directAction: f.options['direct-action'] ?? false,
        tag: f.options.prog?.tag ?? '',
        id: f.options.prog?.id ?? 0,
      });
    }
  }
  return found;
}

/** Whether an interface has any filter at clsact. */
export async function hasFilters(device: string): Promise<boolean> {
  for (const direction of ['ingress', 'egress']) if ((await run('tc', ['filter', 'show', 'dev', device, direction])).trim() !== '') return true;
  return false;
}
