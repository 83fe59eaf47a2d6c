/**
 * eBPF programs at an interface's tcx hooks, which Linux has since 6.6. They come before tc's filters, and take no
 * clsact, which halts the interface's queue when it is made or removed.
 *
 * Theory of operation: bpf(2) by hand, as tc does not know them. A program that the kernel has already (tc has loaded
 * it) is attached by its id, and without a link, so it stays when this process ends, and goes with the interface. Ours
 * is put behind what others have there. What a program passes is seen by the next, and then by tc's filters.
 *
 * Limits: asking for a program by its id takes CAP_SYS_ADMIN, in the host's own user namespace; without it there is no
 * tcx for us. The kernel tells nobody when one is attached or detached: whoever wants to know has to look. Attaching
 * and detaching wait until no CPU runs the program before: some 10 ms.
 */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { AnkaError } from '../lib/errors.ts';
import { callBpf, describeBpf, queryBpf } from './ffi/bpf.ts';
import type { TcDirection } from './tc.ts';

export interface TcxProgram {
  id: number;
  /** Name of its function, at most 15 characters. */
  name: string;
}

const BPF_PROG_ATTACH = 8;
const BPF_PROG_DETACH = 9;
const BPF_PROG_GET_FD_BY_ID = 13;
/** In place of another program. */
const BPF_F_REPLACE = 4;
/** BPF_TCX_INGRESS and BPF_TCX_EGRESS. */
const ATTACH_TYPE: Record<TcDirection, number> = { ingress: 46, egress: 47 };
/** Most programs of one hook (BPF_MPROG_MAX). */
const MOST = 64;
/** Where the name is in struct bpf_prog_info, and where it ends. */
const NAME = 64;
const NAME_END = 80;

function demand(what: string, result: number): number {
  if (result < 0) throw new AnkaError('network', `${what} failed (${getSystemErrorName(result)})`);
  return result;
}

function idsAt(index: number, direction: TcDirection): number[] | null {
  const ids = new Uint32Array(MOST);
  return queryBpf(index, ATTACH_TYPE[direction], ids) < 0 ? null : [...ids].filter((id) => id !== 0);
}

/** Calls `use` with a descriptor of the program; null when there is no such program. */
function withProgram<T>(id: number, use: (fd: number) => T): T | null {
  const fd = callBpf(BPF_PROG_GET_FD_BY_ID, id, 0, 0);
  if (fd === -constants.errno.ENOENT) return null;
  demand(`opening the eBPF program ${id}`, fd);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whether the interface of this index has the hooks, and we may use them. */
export function hasTcx(index: number): boolean {
  // no program has the id 0: who may not ask is told so first
  return idsAt(index, 'ingress') !== null && callBpf(BPF_PROG_GET_FD_BY_ID, 0, 0, 0) === -constants.errno.ENOENT;
}

/** Whether a program is there. False, too, when the interface is not. */
export function isAtTcx(index: number, direction: TcDirection, id: number): boolean {
  return idsAt(index, direction)?.includes(id) ?? false;
}

/** What is attached, in the order in which frames pass. Nothing when the interface is gone. */
export function listTcx(index: number, direction: TcDirection): TcxProgram[] {
  return (idsAt(index, direction) ?? []).flatMap((id) => {
    const info = Buffer.alloc(NAME_END);
    const told = withProgram(id, (fd) => demand(`looking at the eBPF program ${id}`, describeBpf(fd, info)));
    return told === null ? [] : [{ id, name: info.toString('latin1', NAME, info.indexOf(0, NAME)) }];
  });
}

/** Attaches a program, at once in place of `instead` where that is given, otherwise behind all that are there. */
export function attachTcx(index: number, direction: TcDirection, id: number, instead?: number): void {
  const attach = (fd: number, flags: number, replaced: number): number => callBpf(BPF_PROG_ATTACH, index, fd, ATTACH_TYPE[direction], flags, replaced, 0, 0, 0);
  const result = withProgram(id, (fd) => (instead === undefined ? attach(fd, 0, 0) : withProgram(instead, (replaced) => attach(fd, BPF_F_REPLACE, replaced))));
  demand(`attaching an eBPF program at tcx ${direction}`, result ?? -constants.errno.ENOENT);
}

/** Detaches a program; nothing happens where it is not attached. */
export function detachTcx(index: number, direction: TcDirection, id: number): void {
  const result = withProgram(id, (fd) => callBpf(BPF_PROG_DETACH, index, fd, ATTACH_TYPE[direction], 0, 0, 0, 0, 0));
  if (result !== null && result !== -constants.errno.ENOENT) demand(`detaching an eBPF program at tcx ${direction}`, result);
}
