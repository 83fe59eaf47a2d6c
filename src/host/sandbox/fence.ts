/**
 * Restricts a process to named files and directories (Landlock, landlock(7)).
 *
 * Theory of operation: files that are not named cannot be opened, created, removed, truncated or run, whatever the user
 * may do. The restriction is for the calling thread and its later children, programs included. So a process that has
 * threads already is restricted as a whole only by running its program again (fenced-main.ts). With ABI 6 and later
 * (Linux 6.12) the process also cannot connect to abstract unix sockets of other processes, or send them signals.
 *
 * Limits: reading a file's attributes and connecting to a unix socket with a path are not restricted. Descriptors that
 * were open before stay usable.
 */
import { closeSync, constants, openSync, readFileSync, statSync } from 'node:fs';
import { addLandlockRule, createLandlockRuleset, landlockAbi, restrictByLandlock } from '../ffi/landlock.ts';

/** LANDLOCK_ACCESS_FS_…; after ABI 1 with the ABI that introduced it. */
const EXECUTE = 1 << 0;
const WRITE_FILE = 1 << 1;
const READ_FILE = 1 << 2;
const READ_DIR = 1 << 3;
const REMOVE_DIR = 1 << 4;
const REMOVE_FILE = 1 << 5;
const MAKE_DIR = 1 << 7;
const MAKE_REG = 1 << 8;
const MAKE_SOCK = 1 << 9;
const MAKE_SYM = 1 << 12;
const ABI_1_RIGHTS = (1 << 13) - 1;
const REFER = 1 << 13; // 2
const TRUNCATE = 1 << 14; // 3
const IOCTL_DEV = 1 << 15; // 5
/** LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL, ABI 6. */
const SCOPES = 3;
/** Rights that a rule for a file may contain; the others are for directories. */
const FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
const O_PATH = 0o10000000;

const READ = READ_FILE | READ_DIR;
const WRITE = READ | WRITE_FILE | TRUNCATE | REMOVE_FILE | MAKE_REG | MAKE_SYM;
const RIGHTS = { read: READ, run: READ | EXECUTE, write: WRITE | MAKE_SOCK, tree: WRITE | MAKE_DIR | REMOVE_DIR | REFER } as const;

/** Paths of files and directories, with everything below them. Missing ones are skipped. */
export interface FileAccess {
  read: readonly string[];
  /** Readable, and executable as programs. */
  run: readonly string[];
  /**
   * Files, sockets and links below may be read, written, created, moved and removed. A link gives no access to its
   * target.
   */
  write: readonly string[];
  /** Files, links and directories below may be read, written, created, moved to another directory, and removed. */
  tree?: readonly string[];
}

/**
 * System files that each of our programs needs: libraries, and what they and Node read. All of them are readable by
 * every user anyway.
 */
export function systemAccess(): Pick<FileAccess, 'read' | 'run'> {
  const mapped = new Set(readFileSync('/proc/self/maps', 'utf8').match(/\/.*$/gm) ?? []);
  return {
    run: ['/usr', '/lib', '/lib64', '/lib32', process.execPath, ...mapped],
    read: ['/etc', '/proc', '/sys/fs/cgroup', '/sys/devices/system/cpu', '/dev/null', '/dev/random', '/dev/urandom'],
  };
}

/**
 * Restricts this thread for good; false if Landlock is not available. Call `dropPrivilegeGain` before.
 */
export function fence(access: FileAccess): boolean {
  const abi = landlockAbi();
  if (abi < 1) return false;
  const handled = ABI_1_RIGHTS | (abi >= 2 ? REFER : 0) | (abi >= 3 ? TRUNCATE : 0) | (abi >= 5 ? IOCTL_DEV : 0);
  const ruleset = createLandlockRuleset(abi, handled, abi >= 6 ? SCOPES : 0);
  if (ruleset < 0) return false;
  try {
    for (const [right, paths] of Object.entries(access)) {
      for (const path of paths) {
        if (!allow(ruleset, path, RIGHTS[right as keyof FileAccess] & handled)) return false;
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
    return true; // does not exist
  }
  try {
    return addLandlockRule(ruleset, fd, statSync(`/proc/self/fd/${fd}`).isDirectory() ? rights : rights & FILE_RIGHTS);
  } finally {
    closeSync(fd);
  }
}
