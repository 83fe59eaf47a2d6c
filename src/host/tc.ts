/**
 * Traffic control: eBPF programs at an interface's clsact hooks, in direct action mode.
 *
 * Theory of operation: a filter is identified by its direction, chain and preference. The kernel keeps the origin of
 * its program (`bpf_name`: the object file's name and the section) and a digest of its instructions (`tag`). Replacing
 * a filter is atomic: no frame passes between the old program and the new. Removing an interface removes all of it.
 *
 * Limits: clsact is shared with others (a CNI, a tracer), so callers remove it only if nobody else uses it.
 */
import { closeSync } from 'node:fs';
import { AnkaError } from '../lib/errors.ts';
import { type BpfCode, loadBpf } from './ffi/bpf.ts';
import { readLinks } from './netlink/link-messages.ts';
import { reasonOf } from './netlink/netlink.ts';
import { addClsact, deleteClsact, deleteFilters, readFilters, readQdiscs, replaceFilter } from './netlink/tc-messages.ts';

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
  /** As `BpfFilter`. */
  name: string;
  code: BpfCode;
}

const DIRECTIONS = ['ingress', 'egress'] as const;

/** Adds clsact to an interface that lacks it. */
export async function ensureClsact(device: string): Promise<void> {
  const { index, present } = clsactOf(device);
  if (!present) attempt(`adding clsact to ${device}`, () => addClsact(index));
}

/** Whether an interface has clsact, ours or another's. Throws if it does not exist. */
export async function hasClsact(device: string): Promise<boolean> {
  return clsactOf(device).present;
}

/** Removes clsact and every filter of it. */
export async function removeClsact(device: string): Promise<void> {
  const { index, present } = clsactOf(device);
  if (present) attempt(`removing clsact from ${device}`, () => deleteClsact(index));
}

function clsactOf(device: string): { index: number; present: boolean } {
  const index = indexOf(device, interfaceIndexes());
  return { index, present: readQdiscs().some((q) => q.index === index && q.kind === 'clsact') };
}

/** Loads and attaches a program, replacing the filter of its direction, chain and preference. */
export async function replaceBpfFilter(device: string, { direction, chain = 0, preference, name, code }: BpfProgram): Promise<void> {
  const index = indexOf(device, interfaceIndexes());
  const program = loadBpf(code);
  try {
    attempt(`attaching ${name} to ${device}`, () => replaceFilter({ index, hook: direction, chain, preference, name, program }));
  } finally {
    closeSync(program);
  }
}

/** Removes the filter of this direction and preference from chain 0. */
export async function removeFilter(device: string, direction: TcDirection, preference: number): Promise<void> {
  attempt(`removing a filter from ${device}`, () => deleteFilters(indexOf(device, interfaceIndexes()), direction, preference));
}

/** eBPF filters of both directions, by interface. Throws if an interface does not exist. */
export async function listBpfFilters(devices: readonly string[]): Promise<Map<string, BpfFilter[]>> {
  const indexes = interfaceIndexes();
  return new Map(devices.map((device) => [device, DIRECTIONS.flatMap((direction) => bpfFiltersAt(indexOf(device, indexes), direction))]));
}

function bpfFiltersAt(index: number, direction: TcDirection): BpfFilter[] {
  return readFilters(index, direction).flatMap(({ preference, chain, bpf }) => (bpf ? [{ direction, chain, preference, ...bpf }] : []));
}

/** Whether an interface has any filter at clsact. Throws if it does not exist. */
export async function hasFilters(device: string): Promise<boolean> {
  const index = indexOf(device, interfaceIndexes());
  return DIRECTIONS.some((direction) => readFilters(index, direction).length > 0);
}

/** `what`: in words that an error begins with. */
function attempt(what: string, change: () => void): void {
  try {
    change();
  } catch (cause) {
    throw new AnkaError('network', `${what}: ${reasonOf(cause)}`, { cause });
  }
}

/** Indexes of all interfaces, by name. */
const interfaceIndexes = (): Map<string, number> => new Map(readLinks().map((l) => [l.name, l.index]));

function indexOf(device: string, indexes: ReadonlyMap<string, number>): number {
  const index = indexes.get(device);
  if (index === undefined) throw new AnkaError('network', `interface ${device} does not exist`);
  return index;
}
