/** Local tags: saved states of a VM's disk, with the sizes that belong to it. */
import type { Db, SqlRow, Statement } from './db.ts';

export interface TagRow {
  vm: string;
  name: string;
  /** Names the disk's file; unique in its VM. */
  number: number;
  /** ISO 8601. */
  created: string;
  description: string;
  /** MiB. */
  ram: number;
  cpus: number;
  /** Bytes. */
  diskSize: number;
}

const fromRow = (r: SqlRow): TagRow => ({
  vm: String(r['vm']),
  name: String(r['name']),
  number: Number(r['number']),
  created: String(r['created']),
  description: String(r['description']),
  ram: Number(r['ram']),
  cpus: Number(r['cpus']),
  diskSize: Number(r['disk_size']),
});

export class TagStore {
  #ofVm: Statement;
  #put: Statement;
  #delete: Statement;

  constructor(db: Db) {
    this.#ofVm = db.prepare('SELECT * FROM tags WHERE vm = ? ORDER BY number');
    this.#put = db.prepare('INSERT OR REPLACE INTO tags (vm, name, number, created, description, ram, cpus, disk_size) VALUES (?, ?, ?, ?, ?, ?, ?, ?)');
    this.#delete = db.prepare('DELETE FROM tags WHERE vm = ? AND name = ?');
  }

  /** In the order in which they were saved. */
  of(vm: string): TagRow[] {
    return this.#ofVm.all(vm).map(fromRow);
  }

  put(t: TagRow): void {
    this.#put.run(t.vm, t.name, t.number, t.created, t.description, t.ram, t.cpus, t.diskSize);
  }

  delete(vm: string, name: string): void {
    this.#delete.run(vm, name);
  }
}
