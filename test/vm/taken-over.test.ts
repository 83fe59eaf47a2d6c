/**
 * A QEMU that its guest has taken over, under root: what it can do to root's files, to the disk of a clone, to the logs
 * and to the daemon that waits for it. The test does what such a process could, as its user and through its
 * descriptors.
 */
import {
  chownSync,
  closeSync,
  existsSync,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Client } from '../../src/api/client.ts';
import { isAlive } from '../../src/host/process.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { asOther } from '../world/other-user.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');
const MIB = 1 << 20;
/** As daemon/desired.ts gives it to the first VM. */
const USER = 1_640_000_001;

describe.skipIf(why !== null)(`a QEMU that a guest has taken over${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let state: string;
  let run: string;

  const qemuPid = (): number => {
    const line = w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .find((l) => l.includes('qemu-system'));
    expect(line).toBeDefined();
    return Number(line?.split(' ')[0]);
  };
  /** An open file of QEMU's, as QEMU itself can write to it. */
  const descriptorOf = (path: string): number => {
    const dir = `/proc/${qemuPid()}/fd`;
    const fd = readdirSync(dir).find((n) => readlinkSync(join(dir, n)) === path);
    return openSync(join(dir, fd as string), 'a');
  };

  beforeAll(async () => {
    w = new World('to-');
    anka = new Anka(w, tinyGuest());
    w.host.run(`umask 077; ${anka.commandLine('config engine user')}`); // a mask under which no VM could pass
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    const uuid = readdirSync(join(anka.home, 'vms'))[0] as string;
    state = join(anka.home, 'vms', uuid);
    run = join(anka.home, 'run/vm', uuid.slice(0, 8));
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B92: what it writes to its logs without end is bounded, and later messages are kept', async () => {
    await anka.ok('start vm1');
    for (const name of ['console.log', 'qemu.log']) {
      const path = join(run, name);
      const fd = descriptorOf(path);
      for (let i = 0; i < 3; i++) {
        for (let n = 0; n < 9; n++) writeSync(fd, Buffer.alloc(MIB, 'x'));
        await until(`${name} is emptied`, () => statSync(path).size <= 4 * MIB);
      }
      closeSync(fd);
      expect(statSync(`${path}.1`).size).toBe(4 * MIB);
    }
    await anka.ok('reboot -f vm1');
    await until('the console is logged', () => /^[^\0]*TINY GUEST READY/.test(readFileSync(join(run, 'console.log'), 'latin1')));
    expect(readdirSync(run).sort()).toEqual(['console.log', 'console.log.1', 'console.sock', 'qemu.log', 'qemu.log.1', 'qmp.sock']);
  });

  test('B92: no file of its own grows without end, and it leaves no core dump', () => {
    const limits = readFileSync(`/proc/${qemuPid()}/limits`, 'utf8');
    expect(limits).toMatch(/^Max file size +3221225472 +3221225472 /m); // twice the disk of 1 GiB, and 1 GiB
    expect(limits).toMatch(/^Max core file size +0 +0 /m);
  });

  test('B92: it cannot write to the disk of a clone of its VM, also through a descriptor that it keeps', async () => {
    const vms = join(anka.home, 'vms');
    const before = new Set(readdirSync(vms));
    let kept = -1;
    let cloned = false;
    const keep = async (): Promise<void> => {
      while (kept < 0 && !cloned) {
        await new Promise((resolve) => setImmediate(resolve));
        for (const dir of readdirSync(vms)) {
          const path = join(vms, dir, 'disk.qcow2.qemu.part');
          // while it is QEMU's
          if (before.has(dir) || lstatSync(path, { throwIfNoEntry: false })?.uid !== USER) continue;
          kept = openSync(path, 'r+');
        }
      }
    };
    const tryOnce = async (): Promise<boolean> => {
      cloned = false;
      const [status] = await Promise.all([anka.run(['clone', 'vm1', 'copy']).finally(() => (cloned = true)), keep()]);
      expect(status).toMatchObject({ status: 0 });
      if (kept < 0) await anka.ok('delete --yes copy');
      return kept >= 0;
    };
    // on a busy machine this process may not run while the file is QEMU's
    await until('it has the file open', tryOnce);
    const dir = join(vms, readdirSync(vms).find((d) => !before.has(d)) as string);
    expect(readdirSync(dir)).toEqual(['disk.qcow2']);
    writeSync(kept, Buffer.alloc(64 << 10, 'overwritten'), 0, 64 << 10, 0);
    expect(fstatSync(kept).nlink, 'its file is no file of a VM').toBe(0);
    closeSync(kept);
    const magic = Buffer.alloc(4);
    const disk = openSync(join(dir, 'disk.qcow2'), 'r');
    readSync(disk, magic, 0, 4, 0);
    closeSync(disk);
    expect(magic.toString('latin1')).toBe('QFI\xfb');
    expect(statSync(join(dir, 'disk.qcow2'))).toMatchObject({ uid: USER + 1, nlink: 1 });
    await anka.ok('start copy');
    await anka.ok('delete --yes copy');
  });

  test('B92: one that does not answer keeps neither the daemon from starting, nor a forced stop from its end', async () => {
    process.kill(qemuPid(), 'SIGSTOP');
    await anka.killDaemon();
    expect(await anka.ok('show vm1 status')).toBe('failed\n');
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    const pid = qemuPid();
    const api = new Client(join(anka.home, 'run/ankad.sock'));
    let begun = (): void => {};
    const saving = new Promise<void>((resolve) => {
      begun = resolve;
    });
    process.kill(pid, 'SIGSTOP');
    const suspended = api.post('/v1/vms/vm1/suspend', {}, { onProgress: () => begun() }).then(
      () => 'suspended',
      (e: Error) => e.message,
    );
    await saving;
    await anka.ok('stop -f vm1');
    expect(isAlive(pid)).toBe(false);
    expect(await suspended).toMatch(/QEMU (has exited|closed its QMP socket)/);
    expect(readdirSync(state).sort()).toEqual(['disk.qcow2', 'process.json']);
  });

  test('B92: links, fifos, files and directories that come and go under every name while commands run change nothing of root’s', async () => {
    const secret = join(w.dir, 'secret');
    const victim = join(w.dir, 'victim');
    w.host.run(`echo secret >${secret}; chmod 600 ${secret}; mkdir ${victim}; touch ${victim}/kept; chmod 700 ${victim}`);
    const disk = join(state, 'disk.qcow2');
    const names = {
      [state]: ['memory', 'memory.part', 'seed.img', 'disk.qcow2.part', 'clone.part', 'x.part'],
      [run]: ['qmp.sock', 'console.sock', 'console.log', 'console.log.1', 'console.log.1.part', 'qemu.log', 'qemu.log.1', 'qemu.pid'],
    };
    const tricks = [`ln -sfn ${secret} P`, `ln -sfn ${victim} P`, 'mkfifo P', 'truncate -s 1T P', 'mkdir -p P/P'];
    /** An earlier version had left both directories to that user. */
    const race = async (more: string[], commands: string[]): Promise<string[]> => {
      const paths = [...more, ...Object.entries(names).flatMap(([dir, files]) => files.map((f) => join(dir, f)))];
      writeFileSync(
        join(w.dir, 'race'),
        `while :; do for p in ${paths.join(' ')}; do\n${tricks.map((t) => `${t.replaceAll('P', '$p')}; rm -rf $p`).join('\n')}\ndone; done 2>/dev/null`,
      );
      const racer = w.host.spawn(asOther(`sh ${w.dir}/race`, USER).split(' '));
      const ends: string[] = [];
      for (const command of commands) {
        for (const dir of [state, run]) if (existsSync(dir)) chownSync(dir, USER, USER);
        const { status } = await anka.run(command.split(' '));
        ends.push(`${command}: ${status}`);
        expect(statSync(secret), command).toMatchObject({ uid: 0, gid: 0, mode: 0o100600, size: 7 });
        expect(statSync(victim), command).toMatchObject({ uid: 0, gid: 0, mode: 0o40700 });
        expect(readdirSync(victim), command).toEqual(['kept']);
      }
      racer.kill('SIGKILL');
      return ends;
    };
    const commands = ['start vm1', 'suspend vm1', 'start vm1', 'clone vm1 copy', 'stop -f vm1', 'start vm1', 'clone vm1 copy2', 'stop -f vm1'];
    console.log(`    ${(await race([], commands)).join(', ')}`);
    const kept = join(w.dir, 'kept');
    renameSync(disk, kept);
    console.log(`    ${(await race([disk], ['start vm1', 'clone vm1 copy3', 'start vm1', 'stop -f vm1', 'start vm1', 'stop -f vm1'])).join(', ')}`);
    for (const name of readdirSync(state)) rmSync(join(state, name), { recursive: true });
    renameSync(kept, disk);
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\.\d+$/);
    expect(lstatSync(state)).toMatchObject({ uid: 0, gid: 0 });
  });
});
