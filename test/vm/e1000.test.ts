/**
 * An e1000 card in a real guest on both engines: it works, is changed while it runs, and stays at 1500 bytes, though
 * nothing advertises an MTU to it, where the network's MTU is larger. Its guest has Debian's generic kernel, which
 * takes long to boot under emulation: only with ANKA_TEST_E1000=1.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuestOfAllMachines } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const asked = process.env['ANKA_TEST_E1000'] ? null : 'ANKA_TEST_E1000=1 runs it';
const ENGINES = [
  ['kernel engine', false, asked ?? missing('root', 'netns', 'tun', 'qemu')],
  ['user engine', true, asked ?? missing('root', 'netns', 'qemu')],
] as const;

describe.each(ENGINES)(`an e1000 card, %s${asked ? ` (${asked})` : ''}`, (_name, ordinary, why) => {
  let w: World;
  let anka: Anka;
  beforeEach((t) => t.skip(why !== null));

  const sh = async (vm: string, line: string): Promise<string> => (await anka.run(['run', vm, 'sh', '-c', line])).stdout;
  const reachesOutside = async (): Promise<boolean> => (await sh('vm1', 'echo | nc -w 60 10.9.0.1 8080')).startsWith('outside sees 10.9.0.2\n');

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('te-');
    anka = new Anka(w, tinyGuestOfAllMachines(), { ordinary });
    await serve(w.outside, 8080, 'outside');
    for (const vm of ['vm1', 'vm2']) await anka.ok(`create -m 192M -c 1 -d 1G ${vm}`);
    expect(await anka.ok('modify vm1 set network-card -c e1000 --mac 52:54:00:e1:00:01')).toBe(
      'the built-in Debian guest has no driver for an e1000 card and will have no network\n',
    );
    expect(await anka.ok('config mtu 9000')).toBe("vm1: an e1000 card is limited to 1500; use '-c virtio-net' for a larger MTU\n");
    await Promise.all([anka.ok('start vm1'), anka.ok('start vm2')]);
    await Promise.all([anka.address('vm1'), anka.address('vm2')]);
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('B30, B41: the guest has a driver for it, sees its inside MAC, and reaches outside with 1500 bytes at most', async () => {
    expect(await sh('vm1', 'basename $(readlink /sys/class/net/eth0/device/driver); cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu')).toBe(
      'e1000\n52:54:00:e1:00:01\n1500\n',
    );
    expect(await sh('vm2', 'cat /sys/class/net/eth0/mtu')).toBe('9000\n');
    expect(await reachesOutside()).toBe(true);
  });

  test('it and a card of 9000 bytes exchange streams, and packets of any size where the network fragments them, which a kernel bridge cannot', async () => {
    const [one, two] = [await anka.address('vm1'), await anka.address('vm2')];
    const bytes = ordinary ? 8000 : 1400;
    for (const [vm, to] of [
      ['vm1', two],
      ['vm2', one],
    ] as const)
      expect(await sh(vm, `for i in 1 2 3; do ping -c2 -W5 -s ${bytes} ${to} | grep ' 0% packet loss' && exit 0; done`), `${vm} to ${to}`).toMatch(/ 0% /);
    const sum = await sh('vm2', 'head -c 1000000 /dev/urandom >/tmp/f; sha256sum </tmp/f');
    const listening = sh('vm1', 'mkfifo /tmp/p; exec 3<>/tmp/p; nc -l -p 9001 <&3 | sha256sum');
    await sh('vm2', `for i in 1 2 3 4 5 6 7 8 9; do nc -w 5 ${one} 9001 </tmp/f && exit 0; sleep 1; done`);
    expect(await listening).toBe(sum);
  });

  test('B20, B22, B24: it is disconnected and attached to another network, and its subnet changed, while it runs', async () => {
    expect(await anka.ok('modify vm1 set network-card -t disconnected')).toBe('vm1 is disconnected\n');
    expect(await anka.ok('modify vm1 set network-card -t host')).toMatch(/^vm1 is on host with address 192\.168\.128\.\d+\n$/);
    expect(await anka.ok('modify vm1 set network-card -t shared')).toMatch(/^vm1 is on shared with address 192\.168\.64\.\d+\n$/);
    await anka.ok('config shared_subnet 192.168.80.0/24');
    for (const vm of ['vm1', 'vm2']) expect(await anka.address(vm), vm).toMatch(/^192\.168\.80\.\d+$/);
    expect(await reachesOutside()).toBe(true);
  });

  test('B4: a new model waits for the next start, even across a suspend: the resumed guest finds its old card', async () => {
    expect(await anka.ok('modify vm1 set network-card -c virtio-net')).toBe('MAC address and controller change at the next start\n');
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toMatch(/^192\.168\.80\.\d+$/);
    expect(await sh('vm1', 'basename $(readlink /sys/class/net/eth0/device/driver)')).toBe('e1000\n');
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    expect(await anka.address('vm1')).toMatch(/^192\.168\.80\.\d+$/);
    expect(await sh('vm1', 'cat /sys/class/net/eth0/mtu')).toBe('9000\n');
  });
});
