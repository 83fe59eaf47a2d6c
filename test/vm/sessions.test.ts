/**
 * One state for every session of an ordinary user, with a real guest: a desktop that ends, su and cron, which have no
 * XDG_RUNTIME_DIR; then a run directory that is removed, with the daemon alive and dead.
 */
import { chownSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isAlive, userOf } from '../../src/host/process.ts';
import type { Result } from '../world/anka.ts';
import { builtMain } from '../world/built.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');
const USER = 'anka-ann';
const UID = 65_532;

function commandLine(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return ''; // exited meanwhile
  }
}

describe.skipIf(why !== null)(`sessions of an ordinary user${why ? ` (${why})` : ''}`, () => {
  let w: World;
  const main = builtMain();
  const home = () => join(w.dir, 'ann');
  const state = () => join(home(), '.local/share/anka');
  const login = () => join(w.dir, 'login');

  /** Directories of the user's. */
  function createOwn(...paths: string[]): void {
    for (const path of paths) {
      mkdirSync(path, { mode: 0o700 });
      chownSync(path, UID, UID);
    }
  }

  async function result(argv: readonly string[]): Promise<Result> {
    const child = w.host.spawn(argv, {}, 'pipe');
    let [stdout, stderr] = ['', ''];
    child.stdout?.on('data', (d: Buffer) => {
      stdout += d.toString();
    });
    child.stderr?.on('data', (d: Buffer) => {
      stderr += d.toString();
    });
    child.stdin?.end();
    const status = await new Promise<number>((resolve) => child.once('close', (code) => resolve(code ?? 128)));
    return { status, stdout, stderr };
  }
  const asUser = ['setpriv', `--reuid=${UID}`, `--regid=${UID}`, '--clear-groups', 'env', '-i'];
  const common = () => [`HOME=${home()}`, `LOGNAME=${USER}`, 'SHELL=/bin/sh', 'PATH=/usr/bin:/bin'];
  const desktop = (line: string) =>
    result([...asUser, ...common(), `XDG_RUNTIME_DIR=${login()}`, `TMPDIR=${login()}`, 'LANG=C.UTF-8', process.execPath, main, ...line.split(' ')]);
  const cron = (line: string) => result([...asUser, ...common(), process.execPath, main, ...line.split(' ')]);
  const su = (line: string) => result(['su', '-', USER, '-c', `${process.execPath} ${main} ${line}`]);
  async function ok(done: Promise<Result>): Promise<string> {
    const r = await done;
    expect(r.status, r.stderr).toBe(0);
    return r.stdout;
  }

  /** The user's processes in the namespace whose command line matches. */
  const processes = (pattern: RegExp): number[] =>
    w.host
      .run(`ip netns pids ${w.host.name}`)
      .trim()
      .split('\n')
      .map(Number)
      .filter((pid) => userOf(pid) === UID && pattern.test(commandLine(pid)));
  const daemons = () => processes(/daemon\/main/);
  const qemu = () => processes(/^qemu-system/);
  async function killDaemon(): Promise<void> {
    for (const pid of daemons()) process.kill(pid, 'SIGKILL');
    await until('the daemon has exited', () => daemons().length === 0);
  }

  beforeAll(async () => {
    w = new World('ts-');
    // `ip netns exec` shows these in /etc of the namespace
    for (const [file, line] of Object.entries({ passwd: `${USER}:*:${UID}:${UID}::${home()}:/bin/sh`, group: `${USER}:*:${UID}:` }))
      writeFileSync(join('/etc/netns', w.host.name, file), `${readFileSync(join('/etc', file), 'utf8')}${line}\n`);
    createOwn(home(), login(), join(home(), '.local'), join(home(), '.local/share'), state());
    cpSync(tinyGuest(), join(state(), 'base'), { recursive: true });
    w.host.run(`chown -R ${UID}:${UID} ${join(state(), 'base')}`);
    await ok(desktop('create -m 128M -c 1 -d 1G vm1'));
    await ok(desktop('start vm1'));
  });

  afterAll(async () => {
    if (!w) return;
    await ok(cron('delete --yes --all'));
    await ok(cron('daemon stop'));
    w.close();
  });

  test('B6: the session that started the VM ends, and its XDG_RUNTIME_DIR with it: su and cron find the daemon and the guest', async () => {
    rmSync(login(), { recursive: true });
    const [daemon] = daemons();
    expect(await ok(cron('show vm1 status'))).toBe('running\n');
    expect(await ok(su('run vm1 echo by su'))).toBe('by su\n');
    expect(await ok(cron('run vm1 echo by cron'))).toBe('by cron\n');
    createOwn(login());
    expect(await ok(desktop('show vm1 status'))).toBe('running\n');
    expect(daemons()).toEqual([daemon]);
  });

  test('B6: the lock file is removed, then the run directory: the daemon puts both back, and no second one starts', async () => {
    const daemon = daemons();
    expect(daemon).toHaveLength(1);
    const lock = join(state(), 'ankad.lock');
    rmSync(lock);
    await until('the lock is back', () => existsSync(lock) && readFileSync(lock, 'utf8') === `${daemon[0]}\n`);
    rmSync(join(state(), 'run'), { recursive: true });
    expect(await ok(su('show vm1 status'))).toBe('running\n');
    // the command may have started another one, which exits
    await until('no other daemon is left', () => daemons().join() === daemon.join());
    const lost = await cron('run vm1 true');
    expect([lost.status, lost.stderr]).toEqual([125, expect.stringMatching(/vm1: the directory \S+net-shared was removed; stop all VMs of this network/)]);
    expect((await cron('console vm1')).stderr).toMatch(/console\.sock was removed; 'anka stop vm1' and 'anka start vm1' create it again/);
    await ok(su('stop -f vm1'));
    await ok(su('start vm1'));
    expect(await ok(cron('run vm1 echo again'))).toBe('again\n');
  });

  test('B6: the VM’s UUID in a command line of the user’s is not taken for its process', async () => {
    const uuid = (await ok(cron('show vm1 uuid'))).trim();
    await ok(cron(`stop -f ${uuid}`));
    await ok(cron(`start ${uuid}`));
    expect(await ok(cron(`run ${uuid} echo by uuid`))).toBe('by uuid\n');
  });

  test('B6: daemon and run directory are gone, QEMU lives: its disk is not copied, used or removed under it', async () => {
    const [pid] = qemu() as [number];
    await killDaemon();
    rmSync(join(state(), 'run'), { recursive: true });
    expect(await ok(cron('show vm1 status'))).toBe('failed\n');
    for (const line of ['start vm1', 'stop vm1', 'clone vm1 vm2'])
      expect((await cron(line)).stderr, line).toMatch(/QEMU process.*anka stop -f vm1' to stop it/);
    expect(await ok(cron('show vm1 status'))).toBe('failed\n');
    expect(isAlive(pid)).toBe(true);
    const [uuid] = readdirSync(join(state(), 'vms'));
    expect(existsSync(join(state(), 'vms', uuid as string, 'disk.qcow2'))).toBe(true);
    await ok(su('delete --yes vm1'));
    expect(isAlive(pid)).toBe(false);
    expect(readdirSync(join(state(), 'vms'))).toEqual([]);
    expect(daemons()).toHaveLength(1);
  });
});
