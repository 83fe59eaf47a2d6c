/** Host directories that are shared with VMs. */
import type { Db, SqlRow, Statement } from './db.ts';

export interface MountRow {
  vm: string;
  /** Unique in its VM, from 1. */
  id: number;
  /** In the guest; unique in its VM. */
  name: string;
  /** Absolute path on the host, without links. */
  directory: string;
  readOnly: boolean;
  /** Stays when the VM is stopped. */
  persistent: boolean;
}

function fromRow(r: SqlRow): MountRow {
  return {
    vm: String(r['vm']),
    id: Number(r['id']),
    name: String(r['name']),
    directory: String(r['directory']),
    readOnly: r['read_only'] === 1,
    persistent: r['persistent'] === 1,
  };
}

export class MountStore {
  #all: Statement;
  #ofVm: Statement;
  #insert: Statement;
  #delete: Statement;
  #deleteTemporary: Statement;

  constructor(db: Db) {
    this.#all = db.prepare('SELECT * FROM mounts ORDER BY vm, id');
    this.#ofVm = db.prepare('SELECT * FROM mounts WHERE vm = ? ORDER BY id');
    this.#insert = db.prepare('INSERT INTO mounts (vm, id, name, directory, read_only, persistent) VALUES (?, ?, ?, ?, ?, ?)');
    this.#delete = db.prepare('DELETE FROM mounts WHERE vm = ? AND id = ?');
    this.#deleteTemporary = db.prepare('DELETE FROM mounts WHERE vm = ? AND persistent = 0');
  }

  all(): MountRow[] {
    return this.#all.all().map(fromRow);
  }

  of(vm: string): MountRow[] {
    return this.#ofVm.all(vm).map(fromRow);
  }

  /** Adds a row with the lowest free ID, and returns it. */
  add(m: Omit<MountRow, 'id'>): MountRow {
    const used = new Set(this.of(m.vm).map((other) => other.id));
    let id = 1;
    while (used.has(id)) id++;
    this.#insert.run(m.vm, id, m.name, m.directory, Number(m.readOnly), Number(m.persistent));
    return { ...m, id };
  }

  delete(vm: string, id: number): void {
    this.#delete.run(vm, id);
  }

  /** Deletes those of a VM that end with its run. */
  deleteTemporary(vm: string): void {
    this.#deleteTemporary.run(vm);
  }
}
