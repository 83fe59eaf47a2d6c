/** bpf(2): whether eBPF is available, and the programs attached to an interface. */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { declareOnce, errno, onLinux } from './koffi.ts';

/** bpf(2) by machine, as Node names them. */
const SYS_BPF: Record<string, number> = { x64: 321, arm64: 280 };
const BPF_PROG_LOAD = 5;
const BPF_OBJ_GET_INFO_BY_FD = 15;
const BPF_PROG_QUERY = 16;
const BPF_PROG_TYPE_SCHED_CLS = 3;
const BPF_ATTR_SIZE = 120;
/** Bytes of the whole BPF_PROG_QUERY attribute: the kernel writes its last field whatever size it is given. */
const BPF_QUERY_SIZE = 64;
/** An attempt takes about 50 µs. */
const LOAD_ATTEMPTS = 100;
/** r0 = 0; exit */
const EMPTY_PROGRAM = Buffer.from('b7000000000000009500000000000000', 'hex');

interface BpfCalls {
  load(number: number, command: number, attributes: object, size: number): number;
  words(number: number, command: number, attributes: Uint32Array, size: number): number;
  query(number: number, command: number, attributes: object, size: number): number;
  info(number: number, command: number, attributes: object, size: number): number;
}

const calls = declareOnce(({ koffi, func }): BpfCalls => {
  koffi.struct('anka_bpf_load', {
    type: 'uint32_t',
    count: 'uint32_t',
    instructions: 'uint8_t *',
    license: 'const char *',
    rest: koffi.array('uint8_t', BPF_ATTR_SIZE - 24),
  });
  koffi.struct('anka_bpf_query', {
    index: 'uint32_t',
    type: 'uint32_t',
    queryFlags: 'uint32_t',
    attachFlags: 'uint32_t',
    ids: 'uint32_t *',
    count: 'uint32_t',
    rest: koffi.array('uint8_t', BPF_QUERY_SIZE - 28),
  });
  koffi.struct('anka_bpf_info', { fd: 'uint32_t', size: 'uint32_t', info: 'uint8_t *' });
  return {
    load: func('long syscall(long, int, anka_bpf_load *, uint32_t)'),
    words: func('long syscall(long, int, uint32_t *, uint32_t)'),
    query: func('long syscall(long, int, anka_bpf_query *, uint32_t)'),
    info: func('long syscall(long, int, anka_bpf_info *, uint32_t)'),
  };
});

/** Result of bpf(2), or errno below zero. */
function bpf(call: (c: BpfCalls, number: number) => number): number {
  const number = SYS_BPF[process.arch];
  if (!onLinux || number === undefined) return -constants.errno.ENOSYS;
  const result = call(calls(), number);
  return result < 0 ? -errno() : result;
}

/**
 * Why this kernel refuses an eBPF program for tc, or null if it accepts one. Loads an empty program to find out. A load
 * fails with EAGAIN while a signal is pending, such as SIGCHLD at any time: that is no refusal, and it is retried.
 */
export function ebpfRefusal(): string | null {
  if (!onLinux || SYS_BPF[process.arch] === undefined) return `eBPF is not supported on ${process.platform} ${process.arch}`;
  const program = {
    type: BPF_PROG_TYPE_SCHED_CLS,
    count: EMPTY_PROGRAM.length / 8,
    instructions: EMPTY_PROGRAM,
    license: 'Apache-2.0',
    rest: new Uint8Array(BPF_ATTR_SIZE - 24),
  };
  let fd = -constants.errno.EAGAIN;
  for (let attempt = 0; fd === -constants.errno.EAGAIN && attempt < LOAD_ATTEMPTS; attempt++)
    fd = bpf((c, number) => c.load(number, BPF_PROG_LOAD, program, BPF_ATTR_SIZE));
  if (fd < 0) return `eBPF is not available (${getSystemErrorName(fd)})`;
  closeSync(fd);
  return null;
}

/**
 * Calls bpf(2) with an attribute of 32-bit numbers. Returns its result (the caller closes a descriptor), or errno below
 * zero.
 */
export function callBpf(command: number, ...words: readonly number[]): number {
  const attributes = Uint32Array.from(words);
  return bpf((c, number) => c.words(number, command, attributes, attributes.byteLength));
}

/**
 * Writes the ids of the programs at a hook of an interface to `ids`, in their order; unused elements are left as they
 * are. Returns 0, or errno below zero.
 */
export function queryBpf(interfaceIndex: number, attachType: number, ids: Uint32Array): number {
  const rest = new Uint8Array(BPF_QUERY_SIZE - 28);
  const attributes = { index: interfaceIndex, type: attachType, queryFlags: 0, attachFlags: 0, ids, count: ids.length, rest };
  return bpf((c, number) => c.query(number, BPF_PROG_QUERY, attributes, BPF_QUERY_SIZE));
}

/** Writes the beginning of a program's struct bpf_prog_info to `info`. Returns 0, or errno below zero. */
export function describeBpf(fd: number, info: Uint8Array): number {
  return bpf((c, number) => c.info(number, BPF_OBJ_GET_INFO_BY_FD, { fd, size: info.length, info }, 16));
}
