/**
 * Classic BPF as `tcpdump -ddd` compiles it: whether a frame matches a filter.
 *
 * Limits: no ancillary data (loads at offsets from 2^31 up), which a compiler without an interface does not use. Such a
 * load rejects the frame, as does every load beyond its end. See bpf(4).
 */

/** One instruction. */
export interface FilterInstruction {
  code: number;
  jumpTrue: number;
  jumpFalse: number;
  k: number;
}

const CLASS = { ld: 0, ldx: 1, st: 2, stx: 3, alu: 4, jmp: 5, ret: 6, misc: 7 } as const;
const SIZES: Record<number, number> = { 0: 4, 8: 2, 16: 1 };
const MODE = { immediate: 0x00, absolute: 0x20, indirect: 0x40, memory: 0x60, length: 0x80, msh: 0xa0 } as const;
const SCRATCH = 16;
/** Upper bound of executed instructions; jumps only go forward. */
const STEPS = 65_536;

/** Big-endian value of `size` bytes, or null beyond the end. */
function load(frame: Uint8Array, at: number, size: number): number | null {
  if (at < 0 || at + size > frame.length) return null;
  let value = 0;
  for (let i = at; i < at + size; i++) value = value * 256 + (frame[i] as number);
  return value;
}

/** Result of an arithmetic instruction; null for a division by zero or an unknown operation. */
function calculate(operation: number, a: number, b: number): number | null {
  switch (operation) {
    case 0x00:
      return (a + b) >>> 0;
    case 0x10:
      return (a - b) >>> 0;
    case 0x20:
      return Math.imul(a, b) >>> 0;
    case 0x30:
      return b === 0 ? null : Math.floor(a / b);
    case 0x40:
      return (a | b) >>> 0;
    case 0x50:
      return (a & b) >>> 0;
    case 0x60:
      return b > 31 ? 0 : (a << b) >>> 0;
    case 0x70:
      return b > 31 ? 0 : a >>> b;
    case 0x80:
      return -a >>> 0;
    case 0x90:
      return b === 0 ? null : a % b;
    case 0xa0:
      return (a ^ b) >>> 0;
    default:
      return null;
  }
}

/** Whether a conditional jump is taken; null for an unknown operation. */
function compare(operation: number, a: number, b: number): boolean | null {
  switch (operation) {
    case 0x10:
      return a === b;
    case 0x20:
      return a > b;
    case 0x30:
      return a >= b;
    case 0x40:
      return (a & b) !== 0;
    default:
      return null;
  }
}

/** Whether a frame matches the filter; an empty one matches everything. `length` is its length on the wire. */
export function passes(filter: readonly FilterInstruction[], frame: Uint8Array, length = frame.length): boolean {
  if (filter.length === 0) return true;
  const memory = new Array<number>(SCRATCH).fill(0);
  let a = 0;
  let x = 0;
  let at = 0;
  for (let steps = 0; steps < STEPS; steps++) {
    const i = filter[at++];
    if (i === undefined) return false;
    const operand = (i.code & 0x08) !== 0 ? x : i.k;
    switch (i.code & 7) {
      case CLASS.ld:
      case CLASS.ldx: {
        const value = loaded(i, frame, length, x, memory);
        if (value === null) return false;
        if ((i.code & 7) === CLASS.ld) a = value;
        else x = value;
        break;
      }
      case CLASS.st:
        memory[i.k & 15] = a;
        break;
      case CLASS.stx:
        memory[i.k & 15] = x;
        break;
      case CLASS.alu: {
        const value = calculate(i.code & 0xf0, a, operand);
        if (value === null) return false;
        a = value;
        break;
      }
      case CLASS.jmp: {
        if ((i.code & 0xf0) === 0) {
          at += i.k;
          break;
        }
        const taken = compare(i.code & 0xf0, a, operand);
        if (taken === null) return false;
        at += taken ? i.jumpTrue : i.jumpFalse;
        break;
      }
      case CLASS.ret:
        return ((i.code & 0x18) === 0x10 ? a : i.k) !== 0;
      default:
        if ((i.code & 0xf8) === 0) x = a;
        else a = x;
    }
  }
  return false;
}

/** Value of a load instruction; null beyond the frame's end. */
function loaded(i: FilterInstruction, frame: Uint8Array, length: number, x: number, memory: readonly number[]): number | null {
  const size = SIZES[i.code & 0x18] ?? 4;
  switch (i.code & 0xe0) {
    case MODE.immediate:
      return i.k;
    case MODE.absolute:
      return load(frame, i.k, size);
    case MODE.indirect:
      return load(frame, (x + i.k) >>> 0, size);
    case MODE.memory:
      return memory[i.k & 15] as number;
    case MODE.length:
      return length;
    case MODE.msh: {
      const byte = load(frame, i.k, 1);
      return byte === null ? null : (byte & 15) * 4;
    }
    default:
      return null;
  }
}
