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

  test('B84: a disk that fills up under a running VM: clear errors, nothing is lost, and all works when there is space', async () => {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=160m,mode=755', 'tmpfs', anka.home]);
    const fill = join(anka.home, 'vms', 'filler');
    try {
      await anka.ok('create -m 128M -d 1G vm1');
      await anka.ok('create -m 128M -d 1G vm2');
      await anka.ok('start vm1');
      await anka.ok('run vm1 true');
      const pid = anka.daemonPid();
      for (let size = 1 << 20; size > 0; size = Math.floor(size / 2))
        try {
          for (;;) writeFileSync(fill, Buffer.alloc(size), { flag: 'a' });
        } catch {
          // no room for so much
        }
      const full = /^anka: .*(no space left|not enough space).*\n$/i;
      // more than the room that the database has set aside
      const long = Array.from({ length: 6 }, (_, i) => `10.0.0.${i + 1}`).join(',');
      const changes = [];
      for (let i = 0; i < 40; i++) changes.push(await anka.run(['config', 'dns_servers', i % 2 ? long : '10.0.0.9']));
      const refused = [...changes, await anka.run(['create', '-d', '1G', 'vm3']), await anka.run(['clone', 'vm2', 'vm4'])].filter((r) => r.status !== 0);
      for (const r of refused) expect([r.status, r.stderr.split('\n').slice(-2).join('\n')]).toEqual([21, expect.stringMatching(full)]);
      expect(refused.length).toBeGreaterThan(0);
      expect(await anka.ok('show vm1 status')).toBe('running\n');
      expect((await anka.body<{ name: string }[]>('list')).map((v) => v.name)).toEqual(['vm1', 'vm2']);
      for (const change of ['set network-card -t host', 'delete network-card']) {
        const r = await anka.run(`modify vm1 ${change}`.split(' '));
        if (r.status === 0) break; // the database had room for it
        expect([r.status, r.stderr.split('\n').slice(-2).join('\n')], change).toEqual([21, expect.stringMatching(full)]);
        expect((await anka.run(['run', 'vm1', 'true'])).status, `the guest is as before, without: ${change}`).toBe(0);
      }
      await anka.ok('stop -f vm1');
      expect(anka.daemonPid()).toBe(pid);
      // a daemon that is started now says why it cannot, or works
      await anka.killDaemon();
      const next = await anka.run(['list']);
      if (next.status !== 0) expect([next.status, next.stderr]).toEqual([21, expect.stringMatching(full)]);
      rmSync(fill);
      expect((await anka.body<{ name: string }[]>('list')).map((v) => v.name)).toEqual(['vm1', 'vm2']);
      // failed: it could not be stored that it was stopped
      expect(await anka.ok('show vm1 status')).toMatch(/^(stopped|failed)\n$/);
      await anka.ok('start vm1');
      await anka.ok('delete --yes --all');
      await anka.ok('network reset');
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
    for (const p of ['ip', 'nft', 'tc', 'ss', 'qemu-img', 'cp', 'sh', 'sysctl', 'ssh', 'id', 'rm', 'chown', 'chmod', 'env', 'setpriv']) {
      const real = execFileSync('sh', ['-c', `PATH=$PATH:/usr/sbin:/sbin command -v ${p} || true`])
        .toString()
        .trim();
      if (real.startsWith('/')) symlinkSync(real, join(bin, p));
    }
    const env = { PATH: bin };
    // root's daemon has a PATH of its own
    anka = new Anka(w, tinyGuest(), { ordinary: true });
    expect((await anka.run(['create', '-m', '128M', '-d', '1G', 'vm1'], { env })).status).toBe(0);
    const r = await anka.run(['start', 'vm1'], { env });
    expect(r.stderr.trimEnd().split('\n').at(-1)).toMatch(
      /^anka: .*QEMU.*apt-get install qemu-system-x86'$|^anka: the program 'qemu-system-x86_64' is not installed; install it with 'apt-get install qemu-system-x86'$/,
    );
    expect(r.status).toBe(19);
    expect(await anka.ok('show vm1 status')).toBe('stopped\n');
    await anka.ok('network reset');
  });

  test('B92: root’s daemon, and what it starts, get nothing of the caller’s environment that makes a program load code', async () => {
    const bin = join(w.dir, 'traps');
    const trace = join(w.dir, 'trace');
    mkdirSync(bin, { recursive: true });
    writeFileSync(trace, '');
    for (const p of ['ip', 'nft', 'tc', 'ss', 'qemu-img', 'qemu-system-x86_64', 'sysctl', 'bpftool', 'tcpdump'])
      writeFileSync(join(bin, p), `#!/bin/sh\necho "$0" >>${trace}\nexit 1\n`, { mode: 0o755 });
    const script = join(bin, 'preload.cjs');
    writeFileSync(script, `require('node:fs').appendFileSync('${trace}', process.argv[1] + '\\n');`);
    const loads = { NODE_OPTIONS: `--require=${script}`, NODE_PATH: bin, LD_LIBRARY_PATH: bin, PERL5LIB: bin, PYTHONPATH: bin, GCONV_PATH: bin };
    const env = {
      ...loads,
      PATH: `${bin}:${process.env['PATH']}`,
      HOME: bin,
      TMPDIR: bin,
      XDG_CONFIG_HOME: bin,
      BASH_ENV: script,
      ENV: script,
      IFS: '/',
      SECRET: '1',
    };
    const environment = (): Record<string, string> => {
      const text = readFileSync(`/proc/${anka.daemonPid()}/environ`, 'utf8');
      return Object.fromEntries(text.split('\0').flatMap((l) => (l === '' ? [] : [[l.slice(0, l.indexOf('=')), l.slice(l.indexOf('=') + 1)]])));
    };
    // root itself, outside the namespace, finds the real ip
    const inHost = (argv: string[]): string[] => ['/usr/bin/env', ...Object.entries(env).map(([k, v]) => `${k}=${v}`), ...argv];
    const commandLine = anka.commandLine('').trim().split(' ');
    const command = async (...words: string[]): Promise<void> => {
      await w.host.ask([...inHost(commandLine), ...words].join(' '));
    };
    await command('create', '-d', '1G', 'vm1');
    await command('doctor');
    const seen = environment();
    expect(Object.keys(seen).filter((name) => name in env && name !== 'PATH' && name !== 'HOME')).toEqual([]);
    expect(seen['PATH']).not.toContain(bin);
    expect(seen['HOME']).not.toBe(bin);
    expect(await anka.body('list')).toMatchObject([{ name: 'vm1' }]);
    const ran = new Set(readFileSync(trace, 'utf8').trim().split('\n'));
    expect(ran, 'only the command of the caller').toEqual(new Set([commandLine.at(-1)]));
    // a daemon that is started directly has these variables, but what it starts has not
    await anka.ok('daemon stop');
    writeFileSync(trace, '');
    const main = join(commandLine.at(-1) as string, '../../daemon/main.js');
    const daemon = w.host.spawn(inHost([process.execPath, main, '--foreground']), anka.env);
    await until('it answers', async () => (await anka.run(['daemon', 'status'])).stdout.includes('running'));
    await anka.ok('create -d 1G vm2');
    await anka.ok('doctor').catch(() => {}); // it may have found something
    expect(new Set(readFileSync(trace, 'utf8').trim().split('\n'))).toEqual(new Set([main]));
    await anka.ok('delete --yes --all');
    await anka.ok('network reset');
    await anka.ok('daemon stop');
    await until('it has exited', () => daemon.exitCode !== null);
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
