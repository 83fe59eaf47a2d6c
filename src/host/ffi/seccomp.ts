/** Filters system calls (seccomp(2)). */
import { type BpfInstruction, type ClassicProgram, classicProgram, declareClassicProgram } from './classic-bpf.ts';
import { declareOnce, onLinux } from './koffi.ts';

const SECCOMP_SET_MODE_FILTER = 1;
/** The filter is for every thread. Speculation stays allowed, which Linux before 5.16 would slow down. */
const SECCOMP_TSYNC_SPEC_ALLOW = 5;
/** seccomp(2) by machine, as Node names them. */
const SYS_SECCOMP: Record<string, number> = { x64: 317, arm64: 277 };

interface SeccompCalls {
  seccomp(number: number, operation: number, flags: number, program: ClassicProgram): number;
}

const calls = declareOnce(({ func }): SeccompCalls => {
  declareClassicProgram();
  return { seccomp: func('long syscall(long, unsigned int, unsigned int, sock_fprog *)') };
});

/**
 * Filters every system call of every thread from now on; false if the kernel refuses. Call `dropPrivilegeGain` before.
 */
export function filterSystemCalls(program: readonly BpfInstruction[]): boolean {
  const number = onLinux ? SYS_SECCOMP[process.arch] : undefined;
  return number !== undefined && calls().seccomp(number, SECCOMP_SET_MODE_FILTER, SECCOMP_TSYNC_SPEC_ALLOW, classicProgram(program)) === 0;
}
