/**
 * Keeps the daemon where clients look for it.
 *
 * Theory of operation: each second the files of the lock and of the API's socket are compared with those that this
 * process made. What was removed is created again, with its directories. If another daemon holds the lock by then, or
 * the database was removed too, this one exits: there is one daemon for one state.
 *
 * Limits: sockets of running VMs and of network processes that were removed too are lost until the VM is stopped and
 * started; commands that need one say so.
 */

import { existsSync } from 'node:fs';
import type { ApiServer } from '../api/server.ts';
import type { Paths } from '../host/paths.ts';
import { ProcessLock } from '../host/process-lock.ts';
import { everySecond } from '../lib/every-second.ts';
import type { Log } from './log.ts';

export interface InPlace {
  paths: Paths;
  lock: ProcessLock;
  api: ApiServer;
  log: Log;
  /** Creates the directories of state and sockets. */
  createDirectories: () => void;
  /** Ends this daemon. */
  exit: () => void;
}

export function keepInPlace(o: InPlace): void {
  let { lock } = o;
  let lastError = '';
  const giveUp = (reason: string): void => {
    end();
    o.log.error({}, `${reason}: this daemon stops`);
    o.exit();
  };
  const repair = async (): Promise<void> => {
    if (lock.isInPlace && o.api.isInPlace) return;
    if (!existsSync(o.paths.database)) return giveUp('the database was removed');
    const held = lock.isInPlace ? lock : ProcessLock.take(o.paths.lock);
    if (!held) return giveUp('the lock file was removed, and another daemon has taken the lock');
    lock = held;
    o.createDirectories();
    if (o.api.isInPlace) return;
    await o.api.listen();
    o.log.warn({}, 'the socket or its directory was removed: it is created again; sockets of running VMs may be lost until these are stopped and started');
  };
  let repairing = false;
  const look = async (): Promise<void> => {
    if (repairing) return;
    repairing = true;
    try {
      await repair();
      lastError = '';
    } catch (cause) {
      const { message } = cause as Error;
      if (message !== lastError) o.log.error({ error: message }, 'cannot listen where clients look for this daemon');
      lastError = message;
    } finally {
      repairing = false;
    }
  };
  const end = everySecond(() => void look());
}
