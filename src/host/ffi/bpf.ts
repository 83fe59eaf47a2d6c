/** bpf(2): loads programs for tc, and reads which are attached to an interface. */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno, onLinux } from './koffi.ts';
import { setLimit } from './process.ts';

/** bpf(2) by machine, as Node names them. */
const SYS_BPF: Record<string, number> = { x64: 321, arm64: 280 };
const BPF_MAP_CREATE = 0;
const BPF_MAP_UPDATE_ELEM = 2;
const BPF_PROG_LOAD = 5;
const BPF_OBJ_GET_INFO_BY_FD = 15;
const BPF_PROG_QUERY = 16;
const BPF_MAP_FREEZE = 22;
const BPF_PROG_TYPE_SCHED_CLS = 3;
const BPF_MAP_TYPE_ARRAY = 2;
/** Programs only read the map. */
const BPF_F_RDONLY_PROG = 0x80;
/** In the second byte of a 64-bit load: its operands are a map's descriptor, and an offset in its value. */
const PSEUDO_MAP_VALUE = 2 << 4;
const MAX_NAME = 15;
const LOG_SIZE = 1 << 16;
/** Up to Linux 5.10 programs and maps count as locked memory of their user. */
const RLIMIT_MEMLOCK = 8;
const LOCKED_BYTES = 1 << 30;
const BPF_ATTR_SIZE = 120;
/** Bytes of the whole BPF_PROG_QUERY attribute: the kernel writes its last field whatever size it is given. */
const BPF_QUERY_SIZE = 64;
/** An attempt takes between 50 µs and, for our largest program, 50 ms. */
const LOAD_ATTEMPTS = 100;
const SIG_BLOCK = 0;
const SIG_SETMASK = 2;
/** Bytes of a sigset_t. */
const SIGNAL_SET = 128;
/** r0 = 0; exit */
const EMPTY_PROGRAM = Buffer.from('b7000000000000009500000000000000', 'hex');

/** A program for tc. */
export interface BpfCode {
  /** In the kernel; 15 characters of it count. */
  name: string;
  /** With a zero byte at its end. */
  license: Buffer;
  instructions: Buffer;
  /** What the program reads of constants; null for none. */
  data: Buffer | null;
  /** Loads of the address of `data`: the instruction's offset, and what is added to the offset that it has, bytes. */
  references: readonly { instruction: number; value: number }[];
}

interface BpfCalls {
  load(number: number, command: number, attributes: object, size: number): number;
  element(number: number, command: number, attributes: object, size: number): number;
  words(number: number, command: number, attributes: Uint32Array, size: number): number;
  query(number: number, command: number, attributes: object, size: number): number;
  info(number: number, command: number, attributes: object, size: number): number;
  signalMask(how: number, set: Uint8Array, old: Uint8Array | null): number;
}

const calls = declareOnce(({ koffi, func }): BpfCalls => {
  koffi.struct('anka_bpf_load', {
    type: 'uint32_t',
    count: 'uint32_t',
    instructions: 'uint8_t *',
    license: 'uint8_t *',
    logLevel: 'uint32_t',
    logSize: 'uint32_t',
    log: 'uint8_t *',
    kernelVersion: 'uint32_t',
    flags: 'uint32_t',
    name: koffi.array('uint8_t', 16),
    rest: koffi.array('uint8_t', BPF_ATTR_SIZE - 64),
  });
  koffi.struct('anka_bpf_element', { map: 'uint32_t', key: 'uint8_t *', value: 'uint8_t *', flags: 'uint64_t' });
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
    element: func('long syscall(long, int, anka_bpf_element *, uint32_t)'),
    words: func('long syscall(long, int, uint32_t *, uint32_t)'),
    query: func('long syscall(long, int, anka_bpf_query *, uint32_t)'),
    signalMask: func('int pthread_sigmask(int, uint8_t *, uint8_t *)'),
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

/** The result of a call. Throws `network` for errno below zero. `what`: the words that the message begins with. */
export function demandBpf(what: string, result: number): number {
  if (result < 0) throw new AnkaError('network', `${what} failed (${getSystemErrorName(result)})`);
  return result;
}

/**
 * Loads a program. Returns a descriptor, which the caller closes, or errno below zero. A load fails with EAGAIN while a
 * signal is pending, such as SIGCHLD or SIGIO at any time, so this thread takes none meanwhile: other threads do.
 * `log`: for the verifier's words.
 */
function load({ name, license, instructions }: Pick<BpfCode, 'name' | 'license' | 'instructions'>, log?: Buffer): number {
  const program = {
    ...{ type: BPF_PROG_TYPE_SCHED_CLS, count: instructions.length / 8, instructions, license },
    ...{ logLevel: log ? 1 : 0, logSize: log?.length ?? 0, log: log ?? null, kernelVersion: 0, flags: 0 },
    name: Buffer.from(name.slice(0, MAX_NAME).padEnd(MAX_NAME + 1, '\0'), 'latin1'),
    rest: new Uint8Array(BPF_ATTR_SIZE - 64),
  };
  return withoutSignals(() => {
    let fd = -constants.errno.EAGAIN;
    for (let attempt = 0; fd === -constants.errno.EAGAIN && attempt < LOAD_ATTEMPTS; attempt++)
      fd = bpf((c, number) => c.load(number, BPF_PROG_LOAD, program, BPF_ATTR_SIZE));
    return fd;
  });
}

/** Runs `work` while this thread takes no signal. */
function withoutSignals<T>(work: () => T): T {
  if (!onLinux) return work();
  const before = Buffer.alloc(SIGNAL_SET);
  calls().signalMask(SIG_BLOCK, Buffer.alloc(SIGNAL_SET, 0xff), before);
  try {
    return work();
  } finally {
    calls().signalMask(SIG_SETMASK, before, null);
  }
}

/** Why this kernel refuses an eBPF program for tc, or null if it accepts one. Loads an empty program to find out. */
export function ebpfRefusal(): string | null {
  if (!onLinux || SYS_BPF[process.arch] === undefined) return `eBPF is not supported on ${process.platform} ${process.arch}`;
  const fd = load({ name: '', license: Buffer.from('Apache-2.0\0'), instructions: EMPTY_PROGRAM });
  if (fd < 0) return `eBPF is not available (${getSystemErrorName(fd)})`;
  closeSync(fd);
  return null;
}

/**
 * Loads a program for tc. Returns a descriptor, which the caller closes. Throws `network` with the kernel's reason, and
 * for a program that it does not accept the last words of its verifier.
 */
export function loadBpf(code: BpfCode): number {
  const map = code.data === null ? null : constantsMap(code.data);
  try {
    const instructions = Buffer.from(code.instructions);
    for (const { instruction, value } of code.references) {
      instructions.writeUInt8((instructions[instruction + 1] ?? 0) | PSEUDO_MAP_VALUE, instruction + 1);
      instructions.writeInt32LE(instructions.readInt32LE(instruction + 4) + value, instruction + 12);
      instructions.writeInt32LE(map ?? -1, instruction + 4);
    }
    const linked = { ...code, instructions };
    const fd = withinLimits(() => load(linked));
    if (fd >= 0) return fd;
    throw new AnkaError('network', `the kernel does not load the eBPF program ${code.name} (${getSystemErrorName(fd)})${verifierWords(linked)}`);
  } finally {
    if (map !== null) closeSync(map);
  }
}

/** Tries again with more memory that may be locked. */
function withinLimits(create: () => number): number {
  const result = create();
  return result === -constants.errno.EPERM && setLimit(RLIMIT_MEMLOCK, LOCKED_BYTES) ? create() : result;
}

/** What the verifier says last of a program that it refuses, as a clause; empty if it says nothing. */
function verifierWords(code: BpfCode): string {
  const log = Buffer.alloc(LOG_SIZE);
  const fd = load(code, log);
  if (fd >= 0) closeSync(fd);
  const lines = log.toString('latin1', 0, log.indexOf(0)).trim().split('\n');
  const last = lines.findLast((l) => l !== '' && !/^(processed|verification time|stack depth) /.test(l));
  return last ? `: ${last}` : '';
}

/** A map with one element, which nobody can change any more. Returns its descriptor. */
function constantsMap(data: Buffer): number {
  const demand = (result: number): number => demandBpf('storing the constants of an eBPF program', result);
  const map = demand(withinLimits(() => callBpf(BPF_MAP_CREATE, BPF_MAP_TYPE_ARRAY, 4, data.length, 1, BPF_F_RDONLY_PROG)));
  try {
    const element = { map, key: Buffer.alloc(4), value: data, flags: 0 };
    demand(bpf((c, number) => c.element(number, BPF_MAP_UPDATE_ELEM, element, 32)));
    demand(callBpf(BPF_MAP_FREEZE, map));
  } catch (cause) {
    closeSync(map);
    throw cause;
  }
  return map;
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
