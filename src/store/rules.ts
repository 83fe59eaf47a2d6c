/** Port forwarding rules. */
import type { Db, Row, Statement } from './db.ts';

export interface RuleRow {
  vm: string;
  name: string;
  protocol: 'tcp' | 'udp';
  guestPort: number;
  /** 0 = every address. */
  hostIp: number;
  /** The port in use; 0 until one was chosen. */
  hostPort: number;
  /** The port was chosen by us and may be chosen anew. */
  automatic: boolean;
}

function fromRow(r: Row): RuleRow {
  return {
    vm: String(r['vm']),
    name: String(r['name']),
    protocol: r['protocol'] as 'tcp' | 'udp',
    guestPort: Number(r['guest_port']),
    hostIp: Number(r['host_ip']),
    hostPort: Number(r['host_port']),
    automatic: r['automatic'] === 1,
  };
}

export class RuleStore {
  #all: Statement;
  #ofVm: Statement;
  #put: Statement;
  #delete: Statement;

  constructor(db: Db) {
    this.#all = db.prepare('SELECT * FROM rules ORDER BY vm, rowid');
    this.#ofVm = db.prepare('SELECT * FROM rules WHERE vm = ? ORDER BY rowid');
    this.#put = db.prepare(
      'INSERT INTO rules (vm, name, protocol, guest_port, host_ip, host_port, automatic) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (vm, name) DO UPDATE SET protocol = excluded.protocol, guest_port = excluded.guest_port, host_ip = excluded.host_ip, host_port = excluded.host_port, automatic = excluded.automatic',
    );
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

  /** True when it was there. */
  delete(vm: string, name: string): boolean {
    return Number(this.#delete.run(vm, name).changes) > 0;
  }
}
