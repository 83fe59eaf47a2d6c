/**
 * B93, B90: common firewalls beside ours: found, allowed through, found again after their reload, reported by doctor,
 * and left unchanged. Each runs in the host's namespace, with copies of its files. Skipped by name where the program is
 * not installed.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { dhcp, greet, guest, nic, rule, serve, state } from '../contract/guest-tools.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun');
const installed = (program: string): boolean => existsSync(`/usr/sbin/${program}`);

describe.skipIf(why !== null)(`other firewalls${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let vm: Namespace;
  const desired = () => state(nic(1, 'shared', { rules: [rule(10001, 8080)] }));
  const findings = async (id: string) => (await e.doctor()).filter((f) => f.id === id);

  beforeEach(async () => {
    w = new World('of-');
    vm = guest(w, 1);
    await serve(w.outside, 8080, 'outside');
    await serve(vm, 8080, 'vm1');
    e = new RemoteEngine(w, 'kernel');
  });
  afterEach(() => w.close());

  /** Checks what every network needs the firewall to pass. */
  async function checkNetwork(): Promise<void> {
    await until('an address', () => dhcp(w, vm));
    await until('a name', async () => (await vm.ask('dig +short +time=1 +tries=1 @192.168.64.1 host.anka.internal'))?.trim() === '192.168.64.1');
    await until('outside by TCP', async () => (await greet(vm, 'tcp', '10.9.0.1', 8080)) === 'outside sees 10.9.0.2');
    await until('forwarding', async () => (await greet(w.outside, 'tcp', '10.9.0.2', 10001)) === 'vm1 sees 10.9.0.1');
  }

  /** Commands that mount copies over directories, and a function that joins commands to one line. */
  function mounts(directories: readonly string[]) {
    const copies = directories.map((f) => {
      const copy = join(w.dir, f.replaceAll('/', '_'));
      mkdirSync(copy);
      if (existsSync(f) && f !== '/run') cpSync(f, copy, { recursive: true });
      return `mount --bind ${copy} ${f}`;
    });
    return { copies, line: (commands: readonly string[]) => commands.join('; ') };
  }

  /** Runs a command with copies of the directories that the program writes to. */
  function withCopies(directories: readonly string[]): (line: string) => string {
    const { copies, line } = mounts(directories);
    return (command) => w.host.run(`unshare -m sh -ec '${line([...copies, command])}'`);
  }

  test('B90, B93: rules are flushed and reloaded just after ours were written, before they are read back', async () => {
    const firewall = 'table inet fw { chain forward { type filter hook forward priority 0; policy drop; ct state established,related accept; }; }';
    w.host.run(`nft '${firewall}'`);
    const programs = join(w.dir, 'programs');
    const times = join(programs, 'times');
    mkdirSync(programs);
    writeFileSync(times, '4\n');
    // another firewall's reload, after each of the engine's first transactions
    const nft = ['#!/bin/sh', '/usr/sbin/nft "$@"; code=$?', `n=$(cat ${times})`];
    nft.push(`case "$1" in -f) [ $n -gt 0 ] && echo $((n - 1)) >${times} && /usr/sbin/nft 'flush ruleset; ${firewall}';; esac`, 'exit $code');
    writeFileSync(join(programs, 'nft'), nft.join('\n'), { mode: 0o755 });
    e = new RemoteEngine(w, 'kernel', 'usual', programs);
    expect(await e.apply(desired())).toEqual([]);
    await checkNetwork();
    expect(readFileSync(times, 'utf8')).toBe('0\n');
    expect((await e.doctor()).filter((f) => f.id.startsWith('firewall')).map((f) => f.level)).toEqual(['ok']);
  });

  test.skipIf(!installed('ufw'))('B93: ufw (skipped where it is not installed)', async () => {
    const ufw = withCopies(['/etc/ufw', '/run']);
    ufw('ufw --force enable');
    expect(await e.apply(desired())).toEqual([]);
    await checkNetwork();
    expect((await findings('firewall.ufw')).map((f) => f.level)).toEqual(['ok', 'ok']);
    ufw('ufw reload');
    await checkNetwork();
    expect((await findings('firewall.ufw')).map((f) => f.level)).toEqual(['ok', 'ok']);
    expect(w.host.run('iptables-save').match(/anka:v1/g)?.length).toBe(6);
    await e.reset();
    expect(w.host.run('iptables-save')).not.toContain('anka');
    ufw('ufw --force disable');
  });

  test.skipIf(!installed('firewalld'))('B93: firewalld (skipped where it is not installed)', async () => {
    const { copies, line } = mounts(['/etc/firewalld', '/run']);
    const bus = 'mkdir -p /run/dbus; dbus-daemon --system --fork';
    const daemon = w.host.spawn(['unshare', '-m', 'sh', '-ec', line([...copies, bus, 'exec firewalld --nofork --nopid'])]);
    const ctl = (words: string) => w.host.attempt(`nsenter -t ${daemon.pid} -m -- firewall-cmd ${words}`);
    await until('firewalld runs', () => ctl('--state') !== null);
    expect(await e.apply(desired())).toEqual([]);
    await checkNetwork();
    ctl('--reload');
    await checkNetwork();
    expect((await findings('firewall.firewalld')).map((f) => f.level)).toEqual(['ok', 'ok']);
    await e.reset();
    expect(w.host.run('nft list ruleset')).not.toContain('anka');
  });
});
