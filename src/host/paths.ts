/**
 * Paths of state and sockets. Root's daemon serves the host; other users have their own. `ANKA_HOME` moves everything
 * into one directory.
 */
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Paths {
  /** State that survives a reboot: database, disks, base image, leases, ssh key. */
  state: string;
  /** Sockets and pid files, emptied by a reboot. Kept short, as a unix socket path has at most 107 bytes. */
  run: string;
  /** The daemon's API socket. */
  socket: string;
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
  const root = uid === 0;
  const home = env['ANKA_HOME'];
  const state = home ?? (root ? '/var/lib/anka' : join(env['XDG_DATA_HOME'] || join(homedir(), '.local/share'), 'anka'));
  const run = home ? join(home, 'run') : root ? '/run/anka' : join(env['XDG_RUNTIME_DIR'] || join(tmpdir(), `anka-${uid}`), 'anka');
  return {
    state,
    run,
    socket: join(run, 'ankad.sock'),
    log: join(state, 'ankad.log'),
    database: join(state, 'anka.db'),
    vmState: (uuid) => join(state, 'vms', uuid),
    vmRun: (uuid) => join(run, 'vm', uuid.slice(0, 8)),
    baseImage: join(state, 'base'),
  };
}
