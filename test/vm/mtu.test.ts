/**
 * The `mtu` setting with real guests on both engines: what virtio advertises to them, when, and that guests with
 * different MTUs reach each other and the outside.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const ENGINES = [
  ['kernel engine', false, missing('root', 'netns', 'tun', 'qemu')],
  ['user engine', true, missing('root', 'netns', 'qemu')],
] as const;

describe.each(ENGINES)('the MTU of real guests, %s', (_name, ordinary, why) => {
  let w: World;
  let anka: Anka;
  beforeEach((t) => t.skip(why !== null));

  const mtu = (vm: string): Promise<string> => anka.ok(`run ${vm} cat /sys/class/net/eth0/mtu`);
  /** The first ping may be lost: it forbids fragments, and the guest learns the path MTU from it. */
  const pings = (vm: string, to: string, size: number): Promise<boolean> =>
    until(`${vm} reaches ${to} with ${size} bytes`, async () =>
      (await anka.run(['run', vm, 'ping', '-c2', '-W5', '-s', String(size), to])).stdout.includes(' 0% packet loss'),
    );
  const reachesOutside = async (vm: string): Promise<boolean> =>
    (await anka.run(['run', vm, 'sh', '-c', 'echo | nc -w 60 10.9.0.1 8080'])).stdout.startsWith('outside sees 10.9.0.2\n');

  beforeAll(async () => {
    if (why !== null) return;
    w = new World('tm-');
    w.host.run('sysctl -qw net.ipv4.ping_group_range="0 2147483647"');
    anka = new Anka(w, tinyGuest(), { ordinary });
    await serve(w.outside, 8080, 'outside');
    for (const vm of ['vm1', 'vm2', 'vm3']) await anka.ok(`create -m 192M -c 1 -d 1G ${vm}`);
    await anka.ok('modify vm3 set network-card -c e1000');
    await anka.ok('start vm1');
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('a change prints the VMs that it waits for, and takes effect at a guest’s next start; a suspended one keeps its MTU', async () => {
    expect(await mtu('vm1')).toBe('1500\n');
    expect(await anka.ok('config mtu 65520')).toBe(
      "takes effect at the next start of vm1 (now 1500)\nvm3: an e1000 card is limited to 1500; use '-c virtio-net' for a larger MTU\n",
    );
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.ok('start vm2');
    await anka.address('vm1');
    await anka.address('vm2');
    expect(await mtu('vm1')).toBe('1500\n');
    expect(await mtu('vm2')).toBe('65520\n');
  });

  test('guests of 1500 and 65520 reach each other, the gateway and the outside, with packets small and large', async () => {
    const [one, two] = [await anka.address('vm1'), await anka.address('vm2')];
    for (const size of [20_000])
      for (const [vm, to] of [
        ['vm1', two],
        ['vm2', one],
        ['vm1', '192.168.64.1'],
        ['vm2', '192.168.64.1'],
        ['vm2', '10.9.0.1'],
      ] as const)
        await pings(vm, to, size);
    for (const vm of ['vm1', 'vm2']) expect(await reachesOutside(vm)).toBe(true);
    const sh = async (vm: string, line: string): Promise<string> => (await anka.run(['run', vm, 'sh', '-c', line])).stdout;
    const sum = await sh('vm2', 'head -c 3000000 /dev/urandom >/tmp/f; sha256sum </tmp/f');
    // the standard input never ends, as nc would exit at its end
    const listening = sh('vm1', 'mkfifo /tmp/p; exec 3<>/tmp/p; nc -l -p 9001 <&3 | sha256sum');
    await sh('vm2', `for i in 1 2 3 4 5 6 7 8 9; do nc -w 5 ${one} 9001 </tmp/f && exit 0; sleep 1; done`);
    expect(await listening).toBe(sum);
  });

  test('after its next start it has the new one', async () => {
    await anka.ok('stop -f vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
    expect(await mtu('vm1')).toBe('65520\n');
    expect(await anka.ok('config mtu')).toBe('65520\n');
    await pings('vm1', await anka.address('vm2'), 60_000);
  });
});
