/**
 * Traffic control: eBPF programs at an interface's clsact hooks, in direct action mode.
 *
 * Theory of operation: a filter is known by its direction and preference. It tells where its program came from
 * (`bpf_name`, which is the object file's name and the section) and the digest of the program's instructions (`tag`).
 * Replacing one is atomic: no frame passes between the old program and the new. Limits: clsact is shared with others (a
 * CNI, a tracer), so it is removed only by who knows that nobody else uses it; an interface that goes takes all with
 * it.
 */
import { run } from './exec.ts';

/** `ingress`: what the host receives from the interface; `egress`: what it sends. */
export type TcDirection = 'ingress' | 'egress';

export interface BpfFilter {
  direction: TcDirection;
  /** Frames see only what is in chain 0; the rest is reached by a jump from there, if at all. */
  chain: number;
  /** Preference: lower ones come first, 1–65535. */
  preference: number;
  /** Object file's name and section, as `x.o:[tc/name]`. */
  name: string;
  directAction: boolean;
  /** Digest of the program's instructions, 16 hex digits. */
  tag: string;
  /** The program's number in the kernel. */
  id: number;
}

export interface BpfProgram {
  direction: TcDirection;
  /** 0 when not given. */
  chain?: number;
  preference: number;
  /** Path of the ELF object; its base name is kept by the kernel. */
  object: string;
  /** Section of the program in it. */
  section: string;
}

const HANDLE = '1';

interface TcFilter {
  pref: number;
  chain?: number;
  kind: string;
  options?: { bpf_name?: string; 'direct-action'?: boolean; prog?: { id?: number; tag?: string } };
}

/** Makes the hooks of an interface where they are missing. */
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

/** Attaches a program, in place of the one that has its direction, chain and preference. */
export async function replaceBpfFilter(device: string, program: BpfProgram): Promise<void> {
  const { direction, chain = 0, preference, object, section } = program;
  await run('tc', [
    ...['filter', 'replace', 'dev', device, direction, 'chain', String(chain), 'pref', String(preference), 'handle', HANDLE],
    ...['bpf', 'direct-action', 'object-file', object, 'section', section],
  ]);
}

/** Detaches what has this direction and preference, of chain 0. */
export async function removeFilter(device: string, direction: TcDirection, preference: number): Promise<void> {
  await run('tc', ['filter', 'del', 'dev', device, direction, 'pref', String(preference)]);
}

/** eBPF filters of both directions, by interface: one process for all. Throws when an interface is not there. */
export async function listBpfFilters(devices: readonly string[]): Promise<Map<string, BpfFilter[]>> {
  const asked = devices.flatMap((device) => (['ingress', 'egress'] as const).map((direction) => ({ device, direction })));
  const found = new Map<string, BpfFilter[]>(devices.map((d) => [d, []]));
  if (asked.length === 0) return found;
  const text = await run('tc', ['-j', '-batch', '-'], { input: asked.map((a) => `filter show dev ${a.device} ${a.direction}\n`).join('') });
  // one array per line asked
  const answers = text.split('\n').filter((l) => l.trim() !== '');
  for (const [i, { device, direction }] of asked.entries()) {
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

/** Whether clsact of an interface has any filter. */
export async function hasFilters(device: string): Promise<boolean> {
  for (const direction of ['ingress', 'egress']) if ((await run('tc', ['filter', 'show', 'dev', device, direction])).trim() !== '') return true;
  return false;
}
