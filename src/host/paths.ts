/**
 * Paths of state and sockets. Root's daemon serves the host; other users have their own. `ANKA_HOME` moves everything
 * into one directory.
 *
 * Theory of operation: the run directory follows from the state directory, so that every session finds the one daemon:
 * cron, su and ssh as well as a desktop. XDG_RUNTIME_DIR would not do: it is a variable of some sessions only, and its
 * directory is removed when the last of them ends, while VMs go on (docs/decisions/0025).
 */
import { createHash } from 'node:crypto';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Longest path of a unix socket, bytes. */
const MAX_SOCKET_PATH = 107;
/** The longest path of a socket in the run directory. */
const LONGEST_SOCKET = 'net-shared/control.sock.dial';

export interface Paths {
  /** State that survives a reboot: database, disks, base image, leases, ssh key. */
  state: string;
  /** Sockets and what is true until a reboot only. */
  run: string;
  /** The daemon's API socket. */
  socket: string;
  /** The daemon's lock file, which holds its pid. */
  lock: string;
  /** The daemon's log. */
  log: string;
  database: string;
  /** Directory of one VM's disks and saved memory. */
  vmState(uuid: string): string;
  /** Directory of one VM's sockets, named by the first eight digits of the UUID. */
  vmRun(uuid: string): string;
  baseImage: string;
}

/** The paths for this user and environment. Creates nothing. */
export function resolvePaths(env: NodeJS.ProcessEnv = process.env, uid: number = process.getuid?.() ?? 0): Paths {
  const home = env['ANKA_HOME'];
  const root = uid === 0 && !home;
  const state = home || (root ? '/var/lib/anka' : join(env['XDG_DATA_HOME'] || join(homedir(), '.local/share'), 'anka'));
  const run = root ? '/run/anka' : runDirectory(state, uid);
  return {
    state,
    run,
    socket: join(run, 'ankad.sock'),
    lock: join(state, 'ankad.lock'),
    log: join(state, 'ankad.log'),
    database: join(state, 'anka.db'),
    vmState: (uuid) => join(state, 'vms', uuid),
    vmRun: (uuid) => join(run, 'vm', uuid.slice(0, 8)),
    baseImage: join(state, 'base'),
  };
}

/** In the state directory; in /tmp, whatever TMPDIR says, if sockets there had paths that are too long. */
function runDirectory(state: string, uid: number): string {
  const run = join(state, 'run');
  if (Buffer.byteLength(join(run, LONGEST_SOCKET)) <= MAX_SOCKET_PATH) return run;
  return join('/tmp', `anka-${uid}`, createHash('sha256').update(state).digest('hex').slice(0, 8));
}
