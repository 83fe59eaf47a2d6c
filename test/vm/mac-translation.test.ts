/**
 * Two real guests (the tiny one) with the same MAC address on one network, through the command (B40–B43): first on our
 * network, then on a foreign one.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { typeLine } from '../world/console.ts';
import { tinyGuest } from '../world/images.ts';
import { badPackets, Sniffer } from '../world/sniffer.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const INSIDE = '52:54:00:aa:bb:cc';
const MAIN = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const bytes = (mac: string): Buffer => Buffer.from(mac.replaceAll(':', ''), 'hex');

describe.skipIf(why !== null)(`real guests with one MAC address${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const mac = async (vm: string): Promise<string> => (await anka.body<{ mac: string }>(`show ${vm}`)).mac;
  const guest = async (vm: string, ...words: string[]): Promise<string> => (await anka.run(['run', vm, ...words])).stdout.trim();

  const asRoot = (vm: string, line: string): Promise<string> => typeLine(anka, vm, line);
  const reaches = (vm: string, address: string): Promise<string> =>
    asRoot(vm, `for i in 1 2 3 4 5 6 7 8 9; do ping -c1 -W2 ${address} >/dev/null && echo reached && break; done`);

  beforeAll(async () => {
    w = new World('tn-');
    w.host.run('ip link add br-ext type bridge stp_state 0 forward_delay 0 mcast_snooping 0 && ip link set br-ext up');
    w.host.attempt('sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0');
    w.host.run(`ip link add srv0 netns ${w.host.name} type veth peer name net0 netns ${w.outside.name}; ip link set srv0 master br-ext up`);
    w.outside.run('ip link set net0 up; ip addr add 10.77.0.1/24 dev net0; ip addr add fd77::1/64 dev net0 nodad; ethtool -K net0 tx off');
    anka = new Anka(w, tinyGuest());
    await anka.ok('create -m 128M -c 1 -d 1G vm1');
    await anka.ok('modify vm1 set network-card -m 52-54-00-AA-BB-CC');
    await anka.ok('clone vm1 vm2');
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B43: every spelling is shown the same; invalid addresses are refused; a clone keeps --mac', async () => {
    for (const vm of ['vm1', 'vm2']) expect(await anka.body(`describe ${vm}`)).toMatchObject({ network_cards: [{ mac_address: INSIDE }] });
    for (const bad of ['01:00:5e:00:00:01', '00:00:00:00:00:00', '52:54:00:aa:bb', 'x'])
      expect((await anka.run(['modify', 'vm1', 'set', 'network-card', '-m', bad])).status, bad).toBe(7);
  });

  test('B40, B41, B42: on shared: both have the same address inside, each its own outside and its own lease, and reach each other', async () => {
    await anka.ok('start vm1');
    const bridge = await Sniffer.start(w, w.host, 'anka-shared');
    await anka.ok('start vm2');
    const [ip1, ip2] = [await anka.address('vm1'), await anka.address('vm2')];
    const [out1, out2] = [await mac('vm1'), await mac('vm2')];
    expect(ip1).not.toBe(ip2);
    expect(out1).not.toBe(out2);
    for (const m of [out1, out2]) expect(m).toMatch(/^56:45:45:/);
    for (const vm of ['vm1', 'vm2']) expect(await guest(vm, 'cat', '/sys/class/net/eth0/address')).toBe(INSIDE);
    await anka.reaches('vm1', ip2);
    await anka.reaches('vm2', ip1);
    for (const [vm, n] of [
      ['vm1', 1],
      ['vm2', 2],
    ] as const)
      await asRoot(vm, `ip -6 addr add fd64::10${n}/64 dev eth0`);
    expect(await reaches('vm1', 'fd64::102')).toContain('reached');
    expect(await reaches('vm2', 'fd64::101')).toContain('reached');
    const seen = await bridge.stop();
    expect(seen.includes(bytes(out1)) && seen.includes(bytes(out2))).toBe(true);
    expect(seen.includes(bytes(INSIDE)), 'the inside address on the bridge').toBe(false);
    // TCP and UDP between host and guests have no checksum yet when they pass a tap (offload)
    expect(badPackets(w.host, bridge.file, 'arp || icmpv6 || icmp.type == 0 || icmp.type == 8 || udp.srcport == 68')).toEqual([]);
  });

  test('B41, B93: captures: inside shows the inside address only, outside the outside one', async () => {
    const ip2 = await anka.address('vm2');
    const own = await mac('vm1');
    for (const [side, there, missing_] of [
      ['inside', INSIDE, own],
      ['outside', own, INSIDE],
    ] as const) {
      const file = join(w.dir, `${side}.pcapng`);
      const child = w.host.spawn([process.execPath, MAIN, '-j', 'capture', 'vm1', '--side', side, '-w', file, 'icmp', 'or', 'arp'], anka.env);
      const ended = new Promise((resolve) => child.once('exit', resolve));
      await until('the capture started', () => w.host.attempt(`test -s ${file}`) !== null);
      await guest('vm1', 'ping', '-c3', '-W3', ip2);
      await until('frames arrived', () => readFileSync(file).includes(bytes(there)));
      child.kill('SIGINT');
      await ended;
      expect(readFileSync(file).includes(bytes(missing_)), side).toBe(false);
    }
  });

  test('B4, B41: after suspend and resume, the guest keeps its address', async () => {
    const before = [await anka.address('vm1'), await mac('vm1')];
    await anka.ok('suspend vm1');
    expect(await anka.ok('modify vm1 set network-card -m 52:54:00:00:00:07')).toContain('MAC address and controller change when it is stopped and started');
    await anka.ok('start vm1');
    expect([await anka.address('vm1'), await mac('vm1')]).toEqual(before);
    expect(await guest('vm1', 'cat', '/sys/class/net/eth0/address')).toBe(INSIDE);
    await anka.reaches('vm1', await anka.address('vm2'));
  });

  test('B41, B6: a new --mac waits for the next start, also across the daemon’s death; then the guest has it', async () => {
    expect(await anka.ok('modify vm1 set network-card -m 52:54:00:00:00:08')).toContain('at the next start');
    await anka.killDaemon();
    expect(await guest('vm1', 'cat', '/sys/class/net/eth0/address')).toBe(INSIDE);
    await anka.reaches('vm1', await anka.address('vm2'));
    await anka.ok('stop -f vm1');
    expect(await anka.body('show vm1')).not.toHaveProperty('mac');
    await anka.ok('start vm1');
    await anka.address('vm1');
    expect(await guest('vm1', 'cat', '/sys/class/net/eth0/address')).toBe('52:54:00:00:00:08');
    await anka.ok('modify vm1 set network-card --no-mac');
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
    expect(await guest('vm1', 'cat', '/sys/class/net/eth0/address'), 'the same inside and outside').toBe(await mac('vm1'));
    await anka.ok(`modify vm1 set network-card -m ${INSIDE}`);
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
  });

  test('B22, B41, B42: attached to a foreign network while they run: each has a lease from the foreign server and an address by advertisement; no bad checksum', async () => {
    const leases = join(w.dir, 'foreign.leases');
    w.outside.spawn([
      ...['dnsmasq', '-k', '--conf-file=/dev/null', '--pid-file=', '--user=root', '--port=0', '--interface=net0', '--bind-interfaces', '--no-ping'],
      ...[`--dhcp-leasefile=${leases}`, '--dhcp-range=10.77.0.10,10.77.0.99,1h', '--dhcp-option=6,10.77.0.1', '--enable-ra', '--dhcp-range=fd77::,ra-only'],
    ]);
    await until('dnsmasq serves', () => w.outside.run('ss -Hlnu sport = :67').includes(':67'));
    const all = await Sniffer.start(w, w.host, 'br-ext');
    for (const vm of ['vm1', 'vm2']) await asRoot(vm, 'echo 3 >/proc/sys/net/ipv6/conf/eth0/addr_gen_mode');
    for (const vm of ['vm1', 'vm2']) await anka.ok(`modify ${vm} set network-card -t bridge -b br-ext`);
    const leaseText = await until('two leases', () => {
      const text = w.host.attempt(`cat ${leases}`) ?? '';
      return text.split('\n').filter((l) => / 10\.77\./.test(l)).length === 2 ? text : null;
    });
    expect(leaseText).not.toContain(INSIDE);
    const address4 = async (vm: string): Promise<string> => new RegExp(`${await mac(vm)} (10\\.77\\.0\\.\\d+)`).exec(leaseText)?.[1] as string;
    const address6 = (vm: string): Promise<string> =>
      until(`${vm} has an address by advertisement`, async () => /inet6 (fd77:\S+)\/64/.exec(await asRoot(vm, 'ip addr show dev eth0'))?.[1]);
    const [a4, b4] = [await address4('vm1'), await address4('vm2')];
    expect(a4).not.toBe(b4);
    const [a6, b6] = [await address6('vm1'), await address6('vm2')];
    expect(a6).not.toBe(b6);
    for (const [vm, addresses] of [
      ['vm1', [b4, b6]],
      ['vm2', [a4, a6]],
    ] as const)
      for (const a of addresses) expect(await reaches(vm, a), `${vm} to ${a}`).toContain('reached');
    expect((await all.stop()).includes(bytes(INSIDE))).toBe(false);
    expect(badPackets(w.host, all.file)).toEqual([]);
  });
});
