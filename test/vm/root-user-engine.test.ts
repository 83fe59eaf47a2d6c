/**
 * A real guest (the tiny one) on root's user engine: QEMU and the network process run as two users, and reach each
 * other (docs/decisions/0012).
 */
import {
  chownSync,
  closeSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../../src/api/client.ts';
import { isAlive } from '../../src/host/process.ts';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { asOther, expectClosedToOthers, filesBelow, refused, tries, unixSockets } from '../world/other-user.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');

describe.skipIf(why !== null)(`a real guest on root's user engine${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(async () => {
    w = new World('ru-');
    anka = new Anka(w, tinyGuest());
    await serve(w.outside, 8080, 'outside');
    await anka.ok('config engine user');
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    await anka.ok('start vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B10, B12: it has an address and reaches outside; no process that handles guest traffic runs as root', async () => {
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\.\d+$/);
    expect((await anka.run(['run', 'vm1', 'sh', '-c', 'echo | nc -w 60 10.9.0.1 8080'])).stdout).toMatch(/^outside sees 10\.9\.0\.2\n/);
    const lines = w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .filter((l) => /qemu-system|network-main/.test(l));
    const users = lines.map((l) => /^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${l.split(' ')[0]}/status`, 'utf8'))?.[1]);
    expect(users).toHaveLength(2);
    expect(new Set(users).size, users.join(' ')).toBe(2);
    expect(users).not.toContain('0');
  });

  test('B92: another local user opens no socket and no file of anka’s', async () => {
    await anka.address('vm1');
    await expectClosedToOthers(w.host, anka.home);
  });

  test('B92: a QEMU that a guest has taken over reaches no other process of anka’s, and none of its state', async () => {
    const user = statSync(join(anka.home, 'vms', readdirSync(join(anka.home, 'vms'))[0] as string, 'disk.qcow2')).uid;
    expect(user).toBeGreaterThan(1_640_000_000);
    const sockets = unixSockets(w.host, anka.home);
    expect(sockets).toHaveLength(6);
    expect(await tries(w.host, 'connect', sockets, user)).toEqual(refused('connect', sockets));
    const files = filesBelow(anka.home).filter((p) => !/vms.*disk/.test(p));
    expect(await tries(w.host, 'open', files, user)).toEqual(refused('open', files));
  });

  /** The VM's two directories, and the user that its QEMU runs as. */
  const taken = () => {
    const uuid = readdirSync(join(anka.home, 'vms'))[0] as string;
    const state = join(anka.home, 'vms', uuid);
    return { state, run: join(anka.home, 'run/vm', uuid.slice(0, 8)), disk: join(state, 'disk.qcow2'), user: 1_640_000_001 };
  };
  /** A file of root's that no other user may read. */
  const secret = () => join(w.dir, 'secret');
  const untouched = (): void => {
    const { uid, gid, mode, size } = statSync(secret());
    expect([uid, gid, mode & 0o777, size]).toEqual([0, 0, 0o600, 6]);
  };

  test('B92: a QEMU that a guest has taken over can put nothing where root looks: no link, no fifo, no file, no directory', async () => {
    const { state, run, user } = taken();
    writeFileSync(secret(), 'secret', { mode: 0o600 });
    const names = [
      'disk.qcow2',
      'disk.qcow2.part',
      'memory',
      'memory.part',
      'seed.img',
      'clone.part',
      'qmp.sock',
      'console.sock',
      'console.log',
      'qemu.log',
      'qemu.pid',
    ];
    const tricks = [
      'ln -sfn SECRET PATH',
      'ln -f /etc/passwd PATH',
      'mkfifo PATH',
      'mkdir PATH',
      'echo >PATH.x',
      'mv -fT PATH PATH.y',
      'rm -f PATH/../disk.qcow2',
    ];
    const lines = [state, run].flatMap((dir) => names.flatMap((n) => tricks.map((t) => t.replaceAll('PATH', `${dir}/${n}`).replace('SECRET', secret()))));
    const before = [filesBelow(state), filesBelow(run)];
    writeFileSync(join(w.dir, 'tricks'), lines.join('\n'));
    await w.host.ask(asOther(`sh -c '. ${w.dir}/tricks' 2>/dev/null; true`, user));
    expect([filesBelow(state), filesBelow(run)]).toEqual(before);
    expect(lstatSync(state)).toMatchObject({ uid: 0, gid: 0 });
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.ok('stop -f vm1');
    untouched();
  });

  test('B92: what an earlier version left to that user is taken back: a link, a hard link, a fifo or a directory gives nothing of root’s away', async () => {
    const { state, run, disk, user } = taken();
    const kept = join(w.dir, 'kept');
    renameSync(disk, kept);
    const plant: Record<string, (path: string) => void> = {
      link: (path) => symlinkSync(secret(), path),
      hardlink: (path) => linkSync(secret(), path),
      fifo: (path) => void w.host.run(asOther(`mkfifo ${path}`, user)),
      directory: (path) => mkdirSync(path),
    };
    for (const [what, put] of Object.entries(plant)) {
      chownSync(state, user, user);
      put(disk);
      const r = await anka.run(['start', 'vm1']);
      expect(r.status, what).toBe(20);
      expect(r.stderr, what).toMatch(/disk\.qcow2 is not used: it (is not a regular file|belongs to user 0); remove it, or delete the VM\n$/);
      rmSync(disk, { recursive: true });
      untouched();
    }
    renameSync(kept, disk);
    for (const name of ['qemu.log', 'console.log', 'console.log.1', 'qmp.sock', 'qemu.pid']) {
      rmSync(join(run, name), { force: true });
      symlinkSync(secret(), join(run, name));
    }
    for (const dir of [state, run]) chownSync(dir, user, user);
    await anka.ok('start vm1');
    expect([statSync(state).uid, statSync(run).uid, statSync(disk).uid]).toEqual([0, 0, user]);
    await anka.ok('stop -f vm1');
    untouched();
  });

  /** Overwrites a process's arguments, as the process itself could. */
  function disguise(pid: number): void {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ')
      .map(Number);
    // arg_start and arg_end of proc(5), counted from the third field
    const [start, end] = [fields[45] as number, fields[46] as number];
    const fd = openSync(`/proc/${pid}/mem`, 'r+');
    writeSync(fd, Buffer.alloc(end - start - 1, 'x'), 0, end - start - 1, start);
    closeSync(fd);
  }

  test('B6, B92: the daemon is killed and its run directory removed, QEMU has changed its arguments: it is found, and stopped before its disk is removed', async () => {
    const { state } = taken();
    await anka.ok('start vm1');
    const pids = w.host.run(`pgrep -f '[-]uuid ${basename(state)}'`).trim();
    expect(pids).toMatch(/^\d+$/);
    const pid = Number(pids);
    await anka.killDaemon();
    disguise(pid);
    expect(readFileSync(`/proc/${pid}/cmdline`, 'latin1')).toMatch(/^x+.?$/);
    expect(await anka.ok('show vm1 status'), 'with its socket it is adopted').toBe('running\n');
    for (const record of ['kept', 'lost']) {
      await anka.killDaemon();
      rmSync(join(anka.home, 'run'), { recursive: true });
      if (record === 'lost') rmSync(join(state, 'process.json'));
      expect(await anka.ok('show vm1 status'), record).toBe('failed\n');
      for (const line of ['start vm1', 'stop vm1', 'clone vm1 vm2'])
        expect((await anka.run(line.split(' '))).stderr, record).toMatch(/QEMU process.*anka stop -f vm1' to stop it/);
      expect(isAlive(pid)).toBe(true);
    }
    await anka.ok('delete --yes vm1');
    expect(isAlive(pid)).toBe(false);
    expect(existsSync(state)).toBe(false);
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
  });

  test('B92: delete follows no link that another process puts there meanwhile', async () => {
    const { state, user } = taken();
    const victim = join(w.dir, 'victim');
    mkdirSync(victim);
    for (let i = 0; i < 50; i++) writeFileSync(join(victim, `f${i}`), '');
    chownSync(state, user, user);
    const race = `cd ${state} && mkdir a && touch $(seq -f a/f%.0f 0 49); ln -s ${victim} b; echo; while mv -T a c && mv -T b a && mv -T a b && mv -T c a; do :; done 2>/dev/null; mv -T b a 2>/dev/null; true`;
    writeFileSync(join(w.dir, 'race'), race);
    const racer = w.host.spawn(['sh', '-c', asOther(`sh ${w.dir}/race`, user)]);
    await new Promise((resolve) => racer.stdout?.once('data', resolve));
    await anka.ok('delete --yes vm1');
    expect(existsSync(state)).toBe(false);
    expect(readdirSync(victim)).toHaveLength(50);
  });

  test('B24, B70: a VM that starts counts as one that runs, and one that is started during a change of the engine waits for it', async () => {
    const api = new Client(join(anka.home, 'run/ankad.sock'));
    const engine = (value: string) => api.put('/v1/config/engine', { value });
    await anka.ok('delete --yes --all');
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    const refusals: Promise<string>[] = [];
    const onProgress = (): void => {
      if (refusals.length > 0) return;
      const refusal = (call: Promise<unknown>) =>
        call.then(
          () => 'done',
          (e: Error) => e.message,
        );
      refusals.push(refusal(api.post('/v1/networks/reset')), refusal(engine('kernel')));
    };
    await api.post('/v1/vms/vm1/start', {}, { onProgress });
    expect(await Promise.all(refusals)).toEqual([
      "networks cannot be reset while VMs run or start: vm1; run 'anka stop --all' first",
      "the engine cannot be changed while VMs run, start or are suspended: vm1; run 'anka stop vm1' first",
    ]);
    await anka.ok('stop -f vm1');
    const change = engine('kernel').catch((e: Error) => expect(e.message).toMatch(/^the engine cannot be changed while VMs run/));
    await Promise.all([change, api.post('/v1/vms/vm1/start')]);
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\.\d+$/);
  });
});
