/**
 * Cards of real guests (the tiny one), changed while the VM runs, is suspended or is cloned: what only QEMU and a real
 * Linux can show (B4, B16, B18, B21, B22, B50, B71).
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { typeLine } from '../world/console.ts';
import { tinyGuest } from '../world/images.ts';
import { tcxPrograms } from '../world/tcx.ts';
import { missing, type Namespace, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const INTERNET = '198.51.100.1';
/** On the console: the last change of a carrier is its loss. A DHCP client that just ended may still print a line. */
const NO_LINK = /carrier eth\d .->0\s(?![\s\S]*carrier)/;
const ADDED_WITHOUT_LINK = /was removed[\s\S]*carrier eth\d .->0\s(?![\s\S]*carrier)/;

interface Shown {
  ip?: string;
  mac?: string;
  network?: { type: string; bridge?: string; address_source?: string };
  port_forwarding: { name: string; host_port: number }[];
}

describe.skipIf(why !== null)(`live changes of real guests${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const show = (vm: string) => anka.body<Shown>(`show ${vm}`);
  const guest = async (vm: string, line: string) => (await anka.run(['run', vm, 'sh', '-c', line])).stdout.trim();
  const console_ = async (vm: string) => readFileSync(join(anka.home, 'run/vm', (await anka.ok(`show ${vm} uuid`)).slice(0, 8), 'console.log'), 'latin1');
  /** The first bytes of the guest's ssh server. */
  const banner = (from: Namespace, ip: string, port = 22) =>
    until(`${from.name} reads the ssh banner of ${ip}:${port}`, () => from.ask(`timeout 20 bash -c 'exec 3<>/dev/tcp/${ip}/${port} && head -c 4 <&3'`));
  const onNetwork = (vm: string, net: string) =>
    until(`${vm} has an address of ${net}`, async () => ((await show(vm)).ip?.startsWith(net) ? (await show(vm)).ip : null));

  beforeAll(async () => {
    w = new World('tw-');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -c 1 -d 1G vm1');
    await anka.ok('modify vm1 delete network-card 0');
    await anka.ok('start vm1');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B21, B64: a card is added to a running guest that never had one, deleted, and added again; rules are kept', async () => {
    await until('it runs', async () => (await console_('vm1')).includes('TINY GUEST READY'));
    expect(await console_('vm1')).not.toContain('carrier eth');
    const ip = await anka.plug('modify vm1 add network-card', 'vm1', 'shared');
    await anka.reaches('vm1', INTERNET);
    await anka.ok('modify vm1 add port-forwarding -g 22 ssh');
    await anka.ok('modify vm1 delete network-card');
    await until('the guest lost its card', async () => (await console_('vm1')).includes('card eth0 was removed'));
    expect(await anka.ok('modify vm1 add network-card -t disconnected')).toBe('network card added successfully; vm1 is disconnected\n');
    // QEMU adds the card with its link up; a slow guest sees only the link down that follows
    await until('the guest sees a card without a link', async () => ADDED_WITHOUT_LINK.test(await console_('vm1')));
    expect(await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared')).toBe(ip);
    expect((await show('vm1')).port_forwarding).toMatchObject([{ name: 'ssh', host_port: 10000 }]);
    expect(await banner(w.outside, '10.9.0.2', 10000)).toBe('SSH-');
  });

  test('B6, B21: if the daemon dies while adding a card, the next daemon adds it', async () => {
    await anka.ok('modify vm1 delete network-card');
    const adding = anka.run(['modify', 'vm1', 'add', 'network-card']);
    await until('the addition is recorded', async () => w.host.run('ip -o link').includes('anka:v1:nic='));
    await anka.killDaemon();
    await adding;
    const { network } = await show('vm1');
    if (!network) await anka.ok('modify vm1 add network-card');
    await onNetwork('vm1', '192.168.64.');
    expect(await guest('vm1', 'echo here')).toBe('here');
  });

  test('B4: after a resume the guest renews its lease on its own, and keeps its address', async () => {
    const { ip } = await show('vm1');
    const leases = async () => (await console_('vm1')).split(`udhcpc: bound ${ip}`).length;
    const before = await leases();
    // a new model waits for the next start: the resumed guest must find its old card, and has no driver for this one
    expect(await anka.ok('modify vm1 set network-card -c e1000')).toBe(
      'MAC address and controller change at the next start; the built-in Debian guest has no driver for an e1000 card and will have no network\n',
    );
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.ok('modify vm1 set network-card -c virtio-net');
    const since = Date.now();
    // its lease is valid for hours yet, so only the link bounce can be the cause
    await until('it renewed its lease', async () => (await leases()) > before && (await show('vm1')).ip === ip);
    console.log(`    an address ${Date.now() - since} ms after the resume (wanted: within 5 s)`);
  });

  test('B22: moved to another network while suspended: on that network after the resume; disconnected while suspended or right after the resume: no link', async () => {
    const { ip } = await show('vm1');
    await anka.ok('suspend vm1');
    expect(await anka.ok('modify vm1 set network-card 0 -t host')).toBe('vm1 will be on host when it resumes\n');
    await anka.ok('start vm1');
    const since = Date.now();
    await onNetwork('vm1', '192.168.128.');
    console.log(`    an address of the other network ${Date.now() - since} ms after the resume`);
    expect(await guest('vm1', `ping -c1 -W1 ${INTERNET} >/dev/null || echo none`)).toBe('none');
    await anka.ok('suspend vm1');
    await anka.ok('modify vm1 set network-card -t disconnected');
    await anka.ok('start vm1');
    await until('the guest sees no link', async () => NO_LINK.test(await console_('vm1')));
    expect(await show('vm1')).not.toHaveProperty('ip');
    expect(await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared')).toBe(ip);
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.ok('modify vm1 set network-card -t disconnected');
    await until('the guest sees no link', async () => NO_LINK.test(await console_('vm1')));
    await anka.ok('modify vm1 set network-card -t shared');
  });

  test('B16, B18, B71: ANKA_BRIDGE_NAME names the interface for a start; an existing bridge is used unchanged', async () => {
    w.host.run(
      'ip link add br0 type bridge stp_state 0 forward_delay 0; ip link set br0 up; ip link add s0 type dummy; ip link set s0 master br0 up; ip addr add 10.77.0.1/24 dev br0',
    );
    const server = w.host.spawn([
      'dnsmasq',
      '-k',
      '--conf-file=/dev/null',
      '--pid-file=',
      '--no-resolv',
      '--user=root',
      '--port=0',
      '--interface=br0',
      '--bind-interfaces',
      '--dhcp-range=10.77.0.50,10.77.0.60',
      '--dhcp-leasefile=/dev/null',
      '--dhcp-broadcast',
    ]);
    await anka.ok('stop -f vm1');
    await anka.ok('modify vm1 set network-card 0 -t bridge', { env: { ANKA_BRIDGE_NAME: 'br0' } });
    await anka.ok('start vm1', { env: { ANKA_BRIDGE_NAME: 'br0' } });
    expect((await show('vm1')).network).toMatchObject({ type: 'bridge', bridge: 'br0' });
    const bound = await until('the network’s own server answers', async () => /udhcpc: bound (10\.77\.0\.\d+)/.exec(await console_('vm1'))?.[1]);
    await w.host.reaches(bound, 'the host reaches the guest');
    server.kill();
    await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared');
    expect(w.host.pings(bound)).toBe(false);
  });

  test('B16, B18, B19, B22, B41: a running guest moves to the host’s own Ethernet and back; with --mac the outside sees another address', async () => {
    const leases = join(w.dir, 'dnsmasq.leases');
    const server = w.outside.spawn([
      ...['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', '--no-resolv', '--user=root', '--port=0', '--interface=ext0', '--bind-interfaces'],
      ...['--dhcp-range=10.9.0.100,10.9.0.199,1h', `--dhcp-leasefile=${leases}`, '--no-ping', '--dhcp-broadcast'],
    ]);
    const facts = () => w.host.run('ip -4 -o addr show en0; ip route | grep en0; tc filter show dev en0 ingress') + tcxPrograms(w.host, 'en0');
    const before = facts();
    expect(await anka.ok('modify vm1 set network-card 0 -t bridge -b en0')).toContain('vm1 is on bridge en0');
    const ip = await onNetwork('vm1', '10.9.0.1');
    expect(await anka.body('network list')).toContainEqual({
      ...{ name: 'bridge', interface: 'en0', subnet: null, gateway: null, healthy: true, leases: null, pool_size: null, vms: ['vm1'], message: '' },
    });
    expect(await anka.ok('network list')).toMatch(/^\| bridge +\| +\| +\| en0 +\| yes +\| +\| vm1 +\| +\|$/m);
    expect(await banner(w.outside, ip as string), 'from outside').toBe('SSH-');
    expect(await banner(w.host, ip as string), 'from the host').toBe('SSH-');
    await w.host.reaches('10.9.0.1', 'the host is still connected');
    expect(await guest('vm1', 'echo in')).toBe('in');

    await anka.ok('modify vm1 set network-card -m 52:54:00:ab:cd:ef');
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    const shown = await until('it has an address there again', async () => {
      const now = await show('vm1');
      return now.ip?.startsWith('10.9.0.1') && now.mac && readFileSync(leases, 'utf8').includes(now.mac) ? now : null;
    });
    expect(await guest('vm1', 'cat /sys/class/net/eth*/address')).toBe('52:54:00:ab:cd:ef');
    expect(readFileSync(leases, 'utf8')).not.toContain('52:54:00:ab:cd:ef');
    expect(await banner(w.outside, shown.ip as string)).toBe('SSH-');
    expect(w.outside.run('ip neigh')).not.toContain('52:54:00:ab:cd:ef');

    server.kill();
    await anka.ok('modify vm1 set network-card --no-mac');
    await anka.plug('modify vm1 set network-card -t shared', 'vm1', 'shared');
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    await onNetwork('vm1', '192.168.64.');
    expect(facts(), 'nothing is left on the interface').toBe(before);
  });

  test('B50: an address configured in the guest is shown within two seconds, reachable through the rule, and no longer shown once removed', async () => {
    const lease = (await show('vm1')).ip as string;
    const eth = await guest('vm1', 'ls /sys/class/net | grep eth');
    const change = async (to: string) => {
      await typeLine(
        anka,
        'vm1',
        `ip -4 addr flush dev ${eth}; ip addr add ${to}/24 dev ${eth}; ip route add default via 192.168.64.1; ping -c1 -W2 192.168.64.1 >/dev/null`,
      );
      const since = Date.now();
      await until('it is shown', async () => (await show('vm1')).ip === to);
      console.log(`    shown ${Date.now() - since} ms after the change`);
      expect(await banner(w.outside, '10.9.0.2', 10000)).toBe('SSH-');
    };
    await change('192.168.64.77');
    expect((await show('vm1')).network?.address_source).toBe('static');
    const refused = await anka.run(['modify', 'vm1', 'set', 'network-card', '--ip', '192.168.64.1']);
    expect(refused.stderr).toContain("is the gateway's address");
    await change('192.168.64.78');
    await change(lease);
    expect((await show('vm1')).network?.address_source).toBe('lease');
  });

  test('B43, B64: clones of a running, a suspended and a stopped VM work beside it: each with its own outside MAC, address and automatic ports', async () => {
    await anka.ok('modify vm1 set network-card -m 52:54:00:12:34:56 --no-local');
    const { ip, mac } = await show('vm1');
    await anka.ok('clone vm1 running');
    await anka.ok('suspend vm1');
    await anka.ok('clone vm1 suspended');
    await anka.ok('stop vm1');
    await anka.ok('clone vm1 stopped');
    await anka.ok('start vm1');
    const seen = [await anka.address('vm1')];
    expect(seen[0]).toBe(ip);
    const macs = [(await show('vm1')).mac];
    const ports = [10000];
    const clones = ['running', 'suspended', 'stopped'];
    for (const name of clones) {
      const { network_cards } = await anka.body<{ network_cards: object[] }>(`describe ${name}`);
      expect(network_cards).toMatchObject([
        { mode: 'shared', mac_address: '52:54:00:12:34:56', local: false, port_forwarding_rules: [{ rule_name: 'ssh', guest_port: 22, host_port: 0 }] },
      ]);
      await anka.ok(`modify ${name} set network-card --no-mac --local`);
    }
    await anka.ok(`start ${clones.join(' ')}`);
    for (const name of clones) {
      seen.push(await anka.address(name));
      const s = await show(name);
      macs.push(s.mac);
      ports.push(s.port_forwarding[0]?.host_port as number);
      await anka.reaches(name, INTERNET);
    }
    await anka.ok(`stop -f ${clones.join(' ')}`);
    expect(new Set(seen).size).toBe(4);
    expect(new Set(macs).size).toBe(4);
    expect(mac).toBeDefined();
    expect(Math.min(...ports.slice(1))).toBeGreaterThan(10000);
  });
});
