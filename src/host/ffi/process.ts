/** What a process does to itself for good: its user, its capabilities, its limits, its program. */
import { AnkaError } from '../../lib/errors.ts';
import { declareOnce, errno, onLinux } from './koffi.ts';

const PR_SET_KEEPCAPS = 8;
const PR_SET_NO_NEW_PRIVS = 38;
const CAPABILITY_VERSION_3 = 0x20080522;
const F_SETFD = 2;

/** Capabilities, by number: to listen on ports below 1024, and to change the host's networking. */
export const CAPABILITY = { bindService: 10, netAdmin: 12 } as const;

interface ProcessCalls {
  fcntl(fd: number, command: number, argument: number): number;
  execve(path: string, argv: (string | null)[], environment: (string | null)[]): number;
}

interface LinuxProcessCalls {
  prctl(option: number, a: number, b: number, c: number, d: number): number;
  capset(header: Uint8Array, data: Uint8Array): number;
  setrlimit(resource: number, limits: BigUint64Array): number;
}

const calls = declareOnce(
  ({ func }): ProcessCalls => ({
    fcntl: func('int fcntl(int, int, int)'),
    execve: func('int execve(const char *, const char **, const char **)'),
  }),
);

const linuxCalls = declareOnce(
  ({ func }): LinuxProcessCalls => ({
    prctl: func('int prctl(int, unsigned long, unsigned long, unsigned long, unsigned long)'),
    capset: func('int capset(uint8_t *, uint8_t *)'),
    setrlimit: func('int setrlimit(int, uint64_t *)'),
  }),
);

/**
 * Turns root into an unprivileged user for good, and keeps the given capabilities(7) of this thread. Throws `internal`
 * if the kernel refuses, as in a container without that user id.
 */
export function becomeUser(uid: number, gid: number, capabilities: readonly number[]): void {
  if (!onLinux) throw new AnkaError('internal', `root cannot become user ${uid}: ${process.platform} has no capabilities`);
  try {
    linuxCalls().prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    process.setgroups?.([]);
    process.setgid?.(gid);
    process.setuid?.(uid);
  } catch (cause) {
    throw new AnkaError('internal', `root cannot become user ${uid}: ${(cause as Error).message}`, { cause });
  }
  const header = Buffer.alloc(8);
  header.writeUInt32LE(CAPABILITY_VERSION_3);
  const sets = Buffer.alloc(24); // effective, permitted, inheritable; low words, then high ones
  const kept = capabilities.reduce((bits, capability) => bits | (1 << capability), 0);
  for (const at of [0, 4]) sets.writeUInt32LE(kept, at);
  if (linuxCalls().capset(header, sets) < 0) throw new AnkaError('internal', `capset failed (errno ${errno()})`);
}

/** Denies this process, and every program it runs, new privileges (no_new_privs, prctl(2)). Does nothing on macOS. */
export function dropPrivilegeGain(): void {
  if (onLinux) linuxCalls().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

/** Sets both limits of a resource (setrlimit(2)) for this process; false on macOS, or if the kernel refuses. */
export function setLimit(resource: number, value: number): boolean {
  return onLinux && linuxCalls().setrlimit(resource, BigUint64Array.of(BigInt(value), BigInt(value))) === 0;
}

/**
 * Replaces this process by another program (execve(2)), which inherits the descriptors 0–2 and `more`: Node had set
 * them to close. Returns only on failure. Exit handlers do not run.
 */
export function becomeProgram(path: string, argv: readonly string[], environment: NodeJS.ProcessEnv, more: readonly number[] = []): void {
  const variables = Object.entries(environment).map(([name, value]) => `${name}=${value}`);
  for (const fd of [0, 1, 2, ...more]) calls().fcntl(fd, F_SETFD, 0);
  calls().execve(path, [...argv, null], [...variables, null]);
}
