/** The VMs and their cards, one row each. */
import type { Db, Row, SqlValue, Statement } from './db.ts';

export interface VmRow {
  uuid: string;
  name: string;
  /** Small number, unique while the VM exists: the user id of its process is made of it. */
  number: number;
  /** ISO 8601. */
  created: string;
  phase: 'creating' | 'ready' | 'deleting';
  status: 'stopped' | 'running' | 'suspended' | 'failed';
  /** Why it failed. */
  message: string;
  /** MiB. */
  ram: number;
  cpus: number;
  /** Bytes. */
  diskSize: number;
  /** Disk image that it was made from; empty for the built-in guest. */
  app: string;
  hasCard: boolean;
  type: 'shared' | 'host' | 'bridge' | 'disconnected';
  /** Own interface for bridge type; empty = automatic. */
  bridge: string;
  /** Interface chosen when it was started (B18); empty while it is stopped, or not of bridge type. */
  uplink: string;
  vlan: number | null;
  controller: 'virtio-net' | 'e1000';
  /** `--mac`; null without. */
  insideMac: number | null;
  /** Drawn from the pool; null while the VM is stopped. */
  outsideMac: number | null;
  /**
   * What the guest that runs, or is suspended, has on its card; null while the VM is stopped. A new `--mac` waits for
   * the next start.
   */
  guestMac: number | null;
  /**
   * Bytes of IP packet that the card of the guest that runs, or is suspended, takes; null while the VM is stopped. A
   * new `mtu` setting waits for the next start.
   */
  guestMtu: number | null;
  /**
   * Model of the card of the guest that runs, or is suspended; null while the VM is stopped. A new one waits for the
   * next start.
   */
  guestController: 'virtio-net' | 'e1000' | null;
  reservedIp: number | null;
  local: boolean;
}

const COLUMNS: Record<keyof VmRow, string> = {
  uuid: 'uuid',
  name: 'name',
  number: 'number',
  created: 'created',
  phase: 'phase',
  status: 'status',
  message: 'message',
  ram: 'ram',
  cpus: 'cpus',
  diskSize: 'disk_size',
  app: 'app',
  hasCard: 'has_card',
  type: 'type',
  bridge: 'bridge',
  uplink: 'uplink',
  vlan: 'vlan',
  controller: 'controller',
  insideMac: 'inside_mac',
  outsideMac: 'outside_mac',
  guestMac: 'guest_mac',
  guestMtu: 'guest_mtu',
  guestController: 'guest_controller',
  reservedIp: 'reserved_ip',
  local: 'local',
};

const FLAGS: readonly (keyof VmRow)[] = ['hasCard', 'local'];

function fromRow(row: Row): VmRow {
  const vm: Record<string, unknown> = {};
  for (const [key, column] of Object.entries(COLUMNS)) vm[key] = FLAGS.includes(key as keyof VmRow) ? row[column] === 1 : row[column];
  return vm as unknown as VmRow;
}

const toSql = (value: unknown): SqlValue => (typeof value === 'boolean' ? Number(value) : (value as SqlValue));

export class VmStore {
  #db: Db;
  #all: Statement;
  #byRef: Statement;
  #insert: Statement;
  #delete: Statement;
  #updates = new Map<string, Statement>();

  constructor(db: Db) {
    this.#db = db;
    this.#all = db.prepare('SELECT * FROM vms ORDER BY created, name');
    this.#byRef = db.prepare('SELECT * FROM vms WHERE uuid = ? OR name = ? COLLATE NOCASE ORDER BY uuid = ? DESC LIMIT 1');
    const columns = Object.values(COLUMNS);
    this.#insert = db.prepare(`INSERT INTO vms (${columns.join(', ')}) VALUES (${columns.map(() => '?').join(', ')})`);
    this.#delete = db.prepare('DELETE FROM vms WHERE uuid = ?');
  }

  all(): VmRow[] {
    return this.#all.all().map(fromRow);
  }

  /** By UUID (any letter case) or name. */
  find(ref: string): VmRow | null {
    const row = this.#byRef.get(ref.toLowerCase(), ref, ref.toLowerCase());
    return row ? fromRow(row) : null;
  }

  insert(vm: VmRow): void {
    this.#insert.run(...Object.keys(COLUMNS).map((k) => toSql(vm[k as keyof VmRow])));
  }

  update(uuid: string, change: Partial<VmRow>): void {
    const keys = Object.keys(change) as (keyof VmRow)[];
    if (keys.length === 0) return;
    const sql = `UPDATE vms SET ${keys.map((k) => `${COLUMNS[k]} = ?`).join(', ')} WHERE uuid = ?`;
    let statement = this.#updates.get(sql);
    if (!statement) {
      statement = this.#db.prepare(sql);
      this.#updates.set(sql, statement);
    }
    statement.run(...keys.map((k) => toSql(change[k])), uuid);
  }

  /** The lowest number that no VM has. */
  freeNumber(): number {
    const used = new Set(this.all().map((v) => v.number));
    let n = 1;
    while (used.has(n)) n++;
    return n;
  }

  delete(uuid: string): void {
    this.#delete.run(uuid);
  }
}
