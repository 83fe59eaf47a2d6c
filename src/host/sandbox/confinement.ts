/**
 * Drops, for good, the rights that a process which only forwards packets does not need.
 *
 * Theory of operation:
 * - it runs no program, and reads or traces no other process: a seccomp filter for all threads answers EPERM;
 * - it creates no process or thread (RLIMIT_NPROC), after all of Node's threads have started;
 * - it leaves no core dump, which would contain guests' packets (RLIMIT_CORE);
 * - it grows no file beyond 64 MiB (RLIMIT_FSIZE; Node ignores the signal and gets the error), unless it serves files;
 * - one that serves files creates no socket;
 * - it closes inherited descriptors, which are those that are not close-on-exec, as all of Node's are.
 *
 * The limit of open files stays: Node raises it to the user's hard limit.
 *
 * Limits: Linux on x86-64 and arm64. Access to files is restricted before the program starts (fence.ts); here it is
 * only checked.
 */
import { closeSync, readdirSync, readFileSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import type { BpfInstruction } from '../ffi/classic-bpf.ts';
import { dropPrivilegeGain, setLimit } from '../ffi/process.ts';
import { filterSystemCalls } from '../ffi/seccomp.ts';

/** Resources of setrlimit(2). */
const RLIMIT = { fileSize: 1, core: 4, processes: 6 } as const;
const CLOSE_ON_EXEC = 0o2000000;
const FILE_BYTES = 64 << 20;

/**
 * By machine, as Node names it: AUDIT_ARCH, and the numbers of system calls that run programs, access other processes,
 * or reach parts of the kernel that forwarding does not need.
 */
const MACHINES: Record<string, { arch: number; calls: Record<string, number> }> = {
  x64: {
    arch: 0xc000003e,
    calls: {
      ...{ execve: 59, execveat: 322, ptrace: 101, process_vm_readv: 310, process_vm_writev: 311, pidfd_getfd: 438 },
      ...{ unshare: 272, setns: 308, mount: 165, bpf: 321, perf_event_open: 298, userfaultfd: 323, add_key: 248, request_key: 249, keyctl: 250 },
    },
  },
  arm64: {
    arch: 0xc00000b7,
    calls: {
      ...{ execve: 221, execveat: 281, ptrace: 117, process_vm_readv: 270, process_vm_writev: 271, pidfd_getfd: 438 },
      ...{ unshare: 97, setns: 268, mount: 40, bpf: 280, perf_event_open: 241, userfaultfd: 282, add_key: 217, request_key: 218, keyctl: 219 },
    },
  },
};
/** System calls that create a socket. */
const SOCKET_CALLS: Record<string, readonly number[]> = { x64: [41, 53], arm64: [198, 199] };
/** System calls from here up belong to the x32 ABI, which would bypass the filter. */
const X32 = 0x40000000;

const [LOAD, EQUAL, AT_LEAST, RETURN] = [0x20, 0x15, 0x35, 0x06];
/** struct seccomp_data */
const DATA = { number: 0, arch: 4 } as const;
const ALLOW = 0x7fff0000;
const DENY = 0x00050001; // SECCOMP_RET_ERRNO with EPERM

/** What a process may do besides; by default what one that forwards packets needs. */
export interface Needs {
  /** Create sockets. */
  sockets: boolean;
  /** Write files of any size. */
  largeFiles: boolean;
}
const FORWARDS_PACKETS: Needs = { sockets: true, largeFiles: false };

/** The filter for a machine; empty if its system calls are unknown. */
export function callFilter(machine: string, needs: Needs = FORWARDS_PACKETS): BpfInstruction[] {
  const m = MACHINES[machine];
  if (!m) return [];
  const numbers = [...Object.values(m.calls), ...(needs.sockets ? [] : (SOCKET_CALLS[machine] ?? []))];
  const op = (code: number, k: number, jumpTrue = 0, jumpFalse = 0): BpfInstruction => ({ code, k, jumpTrue, jumpFalse });
  return [
    op(LOAD, DATA.arch),
    op(EQUAL, m.arch, 0, numbers.length + 3),
    op(LOAD, DATA.number),
    op(AT_LEAST, X32, numbers.length + 1),
    ...numbers.map((n, i) => op(EQUAL, n, numbers.length - i)),
    op(RETURN, ALLOW),
    op(RETURN, DENY),
  ];
}

/** Closes descriptors that an ancestor, such as a shell, left open. */
function closeInherited(): void {
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    if (fd <= 2) continue;
    try {
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
      if ((Number.parseInt(flags, 8) & CLOSE_ON_EXEC) === 0) closeSync(fd);
    } catch {
      // the descriptor by which the directory was read
    }
  }
}

/** Drops the rights. Returns the names of those that could not be dropped. */
export async function confine(needs: Needs = FORWARDS_PACKETS): Promise<string[]> {
  if (process.platform !== 'linux') return [];
  closeInherited();
  dropPrivilegeGain();
  await stat('/'); // starts all of libuv's threads
  const kept: string[] = [];
  if (!setLimit(RLIMIT.core, 0)) kept.push('core dumps');
  if (!needs.largeFiles && !setLimit(RLIMIT.fileSize, FILE_BYTES)) kept.push('large files');
  if (!setLimit(RLIMIT.processes, 0)) kept.push('processes');
  if (!filterSystemCalls(callFilter(process.arch, needs))) kept.push('system calls');
  if (
    await readdir('/').then(
      () => true,
      () => false,
    )
  )
    kept.push('files'); // by one of libuv's threads, which open files asynchronously
  return kept;
}
