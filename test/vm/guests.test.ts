/** Real guests (the tiny one) on the kernel engine, through the command: what only QEMU and a real Linux can show. */
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');

describe.skipIf(why !== null)(`real guests${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const pids = (): string[] =>
    w.host
      .run(`ip netns pids ${w.host.name} | while read p; do tr '\\0' ' ' </proc/$p/cmdline; echo; done; true`)
      .split('\n')
      .filter((l) => l.startsWith('qemu-system'));

  beforeAll(async () => {
    w = new World('tv-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    await anka.ok('start vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.ok('delete --yes --all');
    await until('no guest is left', () => pids().length === 0);
    await anka.ok('network reset');
    await anka.ok('daemon stop');
    expect(
      w.host
        .run('ip -o link; nft list ruleset')
        .split('\n')
        .filter((l) => l.includes('anka')),
    ).toEqual([]);
    const left = w.host
      .run(`ip netns pids ${w.host.name} | grep -v $$ | while read p; do tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null; echo; done; true`)
      .split('\n')
      .filter((l) => /ankad|daemon.main|service-main|monitor/.test(l));
    expect(left, 'no process is left').toEqual([]);
    w.close();
  });

  test('B1, B5, B10, B12: a new VM is on shared, resolves and reaches outside, and runs commands', async () => {
    const ip = await anka.address('vm1');
    expect(ip).toMatch(/^192\.168\.64\./);
    const r = await anka.run([
      'run',
      '-N',
      'vm1',
      'sh',
      '-c',
      'whoami; ping -c1 -W60 198.51.100.1 >/dev/null && echo outside; nslookup host.anka.internal | grep Address; exit 7',
    ]);
    expect(r.status, r.stderr).toBe(7);
    expect(r.stdout).toMatch(/anka\noutside\n[\s\S]*192\.168\.64\.1/);
    expect((await anka.run(['run', 'vm1', 'cat'], { input: 'through the pipe' })).stdout).toBe('through the pipe');
    expect((await anka.run(['run', 'vm1', 'echo', 'a  b', '$HOME', "it's"])).stdout).toBe("a  b $HOME it's\n");
  });

  test('B14: ssh by address, by anka ssh, and through anka nc', async () => {
    const ip = await anka.address('vm1');
    const key = join(tinyGuest(), 'id_ed25519');
    const options = '-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR';
    expect((await w.host.ask(`ssh -i ${key} ${options} anka@${ip} whoami`))?.trim()).toBe('anka');
    expect(await anka.ok('ssh vm1 whoami')).toBe('anka\n');
    expect((await anka.run(['ssh', 'vm1', 'echo a; echo', '"b  c"'])).stdout, 'the guest’s shell parses it, as with ssh').toBe('a\nb  c\n');
    expect((await anka.run(['run', 'vm1', 'echo', 'a;', '"b  c"'])).stdout, 'run passes words').toBe('a; "b  c"\n');
    const proxy = `env ANKA_HOME=${anka.home} ANKA_BASE_IMAGE=${tinyGuest()} ${process.execPath} ${join(process.cwd(), 'dist/cli/main.js')} nc %h %p`;
    expect((await w.host.ask(`ssh -i ${key} ${options} -o ProxyCommand='${proxy}' anka@vm1 whoami`))?.trim()).toBe('anka');
  });

  test('B3: files are copied in and out', async () => {
    const file = join(w.dir, 'random');
    execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=2'], { stdio: 'ignore' });
    await anka.ok(`cp ${file} vm1:/tmp/f`);
    await anka.ok(`cp vm1:/tmp/f ${join(w.dir, 'back')}`);
    expect(readFileSync(join(w.dir, 'back')).equals(readFileSync(file))).toBe(true);
  });

  test('B20, B22: the type is changed while it runs: carrier off, another network, and back', async () => {
    expect(await anka.ok('modify vm1 set network-card 0 -t disconnected')).toBe('vm1 is disconnected\n');
    const log = () => readFileSync(join(anka.home, 'run/vm', uuid.slice(0, 8), 'console.log'), 'latin1');
    const uuid = (await anka.ok('show vm1 uuid')).trim();
    await until('the guest sees no carrier', () =>
      log()
        .trimEnd()
        .split('\n')
        .findLast((l) => l.startsWith('carrier'))
        ?.includes('->0'),
    );
    await anka.plug('modify vm1 set network-card -t host', 'vm1', 'host');
    expect((await anka.run(['run', 'vm1', 'ping', '-c1', '-W2', '198.51.100.1'])).status).toBe(1);
    await anka.plug('modify vm1 network --mode shared', 'vm1', 'shared');
    await anka.reaches('vm1', '198.51.100.1');
  });

  test('B51: a reservation reaches the running guest', async () => {
    expect(await anka.plug('modify vm1 set network-card --ip 192.168.64.50', 'vm1', 'shared', '192.168.64.50')).toBe('192.168.64.50');
    await anka.ok('modify vm1 set network-card --ip auto');
  });

  test('B24: the subnet changes while the guest runs; a clashing one is refused and a free one proposed', async () => {
    expect((await anka.run(['config', 'shared_subnet', '10.9.0.0/24'])).stderr).toMatch(
      /clashes with this host's route to 10\.9\.0\.0\/24 through en0; 'anka config shared_subnet \d+\.\d+\.\d+\.\d+\/24' sets a free one/,
    );
    await anka.ok('config shared_subnet 192.168.80.0/24');
    expect(await anka.address('vm1')).toMatch(/^192\.168\.80\./);
    await anka.reaches('vm1', '198.51.100.1');
    await anka.ok('config -r shared_subnet');
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\./);
  });

  test('B21, B32: the card is removed from the running guest; a stopped VM without one has none until it is added; a second is refused', async () => {
    await anka.ok('modify vm1 delete network-card 0');
    const uuid = (await anka.ok('show vm1 uuid')).trim();
    await until('the guest lost its card', () =>
      /card eth0 was removed/.test(readFileSync(join(anka.home, 'run/vm', uuid.slice(0, 8), 'console.log'), 'latin1')),
    );
    expect(await anka.body('show vm1')).not.toHaveProperty('network');
    await anka.ok('stop -f vm1');
    expect((await anka.run(['modify', 'vm1', 'delete', 'network-card'])).stderr).toContain('vm1 has no network card');
    await anka.ok('modify vm1 add network-card -t shared');
    expect((await anka.run(['modify', 'vm1', 'add', 'network-card'])).stderr).toContain('already has a network card');
    await anka.ok('start vm1');
    await anka.address('vm1');
  });

  test('B4: suspend keeps memory; after resume there is an address again', async () => {
    await anka.ok('run vm1 touch /tmp/mark');
    const before = await anka.address('vm1');
    await anka.ok('suspend vm1');
    expect(await anka.ok('show vm1 status')).toBe('suspended\n');
    expect(await anka.body('show vm1')).not.toHaveProperty('ip');
    await until('QEMU exited', () => pids().length === 0);
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toBe(before);
    expect((await anka.run(['run', 'vm1', 'ls', '/tmp/mark'])).stdout).toBe('/tmp/mark\n');
  });

  test('B22: the type may be changed while it is suspended', async () => {
    await anka.ok('suspend vm1');
    await anka.ok('modify vm1 set network-card -t host');
    await anka.ok('start vm1');
    await until('an address on host', async () => (await anka.body<{ ip?: string }>('show vm1')).ip?.startsWith('192.168.128.'));
    await anka.ok('modify vm1 set network-card -t shared');
  });

  test('B6: the guest survives kill -9 of the daemon; its own death is reported with the reason', async () => {
    const before = pids();
    expect(before).toHaveLength(1);
    await anka.killDaemon();
    expect(pids()).toEqual(before);
    expect(await anka.ok('show vm1 status')).toBe('running\n');
    expect((await anka.run(['run', 'vm1', 'true'])).status).toBe(0);
    execFileSync('pkill', ['-9', '-f', (await anka.ok('show vm1 uuid')).trim()]);
    await until('it is failed', async () => (await anka.ok('show vm1 status')) === 'failed\n');
    expect((await anka.body<{ message: string }>('show vm1')).message).toMatch(/^QEMU exited unexpectedly/);
    await anka.ok('start vm1');
    await anka.address('vm1');
  });

  test('B60–B64: rules on a running VM, automatic ports, clones', async () => {
    expect(await anka.ok('modify vm1 add port-forwarding -g 22 ssh')).toBe('rule added successfully\n');
    expect(await anka.ok('modify vm1 port web 80:10050')).toBe('rule added successfully\n');
    expect(await anka.ok('show vm1')).toContain(`port_forwarding

+--------------+-------------+------------+---------+-----------+
|   guest_port |   host_port | protocol   | name    | host_ip   |
+==============+=============+============+=========+===========+
|           22 |       10000 | tcp        | ssh     | 0.0.0.0   |
+--------------+-------------+------------+---------+-----------+
|           80 |       10050 | tcp        | web     | 0.0.0.0   |
+--------------+-------------+------------+---------+-----------+`);
    await anka.ok('run vm1 true');
    expect(
      (
        await w.outside.ask(
          `ssh -i ${join(tinyGuest(), 'id_ed25519')} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p 10000 anka@10.9.0.2 whoami`,
        )
      )?.trim(),
    ).toBe('anka');
    expect((await anka.run(['modify', 'vm1', 'add', 'port-forwarding', '-g', '22', 'ssh'])).status).toBe(8);
    await anka.ok('clone vm1 vm2');
    expect(await anka.body('show vm2 port_forwarding')).toMatchObject([
      { name: 'ssh', host_port: 0 },
      { name: 'web', host_port: 10050 },
    ]);
    const clash = await anka.run(['start', 'vm2']);
    expect(clash.stderr).toContain("tcp port 10050 is in use by rule 'web' of VM vm1");
    await anka.ok('modify vm2 delete port web');
    await anka.ok('start vm2');
    expect(await anka.body('show vm2 port_forwarding')).toMatchObject([{ name: 'ssh', host_port: 10001 }]);
    const [a, b] = [await anka.address('vm1'), await anka.address('vm2')];
    expect(a).not.toBe(b);
    await anka.reaches('vm2', a);
    expect(await anka.ok('modify vm1 delete port-forwarding ssh')).toBe('rule deleted successfully\n');
    await anka.ok('stop -f vm2');
  });

  test('B62: another program that takes the port while the VM is stopped moves an automatic rule', async () => {
    const otherProgram = w.host.spawn([process.execPath, '-e', "require('net').createServer().listen(10001, () => console.log('ready'))"]);
    await new Promise((resolve) => otherProgram.stdout?.once('data', resolve));
    const r = await anka.run(['start', 'vm2']);
    expect(r.stderr).toMatch(/rule ssh: port 10001 is in use by another program; the rule now uses port 1000\d/);
    otherProgram.kill();
    await anka.ok('delete --yes vm2');
  });

  test('B40: the outside MAC comes from the pool and returns to it', async () => {
    expect((await anka.body<{ mac: string }>('show vm1')).mac).toMatch(/^56:45:45:/);
    await anka.ok('stop -f vm1');
    expect(await anka.body('show vm1')).not.toHaveProperty('mac');
    await anka.ok('start vm1');
  });

  test('B3: a VM’s stop is reported once, whether requested (as soon as it boots) or the guest’s own', async () => {
    const events = w.host.spawn([process.execPath, join(process.cwd(), 'dist/cli/main.js'), '-j', 'events'], anka.env);
    let received = '';
    events.stdout?.on('data', (d: Buffer) => {
      received += d.toString();
    });
    await until('events arrive', async () => {
      await anka.ok('modify vm1 add port-forwarding -g 99 reported');
      await anka.ok('modify vm1 delete port-forwarding reported');
      return received.includes('rule.removed');
    });
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    await anka.ok('stop vm1', { env: { ANKA_STOP_TIMEOUT: '600' } });
    const at = join(anka.home, 'run/vm', (await anka.ok('show vm1 uuid')).slice(0, 8));
    const boots = () => readFileSync(join(at, 'console.log'), 'latin1').split('TINY GUEST READY').length;
    const before = boots();
    await anka.ok('start vm1');
    await until('it has booted', () => boots() > before);
    const shell = connect(join(at, 'console.sock')).on('error', () => {});
    let typed = 0;
    await until('it is off', async () => {
      // a shell that is just starting discards its input
      if (Date.now() - typed > 5000) {
        typed = Date.now();
        shell.write('\npoweroff -f\n');
      }
      return (await anka.ok('show vm1 status')) === 'stopped\n';
    });
    await anka.ok('start vm1');
    const transitions = () => received.match(/"vm\.status","message":"[^"]*/g)?.map((l) => l.replace(/.*"/, ''));
    await until('all events arrived', () => (transitions()?.length ?? 0) >= 6);
    expect(transitions()).toEqual(['stopped', 'running', 'stopped', 'running', 'powered off by the guest', 'running']);
    shell.destroy();
    events.kill();
  });

  test('B1: --app refuses a file that is not a disk image, and lists the accepted formats', async () => {
    const file = join(w.dir, 'installer.app');
    writeFileSync(file, 'not a disk'.repeat(1000));
    const r = await anka.run(['create', '--app', file, 'x']);
    expect(r.stderr).toBe(`anka: '${file}' is not a disk image; use a qcow2 or raw disk image, such as a cloud image\n`);
    expect(r.status).toBe(11);
    expect(await anka.body('list')).toHaveLength(1);
  });
});
