/**
 * Kernel settings that anka changed, with their previous values, so that `reset` leaves the host as it was. Kept in the
 * run directory, as a reboot resets them too.
 */
import { JsonRecord } from '../../host/json-record.ts';
import { readSysctl, setSysctl } from '../../host/sysctl.ts';

export class SysctlRecord {
  readonly #previous: JsonRecord<string>;

  constructor(path: string) {
    this.#previous = new JsonRecord(path);
  }

  /** Sets a value. The previous one is recorded first. */
  async set(key: string, value: string): Promise<void> {
    const now = await readSysctl(key);
    if (now === null || now === value) return;
    const previous = this.#previous.entries;
    if (!previous.has(key)) {
      previous.set(key, now);
      this.#previous.save();
    }
    await setSysctl(key, value);
  }

  /** Restores every previous value. */
  async restore(): Promise<void> {
    for (const [key, value] of this.#previous.entries) await setSysctl(key, value);
    this.#previous.entries.clear();
    this.#previous.save();
  }
}
