#!/usr/bin/env node
/**
 * `ankad`: the daemon.
 *
 * Theory of operation: it takes the lock, opens the database, adopts running VMs, and serves the API. VMs and networks
 * keep running when it exits, by a signal or by kill -9. Limits: one per state directory; a second one exits at once.
 */
import { mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import pino from 'pino';
import { EXIT_ALREADY_RUNNING } from '../api/client.ts';
import { createApp } from '../api/routes.ts';
import { serveApi } from '../api/server.ts';
import { LogFile } from '../host/log-file.ts';
import { type Paths, resolvePaths } from '../host/paths.ts';
import { AnkaError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { openDb } from '../store/db.ts';
import { RuleStore } from '../store/rules.ts';
import { SettingStore } from '../store/settings.ts';
import { VmStore } from '../store/vms.ts';
import { createMachineRunner } from '../vm/launch.ts';
import type { Context } from './context.ts';
import { CurrentEngine } from './current-engine.ts';
import { EventLog } from './events.ts';
import { takeLock } from './lock.ts';
import type { Log } from './log.ts';
import { Reconciler } from './reconcile.ts';
import { createService } from './service.ts';
import type { VmContext } from './vms/context.ts';
import { VmQueue } from './vms/queue.ts';
import { recoverVms } from './vms/recover.ts';

const HELP = `Usage: ankad [OPTIONS]

The daemon of the anka command. anka starts it when it is needed.

Options:
  --foreground  Log to standard output.
  --version     Print the version.
  --help        Show this message.
`;

/** The run directory of an ordinary user may be in /tmp, where another user could have created it first. */
function demandOwnDirectory(path: string): void {
  const s = statSync(path);
  if (s.uid !== process.getuid?.() || (s.mode & 0o022) !== 0)
    throw new AnkaError('noRights', `the directory ${path} must belong to you and be writable by you only; remove it, or set XDG_RUNTIME_DIR`);
}

/** Creates the directories of state and sockets. VMs' own users pass through them (mode 0711). */
function createDirectories(paths: Paths): void {
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  mkdirSync(join(paths.state, 'vms'), { recursive: true, mode: 0o711 });
  mkdirSync(paths.run, { recursive: true, mode: 0o711 });
  if (!process.env['ANKA_HOME'] && process.getuid?.() !== 0) for (const dir of [dirname(paths.run), paths.run]) demandOwnDirectory(dir);
  mkdirSync(join(paths.run, 'vm'), { recursive: true, mode: 0o711 });
}

function createContext(paths: Paths, log: Log): { ctx: VmContext; engine: CurrentEngine } {
  const db = openDb(paths.database);
  const settings = new SettingStore(db);
  const vms = new VmStore(db);
  const engine = new CurrentEngine(settings, { runDir: paths.run, stateDir: paths.state, log });
  const context: Context = {
    paths,
    log,
    vms,
    rules: new RuleStore(db),
    settings,
    runner: createMachineRunner(paths.state),
    machines: new Map(),
    starting: new Set(),
    events: new EventLog(log),
    engine: () => engine.get(),
  };
  const ctx = Object.assign(context, { reconciler: new Reconciler(context), queue: new VmQueue(vms), stopping: new Set<string>() });
  return { ctx, engine };
}

/** Stops the daemon: 50 ms later, so that the answer to a shutdown request is sent, and after 3 s at the latest. */
function shutdown(ctx: VmContext, engine: CurrentEngine): void {
  ctx.log.info({}, 'the daemon stops; VMs and networks keep running');
  for (const m of ctx.machines.values()) m.detach();
  const closed = engine.close().catch(() => {});
  void Promise.all([closed, new Promise((resolve) => setTimeout(resolve, 50))]).then(() => process.exit(0));
  setTimeout(() => process.exit(0), 3000).unref();
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes('--help')) return void process.stdout.write(HELP);
  if (args.includes('--version')) return void process.stdout.write(`${version()}\n`);
  const foreground = args.includes('--foreground');
  const paths = resolvePaths();
  createDirectories(paths);
  const log = pino({ level: process.env['ANKA_DEBUG'] ? 'debug' : 'info' }, foreground ? pino.destination({ dest: 1, sync: true }) : new LogFile(paths.log));
  const other = takeLock(join(paths.state, 'ankad.lock'));
  if (other !== null) {
    process.stderr.write(`ankad: another daemon is running (pid ${other})\n`);
    process.exit(EXIT_ALREADY_RUNNING);
  }
  const { ctx, engine } = createContext(paths, log);
  await recoverVms(ctx);
  const stop = (): void => shutdown(ctx, engine);
  const service = createService(ctx, { version: version(), started: Date.now(), shutdown: stop });
  await serveApi(createApp(service, version()), paths.socket);
  log.info({ pid: process.pid, socket: paths.socket }, 'the daemon is ready');
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  process.on('SIGHUP', () => {}); // the daemon outlives the terminal that started it
  // VMs and networks do not depend on the call that failed: the daemon continues
  process.on('uncaughtException', (cause) => log.error({ error: cause.stack }, 'unexpected error'));
  process.on('unhandledRejection', (cause) => log.error({ error: cause instanceof Error ? cause.stack : String(cause) }, 'unhandled rejection'));
}

main().catch((cause: Error) => {
  process.stderr.write(`ankad: ${cause.message}\n`);
  process.exit(1);
});
