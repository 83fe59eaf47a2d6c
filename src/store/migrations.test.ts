import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openDb, type SqlValue, transaction } from './db.ts';
import { MIGRATIONS } from './migrations.ts';
import { RuleStore } from './rules.ts';
import { SettingStore } from './settings.ts';
import { VmStore } from './vms.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'anka-store-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A database as the first `version` migrations left it: a new one, taken back to an empty file of that schema. */
function oldDatabase(version: number, rows: readonly [sql: string, ...values: SqlValue[]][]): string {
  const path = join(dir, 'anka.db');
  const db = openDb(path);
  const tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").all();
  db.exec(`PRAGMA foreign_keys = OFF; ${tables.map((t) => `DROP TABLE ${t['name']}`).join('; ')}; PRAGMA foreign_keys = ON`);
  transaction(db, () => db.exec(`${MIGRATIONS.slice(0, version).join(';')}; PRAGMA user_version = ${version}`));
  for (const [sql, ...values] of rows) db.prepare(sql).run(...values);
  db.close();
  return path;
}

const INSERT =
  "INSERT INTO vms (uuid, name, number, created, phase, status, ram, cpus, disk_size, inside_mac, outside_mac, reserved_ip, local) VALUES (?, ?, ?, '2026-01-01T00:00:00.000Z', 'ready', 'running', 1024, 2, 4096, 1, ?, 3, ?)";

test('B30: `local` of schema 4 becomes `isolated`; every other value, the rules and the settings stay', () => {
  const [open, isolated] = [randomUUID(), randomUUID()];
  const path = oldDatabase(4, [
    [INSERT, open, 'open', 1, 10, 1],
    [INSERT, isolated, 'isolated', 2, 20, 0],
    ['UPDATE vms SET guest_mac = 7, guest_mtu = 9000, guest_controller = ? WHERE uuid = ?', 'e1000', isolated],
    ["INSERT INTO rules VALUES (?, 'ssh', 'tcp', 22, 0, 10000, 1)", isolated],
    ["INSERT INTO settings VALUES ('mtu', '9000'), ('machine_readable', '1')"],
  ]);
  const db = openDb(path);
  const vms = new VmStore(db);
  expect(vms.find('open')).toMatchObject({ uuid: open, isolated: false, outsideMac: 10 });
  expect(vms.find(isolated)).toEqual({
    uuid: isolated,
    name: 'isolated',
    number: 2,
    created: '2026-01-01T00:00:00.000Z',
    phase: 'ready',
    status: 'running',
    message: '',
    ram: 1024,
    cpus: 2,
    diskSize: 4096,
    app: '',
    hasCard: true,
    type: 'shared',
    bridge: '',
    uplink: '',
    tag: '',
    vlan: null,
    controller: 'virtio-net',
    insideMac: 1,
    outsideMac: 20,
    guestMac: 7,
    guestMtu: 9000,
    guestController: 'e1000',
    guestQueues: 1,
    guestDriver: 'qemu',
    reservedIp: 3,
    isolated: true,
    filter: null,
  });
  expect(new RuleStore(db).of(isolated)).toMatchObject([{ name: 'ssh', hostPort: 10000, automatic: true }]);
  expect([...new SettingStore(db).all()]).toEqual([['mtu', '9000']]);
  db.close();
});

test('a database of every earlier schema ends with the same columns as a new one', () => {
  const columns = (path: string): string[] => {
    const db = openDb(path);
    const names = db.prepare("SELECT name FROM pragma_table_info('vms') ORDER BY name").all();
    db.close();
    return names.map((r) => String(r['name']));
  };
  const fresh = columns(join(dir, 'new.db'));
  for (let version = 1; version < MIGRATIONS.length; version++) {
    const path = oldDatabase(version, []);
    expect(columns(path), `schema ${version}`).toEqual(fresh);
    rmSync(path);
    for (const suffix of ['-wal', '-shm']) rmSync(`${path}${suffix}`, { force: true });
  }
});

test('a rule is stored and read back with its IPv4 or IPv6 address', () => {
  const db = openDb(join(dir, 'rules.db'));
  db.prepare(INSERT.replace('local', 'isolated')).run('u', 'vm1', 1, 1, 0);
  const rules = new RuleStore(db);
  for (const hostIp of [0, 0x0a090002, '::', '::1'])
    rules.put({ vm: 'u', name: `r${hostIp}`, protocol: 'tcp', guestPort: 22, hostIp, hostPort: 10_000, automatic: true });
  expect(rules.of('u').map((r) => r.hostIp)).toEqual([0, 0x0a090002, '::', '::1']);
  db.close();
});

test('a VM is stored and read back with `isolated` set', () => {
  const db = openDb(join(dir, 'anka.db'));
  const vms = new VmStore(db);
  db.prepare(INSERT.replace('local', 'isolated')).run('u', 'vm1', 1, 1, 0);
  vms.update('u', { isolated: true });
  expect(vms.find('vm1')?.isolated).toBe(true);
  db.close();
});
