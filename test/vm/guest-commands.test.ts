/**
 * How commands end that are connected to a guest, on both engines, with a real guest: when the guest, the user, the
 * reader of a pipe, or the VM ends first. ANKA_SOAK_COMMANDS is the number of commands at once.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const AT_ONCE = Number(process.env['ANKA_SOAK_COMMANDS'] ?? 6);
/** ssh itself notices after a minute that a guest is gone. */
const SOONER_THAN_SSH_MS = 30_000;

/** A command that was started. */
interface Started {
  child: ChildProcess;
  stdout: string;
  stderr: string;
  exit: Promise<number | null>;
}

describe.each(['kernel', 'user'] as const)('commands in a guest: %s engine', (engine) => {
  const why = missing('root', 'netns', 'qemu', ...(engine === 'kernel' ? (['tun'] as const) : []));
  describe.skipIf(why !== null)(why ?? 'can run', () => {
    let w: World;
    let anka: Anka;

    /** Starts a shell line whose input stays open. */
    function start(line: string, shell = 'sh'): Started {
      const child = w.host.spawn([shell, '-c', line], {}, 'pipe');
      const s: Started = { child, stdout: '', stderr: '', exit: new Promise((resolve) => child.once('close', resolve)) };
      child.stdout?.on('data', (d: Buffer) => {
        s.stdout += d.toString('latin1');
      });
      child.stderr?.on('data', (d: Buffer) => {
        s.stderr += d.toString();
      });
      return s;
    }
    const startAnka = (words: string): Started => start(`exec ${anka.commandLine(words)}`);
    const inGuest = (script: string) => anka.run(['run', 'vm1', 'sh', '-c', script]);
    /** Command lines of processes in the host's namespace. */
    const processes = (): string[] =>
      w.host.run(`ip netns pids ${w.host.name} | while read p; do tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null; echo; done; true`).split('\n');
    /** QEMU gives its main thread the VM's name. */
    const pidOfQemu = (): number => {
      const pid = Number(w.host.run(`ip netns pids ${w.host.name} | xargs -r ps -o pid=,comm= -p | awk '/ anka-vm1$/{print $1}'`));
      expect(pid, 'the pid of QEMU').toBeGreaterThan(1);
      return pid;
    };

    beforeAll(async () => {
      w = new World(engine === 'kernel' ? 'ck-' : 'cu-');
      anka = new Anka(w, tinyGuest(), { ordinary: engine === 'user' });
      await anka.ok('create -m 128M -c 1 -d 1G vm1');
      await anka.ok('start vm1');
      expect((await anka.body<{ engine: string }>('daemon status')).engine).toBe(engine);
      await anka.ok('run vm1 true');
      mkdirSync(join(w.dir, 'tar-that-waits'));
      writeFileSync(join(w.dir, 'tar-that-waits/tar'), '#!/bin/sh\nexec sleep 600\n', { mode: 0o755 });
    });

    afterAll(async () => {
      if (!w) return;
      await anka.end();
      w.close();
    });

    test('B5: every status passes, and the end by a signal as 128 + its number', async () => {
      const statuses = ['exit 7', 'exit 255', 'kill -TERM $$'].map(async (script) => (await inGuest(script)).status);
      expect(await Promise.all(statuses)).toEqual([7, 255, 143]);
    });

    test(`B5: ${AT_ONCE} commands at once all succeed`, async () => {
      const all = await Promise.all(Array.from({ length: AT_ONCE }, (_, i) => anka.run(['run', 'vm1', 'echo', String(i)])));
      expect(all.map((r) => [r.status, r.stdout, r.status === 0 ? '' : r.stderr])).toEqual(all.map((_r, i) => [0, `${i}\n`, '']));
    });

    test('B5: SIGTERM, SIGHUP, SIGINT and SIGKILL to `anka run | cat` close the pipe, and end ssh and the program in the guest', async () => {
      const signals = ['SIGTERM', 'SIGHUP', 'SIGINT', 'SIGKILL'];
      const announced = (words: string) => `sh -c 'echo pid $$ >&2; exec "$@" 2>/dev/null' sh ${anka.commandLine(words)} | cat`;
      const runs = signals.map((_s, i) => start(announced(`run vm1 sh -c 'echo begun; exec sleep ${30_000 + i}'`)));
      await until('all have begun', () => runs.every((r) => r.stdout.includes('begun')));
      const sent = Date.now();
      runs.forEach((r, i) => {
        process.kill(Number(/^pid (\d+)$/m.exec(r.stderr)?.[1]), signals[i]);
      });
      await Promise.all(runs.map((r) => r.exit));
      console.log(`    pipes closed after ${Date.now() - sent} ms`);
      await until('no ssh is left', () => !processes().some((l) => /ssh .*sleep 3000\d/.test(l)));
      await until('no program is left in the guest', async () => (await inGuest("ps | grep -q '[s]leep 3000'")).status === 1);
      console.log(`    all gone after ${Date.now() - sent} ms`);
    });

    test('B14: nc passes on each end by itself: the host’s, the guest’s, and the guest’s while the host still sends', async () => {
      const guest = `
        (nc -l -p 7001 -e sh -c 'q=$(cat); echo "answer to $q"') >/dev/null 2>&1 &
        (echo bye | nc -l -p 7002) >/tmp/heard2 2>&1 &
        (echo bye | nc -l -p 7003) >/tmp/heard3 2>&1 &
        until [ "$(netstat -ltn | grep -c ':700[123] ')" = 3 ]; do sleep 0.1; done`;
      expect((await inGuest(guest)).status).toBe(0);
      const open = startAnka('nc vm1 7002');
      const asked = start(`echo question | ${anka.commandLine('nc vm1 7001')}`);
      const late = start(`for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done | ${anka.commandLine('nc vm1 7003')}`);
      expect([await open.exit, open.stdout, open.stderr]).toEqual([0, 'bye\n', '']);
      expect([await asked.exit, asked.stdout]).toEqual([0, 'answer to question\n']);
      expect([await late.exit, late.stdout]).toEqual([0, 'bye\n']);
      expect((await inGuest('cat /tmp/heard3')).stdout).toBe('1\n2\n3\n4\n5\n6\n');
    });

    test('B80: a reader that has enough ends each command: quietly, and with its status', async () => {
      const piped = (words: string, reader = 'head -1') => start(`${anka.commandLine(words)} | ${reader} >/dev/null; echo \${PIPESTATUS[0]}`, 'bash');
      const expected: [Started, string, RegExp][] = [
        [piped('list'), '0', /^$/],
        [piped('-j list', 'true'), '0', /^$/],
        [piped('explain vm1 to 198.51.100.1:443'), '0', /^$/],
        [piped('-j explain nosuch to 198.51.100.1:443', 'true'), '3', /^$/],
        [piped('console vm1'), '0', /^Connected to the console of vm1; Ctrl-\] disconnects\.$/],
        [piped('capture vm1', 'head -c 1'), '0', /^capturing vm1 \(inside\); Ctrl-C stops$/],
        [piped('events'), '0', /^$/],
        [piped('run vm1 yes'), '141', /^[a-z0-9: ]*waiting/],
        [piped('ssh vm1 yes'), '141', /^[a-z0-9: ]*waiting/],
      ];
      const events = expected.find(([s]) => s.child.spawnargs.join(' ').includes(' events |'))?.[0] as Started;
      await until('events has printed one', async () => {
        await anka.ok('modify vm1 add port-forwarding -g 99 seen');
        await anka.ok('modify vm1 delete port-forwarding seen');
        return events.child.exitCode !== null;
      });
      for (const [s, status, messages] of expected) {
        const name = s.child.spawnargs.at(-1) as string;
        await s.exit;
        expect(s.stdout.trim(), name).toBe(status);
        expect(s.stderr.trim().split('\n')[0], name).toMatch(messages);
        expect(s.stderr, name).not.toMatch(/Error|at .*js:/);
      }
      const cloned = start(`${anka.commandLine('clone vm1 vm2')} 2>&1 | true; echo \${PIPESTATUS[0]}`, 'bash');
      expect([await cloned.exit, cloned.stdout]).toEqual([0, '0\n']);
      expect(await anka.ok('show vm2 status'), 'messages that nobody reads end no command').toBe('stopped\n');
      await anka.ok('delete --yes vm2');
      await anka.ok('daemon stop');
      const daemon = piped('daemon run');
      await daemon.exit;
      expect([daemon.stdout.trim(), daemon.stderr]).toEqual(['141', '']);
      expect(await anka.ok('show vm1 status')).toBe('running\n');
    });

    /** A copy that goes on: tar on the host neither sends nor takes anything. */
    const startCopy = (from: string, to: string): Started => start(`PATH=${join(w.dir, 'tar-that-waits')}:$PATH; exec ${anka.commandLine(`cp ${from} ${to}`)}`);

    /** One of each command that is connected to the guest, with its input open. */
    async function connected(): Promise<Started[]> {
      expect((await inGuest('head -c 4000000 /dev/zero >/tmp/more-than-pipes-hold')).status).toBe(0);
      const all: Started[] = [];
      // one after the other: dropbear ends a connection while five others have not logged in
      const steps: [() => Started, (s: Started) => boolean | Promise<boolean>][] = [
        [() => startAnka("run vm1 sh -c 'echo begun; exec sleep 600'"), (run) => run.stdout.includes('begun')],
        [() => startAnka("ssh vm1 'echo begun; exec sleep 600'"), (ssh) => ssh.stdout.includes('begun')],
        [
          () => startCopy('vm1:/tmp/more-than-pipes-hold', join(anka.home, 'copy')),
          async () => (await inGuest("ps | grep -q '[t]ar -cf - -- more-than'")).status === 0,
        ],
        [() => startCopy('/etc/passwd', 'vm1:/tmp/copy'), async () => (await inGuest("ps | grep -q '[t]ar -C .* -xomf -'")).status === 0],
        [() => startAnka('nc vm1 22'), (nc) => nc.stdout.includes('SSH-')],
        [() => startAnka('console vm1'), (console_) => console_.stderr.includes('Connected')],
      ];
      for (const [startOne, isConnected] of steps) {
        const s = startOne();
        all.push(s);
        const name = s.child.spawnargs.at(-1) as string;
        await until(`connected: ${name}`, async () => {
          expect([s.child.exitCode, s.stderr], name).toEqual([null, expect.anything()]);
          return isConnected(s);
        });
      }
      return all;
    }

    /** Each of these has ended with 125, long before ssh itself would notice, and said why. */
    async function expectLost(commands: readonly Started[], reason: RegExp): Promise<void> {
      const since = Date.now();
      expect(await Promise.all(commands.map((c) => c.exit))).toEqual(commands.map(() => 125));
      const took = Date.now() - since;
      console.log(`    all ended after ${took} ms`);
      for (const c of commands) expect(c.stderr.trimEnd().split('\n').at(-1), c.child.spawnargs.at(-1) as string).toMatch(reason);
      expect(took).toBeLessThan(SOONER_THAN_SSH_MS);
    }

    const ends: [event: string, trigger: () => Promise<unknown>, reason: RegExp, back: () => Promise<unknown>][] = [
      [
        'moved to another network',
        () => anka.ok('modify vm1 set network-card -t host'),
        /: the VM is on host now$/,
        () => anka.ok('modify vm1 set network-card -t shared'),
      ],
      ['suspended', () => anka.ok('suspend vm1'), /: the VM is suspended$/, () => anka.ok('start vm1')],
      ['stopped', () => anka.ok('stop -f vm1'), /: the VM is stopped$/, () => anka.ok('start vm1')],
      [
        'killed while no daemon runs',
        async () => {
          await anka.killDaemon();
          process.kill(pidOfQemu(), 'SIGKILL');
        },
        /: the QEMU process of the VM has exited$/,
        async () => {},
      ],
    ];
    for (const [event, trigger, reason, back] of ends)
      test(`B5: run, ssh, cp, nc and console end at once with 125 when the VM is ${event}`, async () => {
        await anka.address('vm1');
        const commands = await connected();
        const console_ = commands.at(-1) as Started;
        const moved = event.startsWith('moved');
        await trigger();
        await expectLost(moved ? commands.slice(0, -1) : commands, reason);
        if (moved) {
          console_.child.stdin?.end(); // a console has no network
          expect(await console_.exit).toBe(0);
        }
        await back();
      });
  });
});
