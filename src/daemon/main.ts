#!/usr/bin/env node
/**
 * `ankad`: the daemon.
 *
 * Theory of operation: takes the lock, opens the database, adopts what runs, and serves the API. Ending it, by a signal
 * or by kill -9, stops no VM and no network. Limits: one per state folder; a second one ends at once.
 */
import { accessSync, constants, mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import pino from 'pino';
import { EXIT_ALREADY_RUNNING } from '../api/client.ts';
import { createApp } from '../api/routes.ts';
import { serveApi } from '../api/server.ts';
import type { Engine } from '../engine/engine.ts';
import { run } from '../host/exec.ts';
import { LogFile } from '../host/log-file.ts';
import { resolvePaths } from '../host/paths.ts';
import { AnkaError } from '../lib/errors.ts';
import { version } from '../lib/version.ts';
import { openDb } from '../store/db.ts';
import { RuleStore } from '../store/rules.ts';
import { SettingStore } from '../store/settings.ts';
import { VmStore } from '../store/vms.ts';
import { createMachineRunner } from '../vm/launch.ts';
import type { Context } from './context.ts';
import { EventLog } from './events.ts';
import { takeLock } from './lock.ts';
import { Reconciler } from './reconcile.ts';
import { createService } from './service.ts';
import { settingValue } from './settings.ts';
import { Vms } from './vms/vms.ts';

const HELP = `Usage: ankad [OPTIONS]

The daemon behind the anka command; anka starts it by itself.

Options:
  --foreground  Log to standard output.
  --version     Print the version.
  --help        Show this message.
`;

/** Why the kernel engine cannot run here; null when it can. */
async function kernelObstacle(): Promise<AnkaError | null> {
  if (process.getuid?.() !== 0) return new AnkaError('noRights', "the kernel engine needs root: run anka as root (sudo anka …), or 'anka config engine user'");
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return new AnkaError('noRights', "/dev/net/tun cannot be opened: run 'modprobe tun' as root, or 'anka config engine user'");
  }
  return run('nft', ['--version']).then(
    () => null,
    () => new AnkaError('missingProgram', "nftables is not installed: run 'apt-get install nftables', or 'anka config engine user'"),
  );
}

/** The engine for that setting, where it can run; `auto` is the kernel engine wherever that can. */
async function makeEngine(setting: string, options: { runDir: string; stateDir: string; log: pino.Logger }): Promise<Engine> {
  const obstacle = setting === 'user' ? null : await kernelObstacle();
  if (setting === 'kernel' && obstacle) throw obstacle;
  if (setting === 'user' || obstacle) {
    if (obstacle) options.log.info({ reason: obstacle.message }, 'the user engine is used');
    const { createUserEngine } = await import('../engine/user/index.ts');
    return createUserEngine(options);
  }
  const { createKernelEngine } = await import('../engine/kernel/index.ts');
  return createKernelEngine(options);
}

/** The engine's setting changes only while no VM runs: the one before takes all away that it had made. */
async function replaceEngine(before: Promise<Engine> | undefined, make: () => Promise<Engine>): Promise<Engine> {
  const old = await before?.catch(() => null);
  await old?.reset();
  await old?.close();
  return make();
}

/** An ordinary user's run folder may lie in /tmp, where others could have made it first. */
function demandOwnFolder(path: string): void {
  const s = statSync(path);
  if (s.uid !== process.getuid?.() || (s.mode & 0o022) !== 0)
    throw new AnkaError('noRights', `the folder ${path} must belong to you, and be writable by nobody else; remove it, or set XDG_RUNTIME_DIR`);
}

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes('--help')) return void process.stdout.write(HELP);
  if (args.includes('--version')) return void process.stdout.write(`${version()}\n`);
  const foreground = args.includes('--foreground');
  const paths = resolvePaths();
  mkdirSync(paths.state, { recursive: true, mode: 0o711 });
  mkdirSync(join(paths.state, 'vms'), { recursive: true, mode: 0o711 });
  mkdirSync(paths.run, { recursive: true, mode: 0o711 });
  if (!process.env['ANKA_HOME'] && process.getuid?.() !== 0) for (const dir of [dirname(paths.run), paths.run]) demandOwnFolder(dir);
  mkdirSync(join(paths.run, 'vm'), { recursive: true, mode: 0o711 });
  const log = pino({ level: process.env['ANKA_DEBUG'] ? 'debug' : 'info' }, foreground ? pino.destination({ dest: 1, sync: true }) : new LogFile(paths.log));
  const other = takeLock(join(paths.state, 'ankad.lock'));
  if (other !== null) {
    process.stderr.write(`ankad: another daemon runs already (pid ${other})\n`);
    process.exit(EXIT_ALREADY_RUNNING);
  }
  const db = openDb(paths.database);
  const settings = new SettingStore(db);
  let engine: { setting: string; made: Promise<Engine> } | null = null;
  const ctx: Context = {
    paths,
    log,
    vms: new VmStore(db),
    rules: new RuleStore(db),
    settings,
    runner: createMachineRunner(paths.state),
    machines: new Map(),
    starting: new Set(),
    events: new EventLog(log),
    engine() {
      const setting = settingValue(settings, 'engine').value;
      if (!engine || engine.setting !== setting) {
        const before = engine?.made;
        engine = { setting, made: replaceEngine(before, () => makeEngine(setting, { runDir: paths.run, stateDir: paths.state, log })) };
        engine.made.catch(() => {
          engine = null; // tried anew at the next call
        });
      }
      return engine.made;
    },
  };
  const reconciler = new Reconciler(ctx);
  const vms = new Vms(ctx, reconciler);
  await vms.recover();
  const end = (): void => {
    log.info({}, 'the daemon ends; VMs and networks go on');
    for (const m of ctx.machines.values()) m.detach();
    const closed = engine?.made.then((e) => e.close()).catch(() => {}) ?? Promise.resolve();
    // the answer to a shutdown request leaves first
    void Promise.all([closed, new Promise((resolve) => setTimeout(resolve, 50))]).then(() => process.exit(0));
    setTimeout(() => process.exit(0), 3000).unref();
  };
  const service = createService(ctx, vms, reconciler, { version: version(), started: Date.now(), end });
  await serveApi(createApp(service, version()), paths.socket);
  log.info({ pid: process.pid, socket: paths.socket }, 'ankad is ready');
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  process.on('SIGHUP', () => {}); // a closing terminal is no reason to end
  process.on('unhandledRejection', (cause) => log.error({ error: cause instanceof Error ? cause.stack : String(cause) }, 'unhandled'));
}

main().catch((cause: Error) => {
  process.stderr.write(`ankad: ${cause.message}\n`);
  process.exit(1);
});
