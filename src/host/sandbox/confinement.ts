/**
 * A process that will only move packets gives up, for good, what it does not need for that.
 *
 * Theory of operation: no program may be run, and no other process looked into or followed (a seccomp filter for all
 * threads, with EPERM as the answer); no process or thread is made any more (RLIMIT_NPROC; Node's own threads are there
 * before); memory is never written to disk when the process crashes, as guests' packets are in it (RLIMIT_CORE); no
 * file grows beyond 64 MiB (RLIMIT_FSIZE; Node takes the error instead of the signal). The debugger that Node opens on
 * SIGUSR1 stays shut. What was inherited is closed: those descriptors that are not close-on-exec, as all of Node's are,
 * and those below 16 that it finds at its start. Open files need nothing: Node raises that limit to what the user may
 * have. Limits: Linux on x86-64 and arm64. Which files may be opened is not this file's: the fence (fence.ts) is there
 * before the program; here it is only seen whether it is.
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
 * AUDIT_ARCH of a machine, as Node names it, and its numbers of calls that run programs, reach into other processes, or
 * open parts of the kernel that packets do not need.
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
/** Calls from here up are those of the x32 ABI, which would be a way round. */
const X32 = 0x40000000;

const [LOAD, EQUAL, AT_LEAST, RETURN] = [0x20, 0x15, 0x35, 0x06];
/** struct seccomp_data */
const DATA = { number: 0, arch: 4 } as const;
const ALLOW = 0x7fff0000;
const REFUSE = 0x00050001; // SECCOMP_RET_ERRNO with EPERM

/** The filter for a machine; empty where its calls are not known. */
export function callFilter(machine: string): BpfInstruction[] {
  const m = MACHINES[machine];
  if (!m) return [];
  const numbers = Object.values(m.calls);
  const op = (code: number, k: number, jumpTrue = 0, jumpFalse = 0): BpfInstruction => ({ code, k, jumpTrue, jumpFalse });
  return [
    op(LOAD, DATA.arch),
    op(EQUAL, m.arch, 0, numbers.length + 3),
    op(LOAD, DATA.number),
    op(AT_LEAST, X32, numbers.length + 1),
    ...numbers.map((n, i) => op(EQUAL, n, numbers.length - i)),
    op(RETURN, ALLOW),
    op(RETURN, REFUSE),
  ];
}

/** Descriptors that a shell had open when it began what began us. Node passes on those above a gap. */
function closeInherited(): void {
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    if (fd <= 2) continue;
    try {
      const flags = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
      if ((Number.parseInt(flags, 8) & CLOSE_ON_EXEC) === 0) closeSync(fd);
    } catch {
      // that by which the folder was read
    }
  }
}

/** Gives it up; the names of what this system did not let us give up. */
export async function confine(): Promise<string[]> {
  process.on('SIGUSR1', () => {});
  if (process.platform !== 'linux') return [];
  closeInherited();
  dropPrivilegeGain();
  await stat('/'); // this makes all of libuv's threads
  const kept: string[] = [];
  if (!setLimit(RLIMIT.core, 0)) kept.push('core dumps');
  if (!setLimit(RLIMIT.fileSize, FILE_BYTES)) kept.push('large files');
  if (!setLimit(RLIMIT.processes, 0)) kept.push('processes');
  if (!filterSystemCalls(callFilter(process.arch))) kept.push('system calls');
  if (
    await readdir('/').then(
      () => true,
      () => false,
    )
  )
    kept.push('files'); // by one of libuv's threads, as all that is opened without waiting
  return kept;
}
