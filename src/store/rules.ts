/** Port forwarding rules. */
import type { Db, SqlRow, Statement } from './db.ts';

export interface RuleRow {
  vm: string;
  name: string;
  protocol: 'tcp' | 'udp';
  guestPort: number;
  /** Address of the host to listen on; 0 = every IPv4 address, `::` = every IPv6 address. */
  hostIp: number | string;
  /** 0 until one is assigned. */
  hostPort: number;
  /** The host port was assigned automatically, and may be replaced at the next start. */
  automatic: boolean;
}

function fromRow(r: SqlRow): RuleRow {
  return {
    vm: String(r['vm']),
    name: String(r['name']),
    protocol: r['protocol'] as 'tcp' | 'udp',
    guestPort: Number(r['guest_port']),
    hostIp: typeof r['host_ip'] === 'string' ? r['host_ip'] : Number(r['host_ip']),
    hostPort: Number(r['host_port']),
    automatic: r['automatic'] === 1,
  };
}

export class RuleStore {
  #all: Statement;
  #ofVm: Statement;
  #put: Statement;
  #rename: Statement;
  #delete: Statement;

  constructor(db: Db) {
    this.#all = db.prepare('SELECT * FROM rules ORDER BY vm, rowid');
    this.#ofVm = db.prepare('SELECT * FROM rules WHERE vm = ? ORDER BY rowid');
    this.#put = db.prepare(
      'INSERT INTO rules (vm, name, protocol, guest_port, host_ip, host_port, automatic) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (vm, name) DO UPDATE SET protocol = excluded.protocol, guest_port = excluded.guest_port, host_ip = excluded.host_ip, host_port = excluded.host_port, automatic = excluded.automatic',
    );
    this.#rename = db.prepare('UPDATE rules SET name = ? WHERE vm = ? AND name = ?');
    this.#delete = db.prepare('DELETE FROM rules WHERE vm = ? AND name = ?');
  }

  all(): RuleRow[] {
    return this.#all.all().map(fromRow);
  }

  of(vm: string): RuleRow[] {
    return this.#ofVm.all(vm).map(fromRow);
  }

  put(r: RuleRow): void {
    this.#put.run(r.vm, r.name, r.protocol, r.guestPort, r.hostIp, r.hostPort, Number(r.automatic));
  }

  rename(vm: string, name: string, newName: string): void {
    this.#rename.run(newName, vm, name);
  }

  /** True if the rule existed. */
  delete(vm: string, name: string): boolean {
    return Number(this.#delete.run(vm, name).changes) > 0;
  }
}
