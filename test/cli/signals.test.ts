/** Signals that mean nothing to our programs end none of them, and open no debugger (B91). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isAlive } from '../../src/host/process.ts';
import { Anka } from '../world/anka.ts';
import { builtMain } from '../world/built.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const PROGRAM = /(ankad|cli|daemon|engine\/[a-z/]+)\/[a-z-]*main\.js$/;
/** Runs its arguments on a terminal of its own, and prints the status. */
const ON_TERMINAL = 'import pty, sys; print("status", pty.spawn(sys.argv[1:]), flush=True)';

describe.skipIf(why !== null)(`signals${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;

  beforeAll(async () => {
    w = new World('ts-');
    anka = new Anka(w, tinyGuest());
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  /** Our Node programs in the namespace, by pid. */
  const programs = (): Map<number, string> =>
    new Map(
      w.host.pids().flatMap((pid) => {
        const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        const program = words.find((word) => PROGRAM.test(word));
        return program && words[0]?.endsWith('node') ? [[pid, program]] : [];
      }),
    );

  test.each(['kernel', 'user'])('B91: SIGUSR1, SIGUSR2 and SIGHUP neither end the programs of the %s engine nor open a debugger', async (engine) => {
    await anka.ok(`config engine ${engine}`);
    await anka.ok(`create -m 128M -d 1G ${engine}`);
    const events = w.host.spawn([process.execPath, builtMain(), 'events'], anka.env);
    let seen = '';
    events.stdout?.on('data', (d: Buffer) => (seen += d.toString()));
    await anka.ok(`start ${engine}`);
    await until('events are followed', async () => {
      await anka.ok('create -m 128M -d 1G other');
      await anka.ok('delete --yes other');
      return seen !== '';
    });
    await until('three programs run', () => programs().size >= 3);
    const all = programs();
    const listening = w.host.run('ss -Hltn');
    for (const [pid, program] of all) for (const s of program.includes('/cli/') ? ['SIGUSR1'] : ['SIGUSR1', 'SIGUSR2', 'SIGHUP']) process.kill(pid, s);
    // each has taken its signals once it is idle again
    await anka.ok('list');
    await anka.ok(`show ${engine}`);
    await until('no signal is pending', () => [...all.keys()].every((pid) => /^ShdPnd:\t0+$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'))));
    expect([...all].filter(([pid]) => !isAlive(pid))).toEqual([]);
    expect(w.host.run('ss -Hltn')).toBe(listening);
    events.kill();
    await anka.ok(`delete --yes ${engine}`);
  });

  test('B6: SIGHUP stops a daemon in the foreground of a terminal', async () => {
    await anka.ok('daemon stop');
    const child = w.host.spawn(['python3', '-c', ON_TERMINAL, process.execPath, join(builtMain(), '../../daemon/main.js'), '--foreground'], anka.env);
    let text = '';
    child.stdout?.on('data', (d: Buffer) => (text += d.toString()));
    await until('it is ready', () => text.includes('the daemon is ready'));
    process.kill(anka.daemonPid() as number, 'SIGHUP');
    await until('it has stopped', () => text.includes('status 0'));
    expect(text).toContain('the daemon stops');
  });
});
