/** Real guests (the tiny one) on the user engine, through the command; everything runs as an unprivileged user. */
import { type ChildProcess, execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { expectClosedToOthers } from '../world/other-user.ts';
import { ORDINARY } from '../world/remote-engine.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu');
const SSH = '-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR';

describe.skipIf(why !== null)(`real guests of an ordinary user${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  /** Command lines of processes in the host's namespace. */
  const processes = (pattern: RegExp): { pid: number; line: string }[] =>
    w.host
      .run(`ip netns pids ${w.host.name} | while read p; do echo "$p $(tr '\\0' ' ' </proc/$p/cmdline 2>/dev/null)"; done; true`)
      .split('\n')
      .map((l) => ({ pid: Number(l.split(' ')[0]), line: l.slice(l.indexOf(' ') + 1) }))
      .filter((p) => pattern.test(p.line));
  const networkProcess = (name: string): number => processes(new RegExp(`network-main.*net-${name}/control[.]sock`))[0]?.pid ?? 0;
  const reachesOutside = async (seconds = 60): Promise<boolean> =>
    (await anka.run(['run', 'vm1', 'sh', '-c', `echo | nc -w ${seconds} 10.9.0.1 8080`])).stdout.startsWith('outside sees 10.9.0.2\n');

  /** A program's standard output, and its exit. */
  const collectOutput = (child: ChildProcess): { text: string; exit: Promise<number | null> } => {
    const output = { text: '', exit: new Promise<number | null>((resolve) => child.once('exit', resolve)) };
    child.stdout?.on('data', (d: Buffer) => {
      output.text += d.toString();
    });
    return output;
  };

  beforeAll(async () => {
    w = new World('tu-');
    anka = new Anka(w, tinyGuest(), { ordinary: true });
    await serve(w.outside, 8080, 'outside');
    await anka.ok('create -m 192M -c 1 -d 1G vm1');
    await anka.ok('start vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    await until('no process is left', () => processes(/qemu-system|ankad|daemon.main|network-main/).length === 0);
    expect(existsSync(join(anka.home, 'run/nic'))).toBe(false);
    expect(readdirSync(join(anka.home, 'vms'))).toEqual([]);
    expect(w.host.run('ip -o link | wc -l').trim(), 'no interface was made').toBe('2');
    w.close();
  });

  test('B10, B11: a new VM is on shared, with an address by DHCP; every process is the user’s, without capabilities', async () => {
    expect(await anka.address('vm1')).toMatch(/^192\.168\.64\.\d+$/);
    expect((await anka.body<{ engine: string }>('daemon status')).engine).toBe('user');
    const all = processes(/qemu-system|daemon.main|network-main/);
    expect(all.length).toBeGreaterThanOrEqual(3);
    for (const { pid, line } of all) {
      const status = readFileSync(`/proc/${pid}/status`, 'utf8');
      expect(status, line).toMatch(new RegExp(`^Uid:\\t${ORDINARY}\\t${ORDINARY}`, 'm'));
      expect(status, line).toMatch(/^CapEff:\t0+$/m);
    }
  });

  test('B92: another local user opens no socket and no file of anka’s', async () => {
    await anka.address('vm1');
    await expectClosedToOthers(w.host, anka.home);
  });

  test('B5, B12: commands run in the guest; it resolves names and reaches outside', async () => {
    const r = await anka.run(['run', '-N', 'vm1', 'sh', '-c', 'whoami; nslookup host.anka.internal | grep Address; exit 7']);
    expect(r.status, r.stderr).toBe(7);
    expect(r.stdout).toMatch(/anka\n[\s\S]*192\.168\.64\.1/);
    expect((await anka.run(['run', 'vm1', 'cat'], { input: 'through the pipe' })).stdout).toBe('through the pipe');
    expect(await anka.ok('run vm1 -- echo -- x')).toBe('-- x\n');
    expect(await anka.ok('ssh vm1 -- echo x')).toBe('x\n');
    expect(await anka.run(['run', 'vm1', '--'])).toMatchObject({ status: 2, stderr: expect.stringMatching(/Missing argument 'COMMAND/) });
    expect(await reachesOutside()).toBe(true);
  });

  test('B14: anka ssh, and ssh through anka nc by address and by name', async () => {
    expect(await anka.ok('ssh vm1 whoami')).toBe('anka\n');
    const key = join(anka.env['ANKA_BASE_IMAGE'] as string, 'id_ed25519');
    for (const host of [await anka.address('vm1'), 'vm1'])
      expect((await w.host.ask(`ssh -i ${key} ${SSH} -o ProxyCommand='${anka.commandLine('nc %h %p')}' anka@${host} whoami`))?.trim(), host).toBe('anka');
    const closed = await anka.run(['nc', 'vm1', '9']);
    expect(closed.status).not.toBe(0);
    expect(closed.stderr).toMatch(/^anka: vm1 port 9: .*refused/);
  });

  test('B3: bytes pass in and out unchanged', async () => {
    const file = join(w.dir, 'random');
    execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=4'], { stdio: 'ignore' });
    const sum = execFileSync('sha256sum', [file]).toString().split(' ')[0];
    const inside = await w.host.ask(`${anka.commandLine("run vm1 sh -c 'cat >/tmp/f; sha256sum /tmp/f'")} <${file}`);
    expect(inside?.split(' ')[0]).toBe(sum);
    const back = await w.host.ask(`${anka.commandLine('run vm1 cat /tmp/f')} | sha256sum`);
    expect(back?.split(' ')[0]).toBe(sum);
  });

  test('B60, B63: ssh from outside through a forwarded port; a port in use by another program is detected', async () => {
    expect(await anka.ok('modify vm1 add port-forwarding -g 22 ssh')).toBe('rule added successfully\n');
    const port = (await anka.body<{ port_forwarding: { host_port: number }[] }>('show vm1')).port_forwarding[0]?.host_port;
    expect(port).toBe(10000);
    const ssh = `ssh -i ${join(tinyGuest(), 'id_ed25519')} ${SSH} -p ${port} anka@`;
    await until('the port answers', async () => (await w.outside.ask(`${ssh}10.9.0.2 whoami`))?.trim() === 'anka');
    expect((await w.host.ask(`${ssh}127.0.0.1 whoami`))?.trim()).toBe('anka');
    expect((await anka.run(['modify', 'vm1', 'add', 'port-forwarding', '-g', '80', '-p', '80', 'low'])).stderr).toMatch(
      /port 80 requires root; choose a port from 1024 up/,
    );
  });

  test('B20, B22: the type is changed while it runs: host, disconnected, and back', async () => {
    await anka.plug('modify vm1 set network-card -t host', 'vm1', 'host');
    expect(await reachesOutside(5)).toBe(false);
    expect(await anka.ok('modify vm1 set network-card 0 -t disconnected')).toBe('vm1 is disconnected\n');
    const cut = await anka.run(['run', 'vm1', 'true']);
    expect([cut.status, cut.stderr]).toEqual([125, expect.stringMatching(/^anka: vm1 is disconnected and has no address; run 'anka console vm1' to log in$/m)]);
    await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared');
    expect(await reachesOutside()).toBe(true);
  });

  test('B16: bridge type is refused with the remedy, and nothing changes', async () => {
    const r = await anka.run(['modify', 'vm1', 'set', 'network-card', '-t', 'bridge', '-b', 'en0']);
    expect(r.status).toBe(12);
    expect(r.stderr).toMatch(/bridge type needs the kernel engine: run anka as root/);
    expect(await anka.ok('show vm1 network type')).toBe('shared\n');
  });

  test('the engine cannot be changed under a VM', async () => {
    const r = await anka.run(['config', 'engine', 'kernel']);
    expect(r.stderr).toBe("anka: the engine cannot be changed while VMs run, start or are suspended: vm1; run 'anka stop vm1' first\n");
    expect(await anka.ok('config engine')).toBe('auto\n');
  });

  test('B4: suspend keeps memory; after resume there is the same address again', async () => {
    await anka.ok('run vm1 touch /tmp/mark');
    const before = await anka.address('vm1');
    await anka.ok('suspend vm1');
    await until('QEMU exited', () => processes(/qemu-system/).length === 0);
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toBe(before);
    expect((await anka.run(['run', 'vm1', 'ls', '/tmp/mark'])).stdout).toBe('/tmp/mark\n');
  });

  test('B6: kill -9 of the daemon: guest and network keep running, and are adopted with their flows', async () => {
    const pid = networkProcess('shared');
    expect(pid).toBeGreaterThan(0);
    const flow = w.host.spawn(['sh', '-c', anka.commandLine("run vm1 sh -c 'for i in $(seq 600); do echo $i; sleep 0.1; done'")]);
    let lines = 0;
    flow.stdout?.on('data', (d: Buffer) => {
      lines += d.toString().split('\n').length - 1;
    });
    await until('it flows', () => lines > 0);
    await anka.killDaemon();
    const seen = lines;
    await until('it flows without the daemon', () => lines > seen + 5);
    expect(await anka.ok('show vm1 status')).toBe('running\n');
    const adopted = lines;
    await until('it flows with the next daemon', () => lines > adopted + 5);
    expect(networkProcess('shared')).toBe(pid);
    flow.kill();
  });

  test('B90: kill -9 of the network process: a new one continues with the same address and rules', async () => {
    const before = await anka.address('vm1');
    const pid = networkProcess('shared');
    process.kill(pid, 'SIGKILL');
    const since = Date.now();
    await until('another process runs', () => networkProcess('shared') !== 0 && networkProcess('shared') !== pid);
    const ssh = `ssh -i ${join(tinyGuest(), 'id_ed25519')} ${SSH} -o ConnectTimeout=2 -p 10000 anka@10.9.0.2 whoami`;
    await until('forwarding works again', async () => (await w.outside.ask(ssh))?.trim() === 'anka');
    console.log(`    recovered in ${Date.now() - since} ms`);
    expect(await anka.address('vm1')).toBe(before);
    expect(await reachesOutside()).toBe(true);
  });

  test('B93: a capture, by the user', async () => {
    const file = join(anka.home, 'c.pcapng');
    const child = w.host.spawn(['sh', '-c', `exec ${anka.commandLine(`capture vm1 -w ${file} icmp`)}`]);
    await until('the capture started', () => existsSync(file) && statSync(file).size > 0);
    await until('pings are captured', async () => {
      await anka.run(['run', 'vm1', 'ping', '-c', '1', '-W', '2', '192.168.64.1']);
      return w.host.run(`tcpdump -nr ${file} 2>/dev/null || true`).includes('ICMP echo reply');
    });
    const output = collectOutput(child);
    child.kill('SIGINT');
    expect(await output.exit).toBe(0);
    expect(output.text).toMatch(/^\d+ frames captured, 0 dropped\n$/m);
    // complete to the last block, which is the statistics
    expect(w.host.run(`capinfos -c ${file} 2>&1`)).toMatch(/Number of packets:\s+[1-9]/);
    expect(w.host.run(`tail -c 100 ${file} | od -An -tx1 -v | tr -d ' \\n'`)).toMatch(/04000800[0-9a-f]{16}050008000{16}00000000[0-9a-f]{8}$/);
    const live = w.host.spawn(['sh', '-c', `${anka.commandLine('capture vm1')} | tshark -n -l -i - -c 5 -T fields -e ip.src 2>/dev/null`]);
    let shown = '';
    live.stdout?.on('data', (d: Buffer) => {
      shown += d.toString();
    });
    const over = new Promise<number | null>((resolve) => live.once('exit', resolve));
    await until('tshark has enough', async () => {
      await anka.run(['run', 'vm1', 'ping', '-c', '1', '-W', '2', '192.168.64.1']);
      return live.exitCode !== null;
    });
    expect(await over, 'the capture ends with its reader').toBe(0);
    expect(shown).toMatch(/^192\.168\.64\.\d+$/m);
    expect((await anka.run(['capture', 'vm1', '-w', file, 'no', 'such', 'filter'])).stderr).toMatch(/^anka: the filter 'no such filter' is invalid/);
  });

  test('B93: a capture ends with the VM, reports it, and the file is complete', async () => {
    const file = join(anka.home, 'd.pcapng');
    const output = collectOutput(w.host.spawn(['sh', '-c', `exec ${anka.commandLine(`capture vm1 -w ${file}`)}`]));
    await until('the capture started', () => existsSync(file) && statSync(file).size > 0);
    await anka.ok('stop -f vm1');
    expect(await output.exit).toBe(0);
    expect(output.text).toMatch(/^vm1 was stopped, or its network card unplugged: \d+ frames captured, 0 dropped\n$/m);
    expect(w.host.run(`capinfos -c ${file} 2>&1`)).toMatch(/Number of packets:\s+\d/);
    await anka.ok('start vm1');
    await anka.address('vm1');
  });

  test('B93: doctor reports what an ordinary user lacks', async () => {
    const r = await anka.run(['doctor']);
    expect(r.stdout).toMatch(/ping_group_range/);
    expect(r.stdout).toMatch(/all required programs are installed/);
  });

  test('B40: two VMs reach each other; the lease of a deleted VM is released', async () => {
    await anka.ok('clone vm1 vm2');
    await anka.ok('start vm2');
    const address = await anka.address('vm2');
    await anka.reaches('vm1', address);
    await anka.ok('delete --yes vm2');
    const leases = (): string => readFileSync(join(anka.home, 'net-shared/leases.json'), 'utf8');
    const number = address.split('.').reduce((a, p) => a * 256 + Number(p), 0);
    await until('the lease is released', () => !leases().includes(String(number)));
  });
});
