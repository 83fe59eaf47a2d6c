/** `anka daemon status`, `stop` and `run`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, isRunning } from '../../api/client.ts';
import type { DaemonStatus } from '../../api/types.ts';
import { daemonCommand } from '../../host/daemon-program.ts';
import { daemonEnvironment } from '../../host/environment.ts';
import { type Paths, resolvePaths } from '../../host/paths.ts';
import { isAlive } from '../../host/process.ts';
import { monotonicMs } from '../../lib/clock.ts';
import { AnkaError } from '../../lib/errors.ts';
import { runInForeground } from '../foreground.ts';
import { pairs } from '../output/grid.ts';
import type { Session } from '../session.ts';

/** Pause between two looks at a process that is to exit, ms. */
const POLL_MS = 20;
/** The daemon ends itself after 3 s at the latest. */
const EXIT_LIMIT_MS = 20_000;

export async function daemonStatus(s: Session): Promise<void> {
  const daemon = await connect(resolvePaths(), { autostart: false });
  const status = await daemon.get<DaemonStatus>('/v1/status');
  s.out.done(status, pairs(Object.entries(status).map(([k, v]) => [k, String(v)])));
}

export async function daemonStop(s: Session): Promise<void> {
  const paths = resolvePaths();
  const pid = (await isRunning(paths)) ? await shutDown(paths) : await terminate(paths);
  if (pid === null) return s.out.done({}, 'the daemon is not running');
  const until = monotonicMs() + EXIT_LIMIT_MS;
  while (isAlive(pid)) {
    if (monotonicMs() > until) throw new AnkaError('daemon', `the daemon (pid ${pid}) does not exit; run 'kill -9 ${pid}': VMs and networks keep running`);
    await sleep(POLL_MS);
  }
  s.out.done({}, 'the daemon was stopped; VMs and networks keep running');
}

/** Returns the daemon's pid. */
async function shutDown(paths: Paths): Promise<number> {
  const daemon = await connect(paths, { autostart: false });
  const { pid } = await daemon.get<DaemonStatus>('/v1/status');
  await daemon.post('/v1/shutdown');
  return pid;
}

/** Ends a daemon that has no socket: it starts, or cannot listen. Returns its pid, or null. */
async function terminate(paths: Paths): Promise<number | null> {
  const { lockHolder } = await import('../../host/process-lock.ts');
  const pid = lockHolder(paths.lock);
  if (pid !== null) process.kill(pid, 'SIGTERM');
  return pid;
}

export async function daemonRun(s: Session): Promise<void> {
  const [node, ...argv] = daemonCommand();
  s.exit(await runInForeground(node, [...argv, '--foreground'], { env: daemonEnvironment(), endUnread: true, pkg: 'nodejs' }).status);
}
