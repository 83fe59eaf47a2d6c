/**
 * eBPF programs at an interface's tcx hooks (Linux 6.6 and later). They run before tc's filters, and need no clsact,
 * which halts the interface's queue when it is added or removed.
 *
 * Theory of operation: bpf(2) directly. A program that is loaded as a filter of tc (tc.ts) is attached by its id,
 * without a link, so it stays when this process exits, and is removed with the interface. Ours is attached behind those
 * of others. A frame that a program passes goes to the next program, and then to tc's filters.
 *
 * Limits: opening a program by its id needs CAP_SYS_ADMIN in the host's own user namespace; without it tcx counts as
 * not available. The kernel sends no notification of attaching and detaching, so callers poll. Attaching and detaching
 * wait until no CPU runs the previous program: about 10 ms.
 */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { callBpf, demandBpf, describeBpf, queryBpf } from './ffi/bpf.ts';
import type { TcDirection } from './tc.ts';

export interface TcxProgram {
  id: number;
  /** Name of its function, at most 15 characters. */
  name: string;
}

const BPF_PROG_ATTACH = 8;
const BPF_PROG_DETACH = 9;
const BPF_PROG_GET_FD_BY_ID = 13;
/** Replace another program. */
const BPF_F_REPLACE = 4;
/** BPF_TCX_INGRESS and BPF_TCX_EGRESS. */
const ATTACH_TYPE: Record<TcDirection, number> = { ingress: 46, egress: 47 };
/** Most programs of one hook (BPF_MPROG_MAX). */
const MAX_PROGRAMS = 64;
/** Offsets of the name in struct bpf_prog_info. */
const NAME = 64;
const NAME_END = 80;

function idsAt(index: number, direction: TcDirection): number[] | null {
  const ids = new Uint32Array(MAX_PROGRAMS);
  return queryBpf(index, ATTACH_TYPE[direction], ids) < 0 ? null : [...ids].filter((id) => id !== 0);
}

/** Calls `use` with a descriptor of the program; null if there is no such program. */
function withProgram<T>(id: number, use: (fd: number) => T): T | null {
  const fd = callBpf(BPF_PROG_GET_FD_BY_ID, id, 0, 0);
  if (fd === -constants.errno.ENOENT) return null;
  demandBpf(`opening the eBPF program ${id}`, fd);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Whether the interface has the hooks, and we may use them. */
export function hasTcx(index: number): boolean {
  // no program has the id 0, so ENOENT means that we may open programs by id
  return idsAt(index, 'ingress') !== null && callBpf(BPF_PROG_GET_FD_BY_ID, 0, 0, 0) === -constants.errno.ENOENT;
}

/** Whether a program is attached. False if the interface does not exist. */
export function isAtTcx(index: number, direction: TcDirection, id: number): boolean {
  return idsAt(index, direction)?.includes(id) ?? false;
}

/** Attached programs, in the order in which frames pass them. Empty if the interface does not exist. */
export function listTcx(index: number, direction: TcDirection): TcxProgram[] {
  return (idsAt(index, direction) ?? []).flatMap((id) => {
    const info = Buffer.alloc(NAME_END);
    const described = withProgram(id, (fd) => demandBpf(`describing the eBPF program ${id}`, describeBpf(fd, info)));
    return described === null ? [] : [{ id, name: info.toString('latin1', NAME, info.indexOf(0, NAME)) }];
  });
}

/** Attaches a program: replaces `instead` atomically, or goes behind all others. */
export function attachTcx(index: number, direction: TcDirection, id: number, instead?: number): void {
  const attach = (fd: number, flags: number, replaced: number): number => callBpf(BPF_PROG_ATTACH, index, fd, ATTACH_TYPE[direction], flags, replaced, 0, 0, 0);
  const result = withProgram(id, (fd) => (instead === undefined ? attach(fd, 0, 0) : withProgram(instead, (replaced) => attach(fd, BPF_F_REPLACE, replaced))));
  demandBpf(`attaching an eBPF program at tcx ${direction}`, result ?? -constants.errno.ENOENT);
}

/** Detaches a program, if it is attached. */
export function detachTcx(index: number, direction: TcDirection, id: number): void {
  const result = withProgram(id, (fd) => callBpf(BPF_PROG_DETACH, index, fd, ATTACH_TYPE[direction], 0, 0, 0, 0, 0));
  if (result !== null && result !== -constants.errno.ENOENT) demandBpf(`detaching an eBPF program at tcx ${direction}`, result);
}
