/**
 * Kernel settings that we changed, with what they were before, so that `reset` leaves the host as it was. Kept in the
 * run folder, as a reboot undoes them too.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { readSysctl, setSysctl } from '../../host/sysctl.ts';

export class SysctlRecord {
  #path: string;
  #before: Record<string, string> | null = null;

  constructor(path: string) {
    this.#path = path;
  }

  /** Sets a value, noting the old one first. */
  async set(key: string, value: string): Promise<void> {
    const now = await readSysctl(key);
    if (now === null || now === value) return;
    const before = this.#load();
    if (!(key in before)) {
      before[key] = now;
      writeFileSync(`${this.#path}.part`, JSON.stringify(before), { mode: 0o600 });
      renameSync(`${this.#path}.part`, this.#path);
    }
    await setSysctl(key, value);
  }

  /** Puts every value back. */
  async restore(): Promise<void> {
    for (const [key, value] of Object.entries(this.#load())) await setSysctl(key, value);
    rmSync(this.#path, { force: true });
    this.#before = null;
  }

  #load(): Record<string, string> {
    if (this.#before) return this.#before;
    let text = '{}';
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch {
      // nothing was changed yet
    }
    this.#before = JSON.parse(text) as Record<string, string>;
    return this.#before;
  }
}
