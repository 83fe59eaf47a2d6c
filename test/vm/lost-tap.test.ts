/**
 * Another program removes the tap of a running guest, real and on the kernel engine: the guest gets its network back,
 * and while it has none `show` says so.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const INTERNET = '198.51.100.1';

interface Shown {
  uuid: string;
  ip?: string;
  message?: string;
  network: { healthy: boolean };
}

describe.skipIf(why !== null)(`a tap that another program removes${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const show = (vm: string) => anka.body<Shown>(`show ${vm}`);
  const tapOf = async (vm: string) => `anka${(await show(vm)).uuid.slice(0, 8)}`;
  /** What `ip` says of the interface that the guest has opened. */
  const indexOf = async (vm: string) => (JSON.parse(w.host.run(`ip -j link show ${await tapOf(vm)}`)) as { ifindex: number; flags: string[] }[])[0];
  const isConnected = async (vm: string): Promise<boolean> => (await show(vm)).network.healthy && (await indexOf(vm))?.flags.includes('LOWER_UP') === true;
  /** Waits until the card is connected again, with its address and both ways. */
  const heals = async (vm: string, ip: string): Promise<void> => {
    await until(`${vm} is connected`, () => isConnected(vm));
    await until(`${vm} has its address`, async () => (await show(vm)).ip === ip);
    await anka.reaches(vm, INTERNET);
    expect((await show(vm)).message).toBeUndefined();
  };

  beforeAll(async () => {
    w = new World('lt-');
    anka = new Anka(w, tinyGuest());
    for (const [vm, cpus] of [
      ['vm1', 1],
      ['vm2', 2],
    ] as const) {
      await anka.ok(`create -m 160M -c ${cpus} -d 1G ${vm}`);
      await anka.ok(`start ${vm}`);
    }
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test.each([
    ['deleted', 'vm1', 'ip link del TAP'],
    ['deleted, of a card with two queues', 'vm2', 'ip link del TAP'],
    ['deleted twice', 'vm1', 'ip link del TAP; sleep 1; ip link del TAP'],
    // it may have its name again by then
    ['renamed, and deleted under its new name', 'vm2', 'ip link set TAP down; ip link set TAP name other1; ip link del other1 || ip link del TAP'],
  ])('%s', async (_, vm, line) => {
    const ip = await anka.address(vm);
    const before = await indexOf(vm);
    w.host.run(line.replaceAll('TAP', await tapOf(vm)));
    await heals(vm, ip);
    expect((await indexOf(vm))?.ifindex).not.toBe(before?.ifindex);
  });

  test('while no daemon runs', async () => {
    const ip = await anka.address('vm1');
    const tap = await tapOf('vm1');
    await anka.killDaemon();
    w.host.run(`ip link del ${tap}`);
    await heals('vm1', ip);
  });

  test('connections of the guest go on', async () => {
    const ip = await anka.address('vm1');
    const tap = await tapOf('vm1');
    const session = anka.run(['run', 'vm1', 'sh', '-c', 'echo begun >/tmp/session; sleep 5; echo ended']);
    await until('the session has begun', async () => (await anka.run(['run', 'vm1', 'test', '-e', '/tmp/session'])).status === 0);
    w.host.run(`ip link del ${tap}`);
    await heals('vm1', ip);
    expect(await session).toMatchObject({ status: 0, stdout: 'ended\n' });
  });

  test('a guest that boots again afterwards uses all its queues', async () => {
    const ip = await anka.address('vm2');
    w.host.run(`ip link del ${await tapOf('vm2')}`);
    await heals('vm2', ip);
    await anka.run(['run', 'vm2', 'sh', '-c', 'touch /run/old; (sleep 1; reboot -f) >/dev/null 2>&1 &']);
    await until('it has booted', async () => (await anka.run(['run', 'vm2', 'sh', '-c', 'test ! -e /run/old'])).status === 0);
    await anka.reaches('vm2', INTERNET);
    expect(w.host.run(`ip -d link show ${await tapOf('vm2')}`)).toContain('numqueues 2');
  });

  test('one that is moved to another namespace: `show` says what is wrong until it is gone from there', async () => {
    const ip = await anka.address('vm1');
    const tap = await tapOf('vm1');
    const other = w.host.spawn(['unshare', '-n', 'sleep', '86400']);
    const isElsewhere = () => w.host.attempt(`test "$(readlink /proc/${other.pid}/ns/net)" != "$(readlink /proc/self/ns/net)"`) !== null;
    await until('there is another namespace', isElsewhere);
    w.host.run(`ip link set ${tap} netns ${other.pid}`);
    await until('it is unhealthy', async () => {
      const { network, message } = await show('vm1');
      return !network.healthy && message?.includes('another program has removed its tap');
    });
    expect(await anka.ok('show vm1')).toContain('another program has removed its tap');
    other.kill();
    await heals('vm1', ip);
  });
});
