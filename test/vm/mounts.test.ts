/** Shared directories in real guests: root's daemon on the kernel engine, an ordinary user's on the user engine. */
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { ShownMount } from '../../src/api/types.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { ORDINARY } from '../world/remote-engine.ts';
import { missing, until, World } from '../world/world.ts';

describe.each(['kernel', 'user'] as const)('shared directories: %s engine', (engine) => {
  const why = missing('root', 'netns', 'qemu', ...(engine === 'kernel' ? (['tun'] as const) : []));
  describe.skipIf(why !== null)(why ?? 'can run', () => {
    let w: World;
    let anka: Anka;
    let shared: string;

    const inGuest = (script: string) => anka.run(['run', 'vm1', 'sh', '-c', script]);
    const output = async (script: string): Promise<string> => {
      const r = await inGuest(script);
      if (r.status !== 0) throw new Error(`${script}: ${r.status} ${r.stderr}${r.stdout}`);
      return r.stdout;
    };
    const mounts = (vm = 'vm1') => anka.body<ShownMount[]>(`show ${vm} mount`);
    /** Pids of the file servers, and of the ssh processes that they are connected to. */
    const processes = (what: 'share-main' | 'anka-mount' = 'share-main'): number[] =>
      w.host
        .run(
          `ip netns pids ${w.host.name} | while read p; do tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null | grep -q '[${what[0]}]${what.slice(1)}' && echo $p; done; true`,
        )
        .split('\n')
        .filter((l) => l !== '')
        .map(Number);
    const isMounted = (name: string) =>
      until(
        `${name} is mounted`,
        async () => (await mounts()).some((m) => m.name === name && m.state === 'mounted') && (await inGuest(`[ -e /media/${name}/marker ]`)).status === 0,
      );

    beforeAll(async () => {
      w = new World(engine === 'kernel' ? 'sk-' : 'su-');
      anka = new Anka(w, tinyGuest(), { ordinary: engine === 'user' });
      shared = join(w.dir, 'data');
      mkdirSync(shared);
      writeFileSync(join(shared, 'marker'), 'from the host\n');
      writeFileSync(join(w.dir, 'secret'), 'outside\n');
      await anka.ok('create -m 128M -c 1 -d 1G vm1');
      const uid = engine === 'user' ? ORDINARY : 1_640_000_001;
      for (const path of [shared, join(shared, 'marker')]) chownSync(path, uid, uid);
      await anka.ok('start vm1');
      expect((await anka.body<{ engine: string }>('daemon status')).engine).toBe(engine);
    });

    afterAll(async () => {
      if (!w) return;
      await anka.end();
      expect([...processes(), ...processes('anka-mount')], 'processes that are left').toEqual([]);
      w.close();
    });

    test('a directory appears in the running guest, and both sides see each other’s changes', async () => {
      expect(await anka.ok(`mount vm1 ${shared}`)).toBe(`${shared} is /media/data in the guest (ID 1)\n`);
      expect(await mounts()).toEqual([
        { id: 1, name: 'data', host_path: shared, guest_path: '/media/data', read_only: false, persistent: false, state: 'mounted' },
      ]);
      expect(await output('cat /media/data/marker; echo from the guest >/media/data/answer; mkdir /media/data/d; mv /media/data/answer /media/data/d/')).toBe(
        'from the host\n',
      );
      expect(readFileSync(join(shared, 'd/answer'), 'utf8')).toBe('from the guest\n');
      writeFileSync(join(shared, 'later'), 'later\n');
      expect(await output('cat /media/data/later; ls /media/data')).toBe('later\nd\nlater\nmarker\n');
      const sum = (await output('dd if=/dev/urandom of=/media/data/large bs=64k count=40 2>/dev/null; md5sum </media/data/large')).trim();
      expect(w.host.run(`md5sum <${shared}/large`).trim()).toBe(sum);
      rmSync(join(shared, 'large'));
    });

    test('the server is the VM’s user, has no rights, opens no other file and no socket', () => {
      const [pid] = processes();
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      const uid = engine === 'user' ? ORDINARY : 1_640_000_001;
      expect(status).toMatch(new RegExp(`^Uid:\\t${uid}\\t${uid}\\t${uid}\\t${uid}$`, 'm'));
      expect(status).toMatch(/^CapEff:\t0+$/m);
      expect(status).toMatch(/^NoNewPrivs:\t1$/m);
      expect(status).toMatch(/^Seccomp:\t2$/m);
      const directories = readdirSync(`/proc/${pid}/fd`).filter((fd) => statSync(`/proc/${pid}/fd/${fd}`).isDirectory());
      expect(directories.map((fd) => statSync(`/proc/${pid}/fd/${fd}`).ino)).toEqual([statSync(shared).ino]);
    });

    test('links lead the guest to its own files, never to the host’s', async () => {
      symlinkSync(join(w.dir, 'secret'), join(shared, 'link'));
      symlinkSync('..', join(shared, 'up'));
      const tries = ['/media/data/link', '/media/data/up/secret', '/media/data/../secret'].map((path) => `cat ${path}`);
      expect(await output(`${tries.map((t) => `${t} 2>/dev/null && echo LEAK`).join('; ')}; true`)).toBe('');
      expect(await output('ln -s /etc/shadow /media/data/mine; ln /media/data/marker /media/data/hard; cat /media/data/hard')).toBe('from the host\n');
      for (const name of ['link', 'up', 'mine', 'hard']) rmSync(join(shared, name));
    });

    test('read-only: the guest changes nothing', async () => {
      await anka.ok(`mount --ro vm1 ${shared}:fixed`);
      expect((await inGuest('touch /media/fixed/x || rm /media/fixed/marker')).status).not.toBe(0);
      expect((await inGuest('sudo mount -o remount,rw /media/fixed; sudo rm /media/fixed/marker')).status).not.toBe(0);
      expect([existsSync(join(shared, 'x')), existsSync(join(shared, 'marker'))]).toEqual([false, true]);
      await anka.ok('unmount vm1 fixed');
      expect((await inGuest('[ -e /media/fixed ]')).status).toBe(1);
    });

    test('wrong requests say what to do, and change nothing', async () => {
      const before = await mounts();
      const refused = async (line: string) => {
        const r = await anka.run(['-j', ...line.split(' ')]);
        const { status, message, code } = JSON.parse(r.stdout) as { status: string; message: string; code: number };
        expect([status, code]).toEqual(['ERROR', r.status]);
        return message;
      };
      expect(await refused(`mount vm1 ${shared}`)).toBe(
        `vm1 has a mount named 'data' already, of ${shared}; choose another name with DIR:NAME, or run 'anka unmount vm1 data'`,
      );
      expect(await refused(`mount vm1 ${w.dir}/none`)).toBe(`${w.dir}/none does not exist; create the directory first`);
      expect(await refused(`mount vm1 ${w.dir}/secret`)).toBe(`${w.dir}/secret is not a directory`);
      expect(await refused(`mount vm1 ${shared}:-x`)).toContain("'-x' cannot be a name in the guest");
      expect(await refused('unmount vm1 9')).toBe("vm1 has no mount '9'; 'anka show vm1 mount' lists its mounts");
      expect(await refused(`mount none ${shared}`)).toBe('none: not found');
      await anka.ok('create -m 128M -c 1 -d 1G vm2');
      expect(await refused(`mount vm2 ${shared}`)).toBe("vm2 is not running; run 'anka start vm2' first, or 'anka modify vm2 mount DIR' for its next start");
      await anka.ok('delete --yes vm2');
      expect(await output('sudo mkdir -p /media/full; sudo touch /media/full/x')).toBe('');
      expect(await refused(`mount vm1 ${shared}:full`)).toContain('the mount point in the guest is in use; empty or unmount /media/full there');
      expect(await output('sudo mv /usr/bin/sshfs /usr/bin/hidden')).toBe('');
      expect(await refused(`mount vm1 ${shared}:x`)).toContain("the guest has no sshfs; run 'anka run vm1 sudo apt-get install -y sshfs'");
      await output('sudo mv /usr/bin/hidden /usr/bin/sshfs');
      expect(await mounts()).toEqual(before);
    });

    test.runIf(engine === 'kernel')('a directory that only root may read is refused, one that the VM’s user may not write is read-only in effect', async () => {
      const closed = join(w.dir, 'closed');
      mkdirSync(closed, { mode: 0o700 });
      const r = await anka.run(['mount', 'vm1', closed]);
      expect([r.status === 0, r.stderr]).toEqual([false, expect.stringContaining(`may not read ${closed}; run 'setfacl -R -m u:1640000001:rX ${closed}'`)]);
      const open = join(w.dir, 'open');
      mkdirSync(open, { mode: 0o755 });
      writeFileSync(join(open, 'private'), 'root only', { mode: 0o600 });
      writeFileSync(join(open, 'public'), 'public\n', { mode: 0o644 });
      const shown = await anka.run(['mount', 'vm1', open]);
      expect([shown.status, shown.stderr]).toEqual([0, expect.stringContaining('may not write to it; the guest can read it only')]);
      expect(await output('cat /media/open/public; sudo cat /media/open/private 2>/dev/null; sudo touch /media/open/x 2>/dev/null; true')).toBe('public\n');
      await anka.ok('unmount vm1 open');
    });

    test('kill -9 of the daemon, the server or ssh: the mount stays, or comes back', async () => {
      const before = [...processes(), ...processes('anka-mount')];
      await anka.killDaemon();
      await isMounted('data');
      expect([...processes(), ...processes('anka-mount')], 'adopted').toEqual(before);
      for (const what of ['share-main', 'anka-mount'] as const) {
        const [pid] = processes(what);
        process.kill(pid as number, 'SIGKILL');
        await until('another process runs', () => processes(what).some((p) => p !== pid));
        await isMounted('data');
      }
      expect([processes().length, processes('anka-mount').length]).toEqual([1, 1]);
    });

    test('suspend and resume, a reset and a reboot: the mount is back', async () => {
      await anka.ok('suspend vm1');
      await until('no process serves a suspended VM', () => processes().length === 0);
      expect((await mounts()).map((m) => m.state)).toEqual(['inactive']);
      await anka.ok('start vm1');
      await isMounted('data');
      await anka.ok('reboot -f vm1');
      await until('the old session has ended', async () => (await mounts())[0]?.state === 'connecting');
      await isMounted('data');
      await anka.ok('reboot vm1');
      await isMounted('data');
      expect(await output('grep -c fuse.sshfs /proc/mounts')).toBe('1\n');
    });

    test('stop ends a mount; a persistent one is back after the next start, also with `start --mount`', async () => {
      await anka.ok('stop vm1');
      expect(await mounts()).toEqual([]);
      expect(await anka.ok(`modify vm1 mount ${shared}:kept:ro`)).toBe(`${shared} will be /media/kept in the guest after the next start, read-only (ID 1)\n`);
      await anka.ok(`start --mount ${shared}:extra vm1`);
      await isMounted('kept');
      await isMounted('extra');
      expect((await mounts()).map((m) => [m.id, m.name, m.read_only, m.persistent])).toEqual([
        [1, 'kept', true, true],
        [2, 'extra', false, false],
      ]);
      await anka.ok('stop -f vm1');
      expect((await mounts()).map((m) => [m.name, m.state])).toEqual([['kept', 'inactive']]);
      await until('no process is left', () => processes().length === 0 && processes('anka-mount').length === 0);
      await anka.ok('unmount vm1 --all');
      expect(await mounts()).toEqual([]);
    });
  });
});
