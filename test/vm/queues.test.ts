/**
 * Queues of a card on the kernel engine, with real guests of two CPUs: the guest has a pair for each CPU, both carry
 * traffic, and they last through hotplug, suspend, clone and an upgrade. Where vhost-net cannot be used, QEMU moves the
 * frames, and the daemon logs why, once.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { vhostRefusal } from '../../src/host/vhost.ts';
import { openDb } from '../../src/store/db.ts';
import { type VmRow, VmStore } from '../../src/store/vms.ts';
import { serve } from '../contract/guest-tools.ts';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const INTERNET = '198.51.100.1';
const PAIR = 'rx-0 tx-0';
const TWO_PAIRS = 'rx-0 rx-1 tx-0 tx-1';

describe.skipIf(why !== null)(`queues of real guests' cards${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  const show = (vm: string) => anka.body<{ uuid: string; pid?: number }>(`show ${vm}`);
  const guest = async (vm: string, line: string) => (await anka.run(['run', vm, 'sh', '-c', line])).stdout.trim();
  const queues = async (vm: string) => (await guest(vm, 'ls /sys/class/net/eth0/queues')).split(/\s+/).sort().join(' ');
  /** The tap of a VM as `ip` describes it. */
  const tap = async (vm: string) => {
    const { uuid } = await show(vm);
    return JSON.parse(w.host.run(`ip -d -j link show anka${uuid.slice(0, 8)}`))[0].linkinfo.info_data as { multi_queue: boolean; numqueues?: number };
  };
  const qemu = async (vm: string): Promise<string> => {
    const { uuid } = await show(vm);
    return w.host.run(`ps -eo args | grep '[q]emu-system.*${uuid}'`);
  };
  /** Interrupts of each queue that receives. */
  const received = async (vm: string) =>
    [...(await guest(vm, 'grep input[.] /proc/interrupts')).matchAll(/^\s*\d+:((?:\s+\d+)+)/gm)].map(([, counts]) =>
      (counts as string)
        .trim()
        .split(/\s+/)
        .map(Number)
        .reduce((a, b) => a + b),
    );

  const log = () => readFileSync(join(anka.home, 'ankad.log'), 'utf8').split('\n');
  /** Starts vm1 as if its guest had such a card. */
  const startWith = async (card: Pick<VmRow, 'guestQueues' | 'guestDriver'>) => {
    await anka.ok('stop -f vm1');
    await anka.ok('daemon stop');
    const db = openDb(join(anka.home, 'anka.db'));
    const vms = new VmStore(db);
    vms.update(vms.find('vm1')?.uuid as string, card);
    db.close();
    await anka.ok('start vm1');
  };

  beforeAll(async () => {
    w = new World('tq-');
    anka = new Anka(w, tinyGuest());
    await serve(w.outside, 8080, 'outside');
    await anka.ok('create -m 192M -c 2 -d 1G vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
  });
  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test('a guest with two CPUs has two pairs of queues, and both receive', async () => {
    expect(await queues('vm1')).toBe(TWO_PAIRS);
    expect(await tap('vm1')).toMatchObject({ multi_queue: true, numqueues: 2 });
    const before = await received('vm1');
    expect(before).toHaveLength(2);
    await until('both queues received', async () => {
      expect(await guest('vm1', 'echo | nc -w 60 10.9.0.1 8080')).toMatch(/^outside sees/);
      return (await received('vm1')).every((count, i) => count > (before[i] as number));
    });
  });

  test('the kernel moves the frames where vhost-net and KVM work; else QEMU does, and the daemon logs why, once', async () => {
    const line = await qemu('vm1');
    const usable = vhostRefusal() === null && line.includes('-accel kvm');
    expect(line).toMatch(usable ? /-netdev tap,id=net0,fds=\d+:\d+,vhost=on,vhostfds=\d+:\d+ / : /-netdev tap,id=net0,fds=\d+:\d+ /);
    await anka.ok('clone vm1 vm2');
    await anka.ok('start vm2');
    await anka.address('vm2');
    expect(await queues('vm2')).toBe(TWO_PAIRS);
    await anka.reaches('vm2', INTERNET);
    const reasons = log()
      .filter((l) => l.includes('vhost-net is not used'))
      .map((l) => (JSON.parse(l) as { reason: string }).reason);
    expect(reasons).toEqual(usable ? [] : [vhostRefusal() ?? 'guests are emulated, without KVM']);
    await anka.ok('delete --yes vm2');
  });

  test('a card with one queue for a VM with one CPU', async () => {
    await anka.ok('create -m 128M -c 1 -d 1G vm3');
    await anka.ok('start vm3');
    await anka.address('vm3');
    expect(await queues('vm3')).toBe(PAIR);
    expect(await tap('vm3')).toMatchObject({ multi_queue: false });
    await anka.ok('stop -f vm3');
    await anka.ok('modify vm3 set cpu 2');
    await anka.ok('start vm3');
    await anka.address('vm3');
    expect(await queues('vm3')).toBe(TWO_PAIRS);
    await anka.ok('delete --yes vm3');
  });

  test('a card that is deleted and added has them again', async () => {
    await anka.ok('modify vm1 delete network-card');
    await anka.plug('modify vm1 add network-card', 'vm1', 'shared');
    expect(await queues('vm1')).toBe(TWO_PAIRS);
    await anka.reaches('vm1', INTERNET);
    expect(await tap('vm1')).toMatchObject({ multi_queue: true, numqueues: 2 });
  });

  test('a resumed guest has them, and traffic', async () => {
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
    await anka.reaches('vm1', INTERNET);
    expect(await queues('vm1')).toBe(TWO_PAIRS);
    expect(await tap('vm1')).toMatchObject({ multi_queue: true, numqueues: 2 });
  });

  test('an upgrade: a guest that an earlier version started keeps its one queue; a card added later has two', async () => {
    await startWith({ guestQueues: 1, guestDriver: 'qemu' });
    await anka.address('vm1');
    expect(await queues('vm1')).toBe(PAIR);
    expect(await tap('vm1')).toMatchObject({ multi_queue: false });
    await anka.ok('suspend vm1');
    await anka.ok('start vm1');
    await anka.address('vm1');
    await anka.reaches('vm1', INTERNET);
    expect(await queues('vm1')).toBe(PAIR);
    await anka.ok('modify vm1 delete network-card');
    await anka.plug('modify vm1 add network-card', 'vm1', 'shared');
    expect(await queues('vm1')).toBe(TWO_PAIRS);
    await anka.reaches('vm1', INTERNET);
  });

  test('a guest that had vhost-net starts without it where the device is missing', async () => {
    await startWith({ guestQueues: 2, guestDriver: 'vhost' });
    await anka.reaches('vm1', INTERNET);
    expect(await queues('vm1')).toBe(TWO_PAIRS);
    const missingHere = vhostRefusal() !== null;
    expect((await qemu('vm1')).includes('vhostfds=')).toBe(!missingHere);
    expect(log().some((l) => l.includes('vhost-net cannot be opened'))).toBe(missingHere);
  });
});
