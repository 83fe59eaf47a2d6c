/** `anka daemon status`, `stop` and `run`. */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect, isRunning } from '../../api/client.ts';
import type { DaemonStatus } from '../../api/types.ts';
import { ownProgram } from '../../host/own-program.ts';
import { resolvePaths } from '../../host/paths.ts';
import { isAlive } from '../../host/process.ts';
import { pairs } from '../output/grid.ts';
import type { Session } from '../session.ts';

/** Pause between two looks at a process that is to exit, ms. */
const POLL_MS = 20;

export async function daemonStatus(s: Session): Promise<void> {
  const daemon = await connect(resolvePaths(), { autostart: false });
  const status = await daemon.get<DaemonStatus>('/v1/status');
  s.out.done(status, pairs(Object.entries(status).map(([k, v]) => [k, String(v)])));
}

export async function daemonStop(s: Session): Promise<void> {
  const paths = resolvePaths();
  if (!(await isRunning(paths))) return s.out.done({}, 'the daemon is not running');
  const daemon = await connect(paths, { autostart: false });
  const { pid } = await daemon.get<DaemonStatus>('/v1/status');
  await daemon.post('/v1/shutdown');
  while (isAlive(pid)) await sleep(POLL_MS);
  s.out.done({}, 'the daemon was stopped; VMs and networks keep running');
}

export async function daemonRun(s: Session): Promise<void> {
  const [node, ...argv] = ownProgram(new URL('../../daemon/main.ts', import.meta.url));
  const child = spawn(node, [...argv, '--foreground'], { stdio: 'inherit' });
  process.on('SIGINT', () => {}); // the terminal signals the daemon too, and anka waits for its status
  s.exit(await new Promise<number>((resolve) => child.once('exit', (code) => resolve(code ?? 1))));
}
