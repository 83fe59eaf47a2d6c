/** Labels: names and values that users attach to VMs. */
import type { Db, Statement } from './db.ts';

export class LabelStore {
  #ofVm: Statement;
  #put: Statement;
  #delete: Statement;

  constructor(db: Db) {
    this.#ofVm = db.prepare('SELECT name, value FROM labels WHERE vm = ? ORDER BY name');
    this.#put = db.prepare('INSERT INTO labels (vm, name, value) VALUES (?, ?, ?) ON CONFLICT (vm, name) DO UPDATE SET value = excluded.value');
    this.#delete = db.prepare('DELETE FROM labels WHERE vm = ? AND name = ?');
  }

  of(vm: string): Record<string, string> {
    return Object.fromEntries(this.#ofVm.all(vm).map((r) => [String(r['name']), String(r['value'])]));
  }

  put(vm: string, name: string, value: string): void {
    this.#put.run(vm, name, value);
  }

  delete(vm: string, name: string): void {
    this.#delete.run(vm, name);
  }
}
