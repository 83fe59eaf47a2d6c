/** Settings that the user has stored. */
import type { Db, Statement } from './db.ts';

export class SettingStore {
  #all: Statement;
  #put: Statement;
  #delete: Statement;

  constructor(db: Db) {
    this.#all = db.prepare('SELECT key, value FROM settings');
    this.#put = db.prepare('INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value');
    this.#delete = db.prepare('DELETE FROM settings WHERE key = ?');
  }

  all(): Map<string, string> {
    return new Map(this.#all.all().map((r) => [String(r['key']), String(r['value'])]));
  }

  put(key: string, value: string): void {
    this.#put.run(key, value);
  }

  delete(key: string): void {
    this.#delete.run(key);
  }
}
