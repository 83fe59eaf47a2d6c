/**
 * A fence around a process: files and folders that it may open, and no others (Landlock, landlock(7)).
 *
 * Theory of operation: what is not named cannot be opened, made, removed, cut off or run, whatever the user may. It
 * holds for the thread that asks and for all that comes from it, programs that it runs too: so a process with threads
 * is fenced as a whole only by running its program anew (fenced-main.ts). From ABI 6 on (Linux 6.12) it reaches no
 * abstract unix socket of a process outside, and sends none of them a signal.
 *
 * Limits: looking at a file's attributes, and connecting to a unix socket that has a path, are not restricted. What is
 * opened is: a descriptor from before stays.
 */
import { closeSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import { addLandlockRule, createLandlockRuleset, landlockAbi, restrictByLandlock } from '../ffi/landlock.ts';

/** LANDLOCK_ACCESS_FS_…, and the ABI with which each came. */
const EXECUTE = 1 << 0;
const WRITE_FILE = 1 << 1;
const READ_FILE = 1 << 2;
const READ_DIR = 1 << 3;
const REMOVE_FILE = 1 << 5;
const MAKE_REG = 1 << 8;
const MAKE_SOCK = 1 << 9;
const MAKE_SYM = 1 << 12;
const OF_ABI_1 = (1 << 13) - 1;
const REFER = 1 << 13; // 2
const TRUNCATE = 1 << 14; // 3
const IOCTL_DEV = 1 << 15; // 5
/** LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL, of ABI 6. */
const SCOPES = 3;
/** What a rule for a file may name; the rest is for folders. */
const OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
const O_PATH = 0o10000000;

const READ = READ_FILE | READ_DIR;
const RIGHTS = { read: READ, run: READ | EXECUTE, keep: READ | WRITE_FILE | TRUNCATE | REMOVE_FILE | MAKE_REG | MAKE_SOCK | MAKE_SYM } as const;

/** Paths of files and folders, each with all that is below it; those that are not there are passed over. */
export interface Openings {
  read: readonly string[];
  /** Read, and run as programs. */
  run: readonly string[];
  /**
   * Files, sockets and links in it are read, written, made, moved and removed; a link leads to no more than what may be
   * opened.
   */
  keep: readonly string[];
}

/**
 * What every program of ours needs of the system: its libraries, and what they and Node look up. All of it is readable
 * by all users anyway.
 */
export function systemOpenings(): Pick<Openings, 'read' | 'run'> {
  const mapped = new Set(readFileSync('/proc/self/maps', 'utf8').match(/\/.*$/gm) ?? []);
  return {
    run: ['/usr', '/lib', '/lib64', '/lib32', process.execPath, ...mapped],
    read: ['/etc', '/proc', '/sys/fs/cgroup', '/sys/devices/system/cpu', '/dev/null', '/dev/random', '/dev/urandom'],
  };
}

/**
 * Puts the fence up around this thread, for good; false where the kernel has none. It needs `dropPrivilegeGain` before.
 */
export function fence(openings: Openings): boolean {
  const abi = landlockAbi();
  if (abi < 1) return false;
  const handled = OF_ABI_1 | (abi >= 2 ? REFER : 0) | (abi >= 3 ? TRUNCATE : 0) | (abi >= 5 ? IOCTL_DEV : 0);
  const ruleset = createLandlockRuleset(abi, handled, abi >= 6 ? SCOPES : 0);
  if (ruleset < 0) return false;
  try {
    for (const [kind, paths] of Object.entries(openings)) {
      for (const path of paths) {
        if (!allow(ruleset, path, RIGHTS[kind as keyof Openings] & handled)) return false;
      }
    }
    return restrictByLandlock(ruleset);
  } finally {
    closeSync(ruleset);
  }
}

function allow(ruleset: number, path: string, rights: number): boolean {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | O_PATH);
  } catch {
    return true; // nothing there, nothing to be opened
  }
  try {
    return addLandlockRule(ruleset, fd, statSync(`/proc/self/fd/${fd}`).isDirectory() ? rights : rights & OF_FILES);
  } finally {
    closeSync(fd);
  }
}
