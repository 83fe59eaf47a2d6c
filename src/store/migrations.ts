/** The schema's history. Each entry runs once, in a transaction of its own, and never changes afterwards. */
export const MIGRATIONS: readonly string[] = [
  `
  CREATE TABLE vms (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE COLLATE NOCASE,
    number INTEGER NOT NULL UNIQUE,
    created TEXT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready', 'deleting')),
    status TEXT NOT NULL CHECK (status IN ('stopped', 'running', 'suspended', 'failed')),
    message TEXT NOT NULL DEFAULT '',
    ram INTEGER NOT NULL,
    cpus INTEGER NOT NULL,
    disk_size INTEGER NOT NULL,
    app TEXT NOT NULL DEFAULT '',
    has_card INTEGER NOT NULL DEFAULT 1,
    type TEXT NOT NULL DEFAULT 'shared' CHECK (type IN ('shared', 'host', 'bridge', 'disconnected')),
    bridge TEXT NOT NULL DEFAULT '',
    uplink TEXT NOT NULL DEFAULT '',
    vlan INTEGER,
    controller TEXT NOT NULL DEFAULT 'virtio-net',
    inside_mac INTEGER,
    outside_mac INTEGER UNIQUE,
    reserved_ip INTEGER,
    local INTEGER NOT NULL DEFAULT 1
  ) STRICT;
  CREATE TABLE rules (
    vm TEXT NOT NULL REFERENCES vms (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    protocol TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    guest_port INTEGER NOT NULL,
    host_ip INTEGER NOT NULL,
    host_port INTEGER NOT NULL,
    automatic INTEGER NOT NULL,
    PRIMARY KEY (vm, name)
  ) STRICT;
  CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  `,
  'ALTER TABLE vms ADD COLUMN guest_mac INTEGER',
  'ALTER TABLE vms ADD COLUMN guest_mtu INTEGER',
  'ALTER TABLE vms ADD COLUMN guest_controller TEXT',
  `
  ALTER TABLE vms ADD COLUMN isolated INTEGER NOT NULL DEFAULT 0;
  UPDATE vms SET isolated = 1 - local;
  ALTER TABLE vms DROP COLUMN local;
  DELETE FROM settings WHERE key = 'machine_readable';
  `,
  // host_ip: a number for IPv4, text for IPv6
  `
  ALTER TABLE rules RENAME TO old_rules;
  CREATE TABLE rules (
    vm TEXT NOT NULL REFERENCES vms (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    protocol TEXT NOT NULL CHECK (protocol IN ('tcp', 'udp')),
    guest_port INTEGER NOT NULL,
    host_ip ANY NOT NULL,
    host_port INTEGER NOT NULL,
    automatic INTEGER NOT NULL,
    PRIMARY KEY (vm, name)
  ) STRICT;
  INSERT INTO rules SELECT * FROM old_rules ORDER BY rowid;
  DROP TABLE old_rules;
  `,
  // cards of guests that run or are suspended had one queue pair, and QEMU moved their frames
  `
  ALTER TABLE vms ADD COLUMN guest_queues INTEGER;
  ALTER TABLE vms ADD COLUMN guest_driver TEXT;
  UPDATE vms SET guest_queues = 1, guest_driver = 'qemu' WHERE has_card = 1 AND outside_mac IS NOT NULL;
  `,
  // labels and local tags, as Anka's clients use them
  `
  CREATE TABLE labels (
    vm TEXT NOT NULL REFERENCES vms (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (vm, name)
  ) STRICT;
  CREATE TABLE tags (
    vm TEXT NOT NULL REFERENCES vms (uuid) ON DELETE CASCADE,
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    created TEXT NOT NULL,
    description TEXT NOT NULL,
    ram INTEGER NOT NULL,
    cpus INTEGER NOT NULL,
    disk_size INTEGER NOT NULL,
    PRIMARY KEY (vm, name)
  ) STRICT;
  ALTER TABLE vms ADD COLUMN tag TEXT NOT NULL DEFAULT '';
  `,
  // packet filters of VMs: their text
  'ALTER TABLE vms ADD COLUMN net_filter TEXT',
  `
  CREATE TABLE mounts (
    vm TEXT NOT NULL REFERENCES vms (uuid) ON DELETE CASCADE,
    id INTEGER NOT NULL,
    name TEXT NOT NULL,
    directory TEXT NOT NULL,
    read_only INTEGER NOT NULL,
    persistent INTEGER NOT NULL,
    PRIMARY KEY (vm, id),
    UNIQUE (vm, name)
  ) STRICT;
  `,
];
