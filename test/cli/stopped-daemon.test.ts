/** A daemon that is stopped or hung: each command says so in one sentence, in bounded time (B6, B84). */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

/** One command for each way in which a command waits for the daemon. */
const COMMANDS = [
  'list',
  'show vm1',
  'create -d 1G vm2',
  'start vm1',
  'stop vm1',
  'delete --yes vm1',
  'clone vm1 vm2',
  'modify vm1 set cpu 1',
  'config',
  'doctor',
  'events',
  'network list',
  'network reset',
  'run vm1 true',
  'nc vm1 22',
  'console vm1',
  'capture -w /dev/null vm1',
  'explain vm1 to 198.51.100.1:80',
  'daemon status',
  'daemon stop',
];

describe.skipIf(why !== null)(`a daemon that does not answer${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(async () => {
    w = new World('ts-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -d 1G vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('stopped by SIGSTOP: every command names it and the remedy, and works after that', async () => {
    const uuid = await anka.ok('show vm1 uuid');
    const pid = anka.daemonPid() as number;
    process.kill(pid, 'SIGSTOP');
    const results = await Promise.all(COMMANDS.map(async (c) => [c, await anka.run(c.split(' '))] as const));
    for (const [command, { status, stderr, stdout }] of results) {
      const lines = stderr.trimEnd().split('\n');
      expect(lines.at(-1), command).toBe(`anka: the daemon (pid ${pid}) does not answer: it is stopped by a signal; run 'kill -CONT ${pid}'`);
      expect([status, stdout], command).toEqual([22, '']);
    }
    process.kill(pid, 'SIGCONT');
    expect(
      (await anka.body<{ name: string; status: string }[]>('list')).map((v) => [v.name, v.status]),
      'no failed command was carried out',
    ).toEqual([['vm1', 'stopped']]);
    expect(await anka.ok('show vm1 uuid')).toBe(uuid);
  });

  test('a stream that has begun ends when the daemon is stopped', async () => {
    const events = anka.run(['events']);
    await anka.ok('create -m 128M -d 1G vm3');
    const pid = anka.daemonPid() as number;
    process.kill(pid, 'SIGSTOP');
    const { status, stderr } = await events;
    expect([status, stderr]).toEqual([22, `anka: the daemon (pid ${pid}) does not answer: it is stopped by a signal; run 'kill -CONT ${pid}'\n`]);
    process.kill(pid, 'SIGCONT');
    await anka.ok('delete --yes vm3');
  });

  test('a long operation is waited for', async () => {
    const r = await anka.run(['start', 'vm1']);
    expect([r.status, r.stderr.includes('does not answer')]).toEqual([0, false]);
    const wait = anka.run(['stop', 'vm1'], { env: { ANKA_STOP_TIMEOUT: '6' } });
    expect((await wait).stderr).not.toMatch(/does not answer/);
    await anka.ok('stop -f vm1');
  });
});
