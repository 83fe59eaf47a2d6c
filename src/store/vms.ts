/** VMs and their network cards: one row per VM. */
import type { Db, SqlRow, SqlValue, Statement } from './db.ts';

export interface VmRow {
  uuid: string;
  name: string;
  /** The lowest free number when the VM was created; the user id of its QEMU is derived from it. */
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
  /** Path of the disk image that it was created from; empty = the built-in guest. */
  app: string;
  hasCard: boolean;
  type: 'shared' | 'host' | 'bridge' | 'disconnected';
  /** Interface for type bridge, as configured; empty = automatic. */
  bridge: string;
  /** Interface in use since the last start (B18); empty while the VM is stopped or its type is not bridge. */
  uplink: string;
  vlan: number | null;
  controller: 'virtio-net' | 'e1000';
  /** `--mac`; null = none. */
  insideMac: number | null;
  /** Assigned from the pool at start; null while the VM is stopped. */
  outsideMac: number | null;
  /** MAC address of the guest's card; null while the VM is stopped. A new `--mac` takes effect at the next start. */
  guestMac: number | null;
  /**
   * MTU of the guest's card, bytes; null while the VM is stopped. A new `mtu` setting takes effect at the next start.
   */
  guestMtu: number | null;
  /** Model of the guest's card; null while the VM is stopped. A new one takes effect at the next start. */
  guestController: 'virtio-net' | 'e1000' | null;
  /**
   * Queue pairs of the guest's card; null while the VM is stopped. A new number of CPUs takes effect at the next start.
   */
  guestQueues: number | null;
  /**
   * What moves the frames of the guest's card: the host's kernel (vhost-net) or QEMU; null while the VM is stopped.
   * Saved memory fits only the one that it was saved with.
   */
  guestDriver: 'vhost' | 'qemu' | null;
  reservedIp: number | null;
  /** `--no-local`: isolated from other VMs and from the host. */
  isolated: boolean;
  /** The local tag that its disk was saved as, or restored from, last; empty if none. */
  tag: string;
  /** Text of the VM's packet filter, checked; null = the setting `net_filter`. */
  filter: string | null;
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
  guestQueues: 'guest_queues',
  guestDriver: 'guest_driver',
  reservedIp: 'reserved_ip',
  isolated: 'isolated',
  tag: 'tag',
  filter: 'net_filter',
};

const BOOLEANS: readonly (keyof VmRow)[] = ['hasCard', 'isolated'];

function fromRow(row: SqlRow): VmRow {
  const vm: Record<string, unknown> = {};
  for (const [key, column] of Object.entries(COLUMNS)) vm[key] = BOOLEANS.includes(key as keyof VmRow) ? row[column] === 1 : row[column];
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

  /** By UUID or name, in any letter case. */
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

  /** The lowest number that no VM uses. */
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
