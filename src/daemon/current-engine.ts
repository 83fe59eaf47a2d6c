/** Which engine runs on this host: by the setting `engine`, and by what the host supports. */
import { accessSync, constants } from 'node:fs';
import type { Engine } from '../engine/engine.ts';
import { isInstalled } from '../host/programs.ts';
import { AnkaError } from '../lib/errors.ts';
import type { SettingStore } from '../store/settings.ts';
import type { Log } from './log.ts';
import { settingValue } from './settings.ts';

export interface EngineOptions {
  runDir: string;
  stateDir: string;
  log: Log;
}

/** Why the kernel engine cannot run on this host; null if it can. */
function kernelObstacle(): AnkaError | null {
  if (process.getuid?.() !== 0)
    return new AnkaError('noRights', "the kernel engine requires root: run anka as root (sudo anka …), or run 'anka config engine user'");
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return new AnkaError('noRights', "/dev/net/tun cannot be opened: run 'modprobe tun' as root, or run 'anka config engine user'");
  }
  if (isInstalled('nft')) return null;
  return new AnkaError('missingProgram', "nftables is not installed: run 'apt-get install nftables', or run 'anka config engine user'");
}

/**
 * The engine of the setting `engine`. `auto`: the kernel engine, or the user engine if the kernel engine cannot run.
 */
async function createEngine(setting: string, options: EngineOptions): Promise<Engine> {
  const obstacle = setting === 'user' ? null : kernelObstacle();
  if (setting === 'kernel' && obstacle) throw obstacle;
  if (setting === 'user' || obstacle) {
    if (obstacle) options.log.info({ reason: obstacle.message }, 'falling back to the user engine');
    const { createUserEngine } = await import('../engine/user/index.ts');
    return createUserEngine(options);
  }
  const { createKernelEngine } = await import('../engine/kernel/index.ts');
  return createKernelEngine(options);
}

/** The engine in use. It is replaced once the setting has changed, which it does only while no VM runs. */
export class CurrentEngine {
  #settings: SettingStore;
  #options: EngineOptions;
  #current: { setting: string; engine: Promise<Engine> } | null = null;

  constructor(settings: SettingStore, options: EngineOptions) {
    this.#settings = settings;
    this.#options = options;
  }

  /** Creates the engine if there is none for the setting. */
  get(): Promise<Engine> {
    const setting = settingValue(this.#settings, 'engine').value;
    if (this.#current?.setting === setting) return this.#current.engine;
    const engine = this.#replace(this.#current?.engine, setting);
    this.#current = { setting, engine };
    engine.catch(() => {
      if (this.#current?.engine === engine) this.#current = null; // the next call tries again
    });
    return engine;
  }

  /** The old engine removes all its objects first. */
  async #replace(before: Promise<Engine> | undefined, setting: string): Promise<Engine> {
    const old = await before?.catch(() => null);
    await old?.reset();
    await old?.close();
    return createEngine(setting, this.#options);
  }

  /** Closes the engine, if there is one; networks keep running. */
  async close(): Promise<void> {
    const engine = await this.#current?.engine.catch(() => null);
    await engine?.close();
  }
}
