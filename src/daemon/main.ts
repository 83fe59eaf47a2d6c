#!/usr/bin/env -S node --max-semi-space-size=1 --optimize-for-size --single-threaded-gc --v8-pool-size=1
/**
 * `ankad`: the daemon.
 *
 * Theory of operation: it takes the lock, opens the database, adopts running VMs, and serves the API. VMs and networks
 * keep running when it exits, by a signal or by kill -9. SIGTERM and SIGINT stop it; so does SIGHUP where it runs in
 * the foreground of a terminal. Elsewhere SIGHUP does nothing, and neither do SIGUSR1 and SIGUSR2. Limits: one per
 * state directory; a second one exits at once.
 */
import '../host/no-debugger.ts';
import { spawn } from 'node:child_process';
import { mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { isatty } from 'node:tty';
import pino from 'pino';
import { EXIT_ALREADY_RUNNING, isRunning } from '../api/client.ts';
import { createApp } from '../api/routes.ts';
import { ApiServer } from '../api/server.ts';
import { daemonCommand } from '../host/daemon-program.ts';
import { daemonEnvironment } from '../host/environment.ts';
import { LogFile, standardOutput } from '../host/log-file.ts';
import { type Paths, resolvePaths } from '../host/paths.ts';
import { lockHolder, ProcessLock } from '../host/process-lock.ts';
import { surviveUnexpectedErrors } from '../host/unexpected-errors.ts';
import { monotonicMs } from '../lib/clock.ts';
import { AnkaError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { openDb } from '../store/db.ts';
import { LabelStore } from '../store/labels.ts';
import { MountStore } from '../store/mounts.ts';
import { RuleStore } from '../store/rules.ts';
import { SettingStore } from '../store/settings.ts';
import { TagStore } from '../store/tags.ts';
import { VmStore } from '../store/vms.ts';
import { createMachineRunner } from '../vm/launch.ts';
import type { Context } from './context.ts';
import { CurrentEngine } from './current-engine.ts';
import { EventLog } from './events.ts';
import { keepInPlace } from './keep-in-place.ts';
import type { Log } from './log.ts';
import { Reconciler } from './reconcile.ts';
import { createService } from './service.ts';
import { StartGate } from './start-gate.ts';
import { repairCards } from './vms/card-repair.ts';
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

/** In /tmp another user could have created the directory first. */
function demandOwnDirectory(path: string): void {
  const s = statSync(path);
  if (s.uid !== process.getuid?.() || (s.mode & 0o022) !== 0)
    throw new AnkaError('noRights', `the directory ${path} must belong to you and be writable by you only; remove it, or set ANKA_HOME to a short path`);
}

/** Creates the directories of state and sockets. VMs' own users pass through them (mode 0711). */
function createDirectories(paths: Paths): void {
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  mkdirSync(join(paths.state, 'vms'), { recursive: true, mode: 0o711 });
  mkdirSync(paths.run, { recursive: true, mode: 0o711 });
  if (paths.run.startsWith('/tmp/')) for (const dir of [dirname(paths.run), paths.run]) demandOwnDirectory(dir);
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
    labels: new LabelStore(db),
    tags: new TagStore(db),
    mounts: new MountStore(db),
    settings,
    runner: createMachineRunner(paths.state),
    machines: new Map(),
    starts: new StartGate(),
    events: new EventLog(log),
    engine: () => engine.get(),
  };
  const ctx = Object.assign(context, {
    reconciler: new Reconciler(context),
    queue: new VmQueue(vms),
    stopping: new Set<string>(),
    vhostReasons: new Set<string>(),
  });
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

/** A daemon that failed sooner than so is not started again by itself, as the next one would fail, too. */
const STABLE_MS = 60_000;

/** Exits with 1 after too many errors. Systemd, or in the background this process itself, starts another daemon. */
function exitAfterErrors(foreground: boolean): void {
  const [node, ...argv] = daemonCommand();
  if (!foreground && process.uptime() * 1000 > STABLE_MS)
    spawn(node, argv, { detached: true, stdio: 'ignore', cwd: '/', env: daemonEnvironment() })
      .on('error', () => {}) // the next command starts it
      .unref();
  process.exit(1);
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes('--help')) return void process.stdout.write(HELP);
  if (args.includes('--version')) return void process.stdout.write(`${version()}\n`);
  const foreground = args.includes('--foreground');
  const attended = foreground && (isatty(0) || isatty(1));
  // the daemon outlives the terminal that started it
  for (const signal of ['SIGUSR2', ...(attended ? [] : ['SIGHUP'])]) process.on(signal, () => {});
  process.umask(0o022); // VMs' own users pass through our directories, whatever the caller's mask
  process.stderr.on('error', () => {}); // a full disk
  process.env = daemonEnvironment(); // it may have been started directly, without anka
  const paths = resolvePaths();
  createDirectories(paths);
  const log = pino({ level: process.env['ANKA_DEBUG'] ? 'debug' : 'info' }, foreground ? standardOutput : new LogFile(paths.log));
  // VMs and networks do not depend on the call that failed: the daemon continues
  const errors = surviveUnexpectedErrors({ log, survives: () => true, exit: () => exitAfterErrors(foreground) });
  const lock = ProcessLock.take(paths.lock);
  // one whose lock file was removed still answers
  if (lock === null || (await isRunning(paths))) {
    process.stderr.write(`ankad: another daemon is running (pid ${lockHolder(paths.lock) ?? 'unknown'})\n`);
    process.exit(EXIT_ALREADY_RUNNING);
  }
  const { ctx, engine } = createContext(paths, log);
  await recoverVms(ctx);
  repairCards(ctx);
  const stop = (): void => shutdown(ctx, engine);
  const service = createService(ctx, { version: version(), started: monotonicMs(), errors, shutdown: stop });
  const api = new ApiServer(createApp(service, version()), paths.socket, (e) => log.warn({ error: e.message }, 'a client was not accepted'));
  await api.listen();
  keepInPlace({ paths, lock, api, log, createDirectories: () => createDirectories(paths), exit: stop });
  log.info({ pid: process.pid, socket: paths.socket }, 'the daemon is ready');
  for (const signal of ['SIGTERM', 'SIGINT', ...(attended ? ['SIGHUP'] : [])]) process.on(signal, stop);
}

main().catch((cause: Error) => {
  process.stderr.write(`ankad: ${cause.message}\n`);
  process.exit(1);
});
