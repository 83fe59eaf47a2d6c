/**
 * Hosts that lack something: disk space, QEMU, privileges, an intact database. Each gives one clear error, and no data
 * is lost.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { openDb } from '../../src/store/db.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`hosts that lack something${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(() => {
    w = new World('tp-');
  });
  afterAll(() => w?.close());
  beforeEach(() => {
    anka = new Anka(w, tinyGuest());
  });
  afterEach(async () => {
    await anka.killDaemon();
    rmSync(anka.home, { recursive: true, force: true });
  });

  test('B84: a full disk: create says how much is free, and leaves nothing', async () => {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m,mode=755', 'tmpfs', anka.home]);
    try {
      const r = await anka.run(['create', '-d', '1G', 'vm1']);
      expect(r.stderr.trimEnd().split('\n').at(-1)).toMatch(/^anka: not enough space for a disk in \S+: 1\d MiB free; delete a VM or free some space$/);
      expect(r.status).toBe(21);
      expect(await anka.body('list')).toEqual([]);
      // so full that the database cannot grow either
      writeFileSync(join(anka.home, 'vms', 'filler'), Buffer.alloc(14 << 20));
      try {
        writeFileSync(join(anka.home, 'vms', 'filler2'), Buffer.alloc(14 << 20));
      } catch {
        // expected: the disk is full
      }
      const full = await anka.run(['create', '-d', '1G', 'vm1']);
      expect(full.status).not.toBe(0);
      expect(full.stderr).toMatch(/full|no room|No space|no space/);
      rmSync(join(anka.home, 'vms', 'filler'));
      rmSync(join(anka.home, 'vms', 'filler2'), { force: true });
      expect(await anka.body('list')).toEqual([]);
      await anka.ok('daemon stop');
    } finally {
      await anka.killDaemon();
      execFileSync('umount', ['-l', anka.home]);
    }
  });

  test('B84: QEMU is not installed: start names the package, the VM stays stopped', async () => {
    // a PATH with the programs of this machine, except QEMU
    const bin = join(w.dir, 'bin');
    mkdirSync(bin, { recursive: true });
    for (const p of ['ip', 'nft', 'tc', 'ss', 'qemu-img', 'cp', 'sh', 'sysctl', 'ssh', 'id']) {
      const real = execFileSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${p} || true`])
        .toString()
        .trim();
      if (real.startsWith('/')) symlinkSync(real, join(bin, p));
    }
    const env = { PATH: bin };
    expect((await anka.run(['create', '-m', '128M', '-d', '1G', 'vm1'], { env })).status).toBe(0);
    const r = await anka.run(['start', 'vm1'], { env });
    expect(r.stderr.trimEnd().split('\n').at(-1)).toMatch(
      /^anka: .*QEMU.*apt-get install qemu-system-x86'$|^anka: the program 'qemu-system-x86_64' is not installed; install it with 'apt-get install qemu-system-x86'$/,
    );
    expect(r.status).toBe(19);
    expect(await anka.ok('show vm1 status')).toBe('stopped\n');
    await anka.ok('network reset');
  });

  test('B84: another user gets an error that names what needs root, and keeps the engine that works', async () => {
    anka = new Anka(w, tinyGuest(), { ordinary: true });
    expect((await anka.run(['start', 'nothing'])).stderr).toBe('anka: nothing: not found\n');
    const r = await anka.run(['config', 'engine', 'kernel']);
    expect(r.stderr).toBe("anka: the kernel engine requires root: run anka as root (sudo anka …), or run 'anka config engine user'\n");
    expect(r.status).toBe(20);
    expect(await anka.ok('config engine')).toBe('auto\n');
    expect(await anka.body('daemon status')).toMatchObject({ engine: 'user' });
    await anka.ok('daemon stop');
  });

  test('B84: a damaged database is named, and left unchanged', async () => {
    mkdirSync(anka.home, { recursive: true });
    const file = join(anka.home, 'anka.db');
    writeFileSync(file, 'no database\n'.repeat(1000));
    const r = await anka.run(['list']);
    expect(r.stderr).toBe(
      `anka: the database ${file} is damaged (file is not a database); restore a backup, or move the file away to start with an empty database\n`,
    );
    expect(r.status).toBe(22);
    expect(readFileSync(file, 'utf8')).toBe('no database\n'.repeat(1000));
  });

  test('B84: a database of a newer version is left unchanged', async () => {
    await anka.ok('list');
    await anka.ok('daemon stop');
    const file = join(anka.home, 'anka.db');
    const db = openDb(file);
    db.exec('PRAGMA user_version = 9999');
    db.close();
    const r = await anka.run(['list']);
    expect(r.stderr).toMatch(/^anka: the database \S+ was written by a newer anka \(schema 9999, this anka supports \d+\); upgrade anka\n$/);
    expect(r.status).toBe(22);
  });

  test('B6: a command waits for a daemon that is exiting and still holds the lock, then starts the next one', async () => {
    mkdirSync(anka.home, { recursive: true });
    const ending = w.host.spawn(['flock', join(anka.home, 'ankad.lock'), '-c', 'echo ready; sleep 2']);
    await new Promise((resolve) => ending.stdout?.once('data', resolve));
    expect(await anka.body('list')).toEqual([]);
    await anka.ok('daemon stop');
  });

  test('B6: concurrent commands start one daemon', async () => {
    const all = await Promise.all(Array.from({ length: 6 }, () => anka.run(['-j', 'list'])));
    expect(all.map((r) => `${r.status} ${r.stdout}`)).toEqual(Array(6).fill('0 {"status":"OK","body":[],"message":"","code":0}'));
    const daemons = (): string[] =>
      w.host
        .run(`ip netns pids ${w.host.name} | while read p; do tr '\\0' ' ' </proc/$p/cmdline; echo; done; true`)
        .split('\n')
        .filter((l) => l.includes('daemon/main.js'));
    await until('one daemon runs', () => daemons().length === 1);
  });
});
