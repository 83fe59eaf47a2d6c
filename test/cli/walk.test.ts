/**
 * The commands of the seed page, one after the other, on a Debian guest with systemd-networkd, and with the host's ssh
 * and scp.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { debianGuest } from '../world/images.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

/** Debian takes minutes for these without KVM; test/vm has them with a small guest. `npm run soak -- --only walk` */
const testInFull = process.env['ANKA_WALK'] === 'full' ? test : (): void => {};

const why = missing('root', 'netns', 'tun', 'qemu');

interface Shown {
  status: string;
  ip?: string;
  mac?: string;
  network?: { type: string; ip?: string };
  port_forwarding: { name: string; host_port: number }[];
}

describe.skipIf(why !== null)(`the commands of the seed page${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let askpass: string;
  const show = (vm = 'vm1'): Promise<Shown> => anka.body<Shown>(`show ${vm}`);

  /** The output of a line in the guest's shell. */
  const inside = async (line: string): Promise<string> => (await anka.run(['run', 'vm1', 'sh', '-c', line])).stdout;

  /** Logs in with the password. */
  const login = async (from: Namespace, destination: string, command: string): Promise<string | null> =>
    (
      await from.ask(
        `SSH_ASKPASS=${askpass} SSH_ASKPASS_REQUIRE=force ssh -o PubkeyAuthentication=no -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null ` +
          `-o LogLevel=ERROR ${destination} '${command}'`,
      )
    )?.trim() ?? null;

  beforeAll(async () => {
    w = new World('aw-');
    anka = new Anka(w, await debianGuest());
    anka.env['ANKA_STOP_TIMEOUT'] = '600'; // Debian powers off slowly on a busy machine without KVM
    askpass = join(w.dir, 'askpass');
    writeFileSync(askpass, '#!/bin/sh\necho admin\n');
    chmodSync(askpass, 0o700);
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B1, B2, B10, B83: create and start; the network is shared by default', async () => {
    expect(JSON.parse(await anka.ok('-j create -m 1G -c 2 vm1'))).toMatchObject({ status: 'OK', body: { uuid: expect.stringMatching(/^[0-9a-f-]{36}$/) } });
    expect(await show()).toMatchObject({ status: 'stopped', network: { type: 'shared' }, port_forwarding: [] });
    expect(await show()).not.toHaveProperty('ip');
    expect(await anka.ok('start vm1')).toMatch(/status +\| running/);
    await anka.ok('run -N vm1 true');
  });

  test('B11, B14: address, mask, router, DNS and DHCP server; ssh anka@VM_IP works with the password', async () => {
    const ip = (await anka.ok('show vm1 ip')).trim();
    expect(ip).toMatch(/^192\.168\.64\.([2-9]|[1-9]\d|1\d\d|2[0-4]\d|25[0-4])$/);
    expect(await anka.ok('show vm1 network ip')).toBe(`${ip}\n`);
    expect(await login(w.host, `anka@${ip}`, 'whoami; ip -br -4 addr show scope global | tr -s " "; ip route show default')).toMatch(
      new RegExp(`^anka\\n\\S+ UP ${ip}/24.*\\ndefault via 192\\.168\\.64\\.1 `),
    );
    // several commands in one login, which takes seconds without KVM
    const seen = await inside('hostname; sudo -n id -u; networkctl status --no-pager; cat /run/systemd/netif/leases/*');
    expect(seen).toMatch(/^vm1\n0\n[\s\S]*192\.168\.64\.1/);
    expect(seen).toMatch(/SERVER_ADDRESS=192\.168\.64\.1\n/);
  });

  test('B12: the guest reaches the host and outside networks, and names resolve', async () => {
    const server = w.outside.spawn([
      process.execPath,
      '-e',
      "require('http').createServer((q, r) => r.end('seen as ' + q.socket.remoteAddress)).listen(8000, '198.51.100.1', () => console.log('ready'))",
    ]);
    await new Promise((resolve) => server.stdout?.once('data', resolve));
    const ping = (address: string): string => `ping -c1 -W60 -q ${address} | grep -o "1 received"`;
    const seen = await inside(`curl -sS http://198.51.100.1:8000/; echo; ${ping('192.168.64.1')}; ${ping('198.51.100.1')}; getent hosts vm1.anka.internal`);
    expect(seen.split('\n').slice(0, 3)).toEqual(['seen as 10.9.0.2', '1 received', '1 received']);
    expect(seen.split('\n')[3]).toContain((await show()).ip);
    server.kill();
  });

  test('B60, B61, B63: port forwarding to ssh, from outside, from the host and through 127.0.0.1', async () => {
    expect(await anka.ok('modify vm1 add port-forwarding -g 22 ssh')).toBe('rule added successfully\n');
    expect(await anka.ok('show vm1')).toContain(`port_forwarding

+--------------+-------------+------------+---------+-----------+
|   guest_port |   host_port | protocol   | name    | host_ip   |
+==============+=============+============+=========+===========+
|           22 |       10000 | tcp        | ssh     | 0.0.0.0   |
+--------------+-------------+------------+---------+-----------+`);
    expect(await login(w.outside, 'anka@10.9.0.2 -p 10000', 'whoami')).toBe('anka');
    expect(await login(w.host, 'anka@10.9.0.2 -p 10000', 'whoami')).toBe('anka');
    expect(await login(w.host, 'anka@127.0.0.1 -p 10000', 'whoami')).toBe('anka');
  });

  test('B67: 32 MiB through the rule arrive byte for byte', async () => {
    const file = join(w.dir, 'big');
    execFileSync('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=32'], { stdio: 'ignore' });
    const sum = execFileSync('sha256sum', [file]).toString().split(' ')[0];
    expect(await login(w.outside, 'anka@10.9.0.2 -p 10000', `sha256sum" <${file} "`.replaceAll('"', "'"))).toMatch(new RegExp(`^${sum}`));
  });

  test('B3: cp copies files and directories to and from the guest', async () => {
    const from = join(w.dir, 'tree');
    mkdirSync(join(from, 'deep'), { recursive: true });
    writeFileSync(join(from, 'deep', 'a file'), 'text\n');
    await anka.ok(`cp -r ${from} vm1:`);
    expect((await anka.run(['run', 'vm1', 'cat', 'tree/deep/a file'])).stdout).toBe('text\n');
    await anka.ok(`cp -r vm1:tree ${join(w.dir, 'back')}`);
    expect(readFileSync(join(w.dir, 'back/deep/a file'), 'utf8')).toBe('text\n');
    expect((await anka.run(['cp', 'vm1:missing', w.dir])).status).not.toBe(0);
  });

  test('B15, B22: type host and back to shared, while the VM runs', async () => {
    await anka.plug('modify vm1 set network-card -t host 0', 'vm1', 'host');
    expect(await inside('ping -c1 -W2 -q 198.51.100.1 >&2 || echo none; ping -c1 -W60 -q 192.168.128.1')).toMatch(/^none\n[\s\S]*1 received/);
    await anka.plug('modify vm1 set network-card 0 -t shared', 'vm1', 'shared');
    expect(await anka.ok('run vm1 ping -c1 -W60 -q 198.51.100.1')).toContain('1 received');
  });

  test('B20: disconnected, and connected again', async () => {
    expect(await anka.ok('modify vm1 set network-card -t disconnected')).toBe('vm1 is disconnected\n');
    expect(await show()).not.toHaveProperty('ip');
    await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared');
  });

  testInFull('B4: suspend and resume keep the boot and the address', async () => {
    const boot = await anka.ok('run vm1 cat /proc/sys/kernel/random/boot_id');
    const ip = (await show()).ip;
    await anka.ok('suspend vm1');
    expect((await show()).status).toBe('suspended');
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toBe(ip);
    expect(await anka.ok('run vm1 cat /proc/sys/kernel/random/boot_id')).toBe(boot);
    await anka.ok('reboot vm1');
    expect(await anka.ok('run vm1 cat /proc/sys/kernel/random/boot_id')).not.toBe(boot);
  });

  testInFull('B64, B13: a clone of a running VM has its own address and automatic port; both VMs reach each other', async () => {
    await anka.ok('clone vm1 vm2');
    await anka.ok('start vm2');
    await anka.ok('run -N vm2 true');
    const [a, b] = [await show('vm1'), await show('vm2')];
    expect(a.ip).not.toBe(b.ip);
    expect(a.mac).not.toBe(b.mac);
    expect(b.port_forwarding).toMatchObject([{ name: 'ssh', host_port: 10001 }]);
    expect(await anka.ok(`run vm2 ping -c1 -W60 -q ${a.ip}`)).toContain('1 received');
    expect((await anka.ok('run vm2 hostname')).trim()).toBe('vm2');
    await anka.ok('stop vm2');
    expect((await show('vm2')).status).toBe('stopped');
  });

  test('B60: a deleted rule closes its port', async () => {
    const port = (await show()).port_forwarding[0]?.host_port;
    expect(await login(w.outside, `anka@10.9.0.2 -p ${port}`, 'whoami')).toBe('anka');
    expect(await anka.ok('modify vm1 delete port-forwarding ssh')).toBe('rule deleted successfully\n');
    expect(await login(w.outside, `anka@10.9.0.2 -p ${port}`, 'whoami')).toBeNull();
  });

  test('B21, B23: delete the network card; after add it has the same address', async () => {
    const { ip } = await show();
    await anka.ok('modify vm1 delete network-card 0');
    await until('show prints no network', async () => !(await show()).network);
    await anka.ok('stop -f vm1');
    await anka.ok('modify vm1 add network-card');
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toBe(ip);
  });
});
