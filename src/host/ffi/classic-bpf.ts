/** Programs of classic BPF, as packet sockets and seccomp(2) take them. */
import { declareOnce } from './koffi.ts';

/** One instruction, as `tcpdump -ddd` prints it. */
export interface BpfInstruction {
  code: number;
  jumpTrue: number;
  jumpFalse: number;
  k: number;
}

/** struct sock_fprog */
export interface ClassicProgram {
  len: number;
  filter: Uint8Array;
}

/** Makes `sock_fprog` known to koffi; call it before declaring a function that takes one. */
export const declareClassicProgram = declareOnce(({ koffi }) => koffi.struct('sock_fprog', { len: 'uint16_t', filter: 'uint8_t *' }));

export function classicProgram(instructions: readonly BpfInstruction[]): ClassicProgram {
  const filter = Buffer.alloc(instructions.length * 8);
  for (const [i, f] of instructions.entries()) {
    filter.writeUInt16LE(f.code, i * 8);
    filter[i * 8 + 2] = f.jumpTrue;
    filter[i * 8 + 3] = f.jumpFalse;
    filter.writeUInt32LE(f.k, i * 8 + 4);
  }
  return { len: instructions.length, filter };
}
