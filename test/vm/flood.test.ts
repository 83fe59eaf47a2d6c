/**
 * A real guest whose neighbour sends more than it can receive, on the user engine: QEMU alone would queue any number of
 * frames for it. The neighbour is a fast frame source (bench/frames.c); the test starts QEMU itself, as only the
 * engine's cards are needed.
 */
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatIpv4 } from '../../src/wire/address.ts';
import { macText, nic, rule, serve, state, vmId } from '../contract/guest-tools.ts';
import { compiled } from '../world/compile.ts';
import { tinyGuest } from '../world/images.ts';
import { RemoteEngine } from '../world/remote-engine.ts';
import { memoryOf, missing, until, World } from '../world/world.ts';

const why = missing('root', 'netns', 'qemu', 'cc');
const SOURCE = 5;

describe.skipIf(why !== null)(`a flooded real guest${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let ssh: string;
  /** The process id of QEMU. */
  let pid: number;
  let ip: number;
  const received = async (): Promise<number> => (await e.stats()).find((s) => s.id === vmId(1))?.rxPackets ?? 0;

  beforeAll(async () => {
    w = new World('fl-');
    e = new RemoteEngine(w, 'user');
    expect(await e.apply(state(nic(1, 'shared', { rules: [rule(2222, 22)] }), nic(SOURCE)))).toEqual([]);
    await serve(w.outside, 8080, 'outside');
    const image = join(w.dir, 'tiny');
    cpSync(tinyGuest(), image, { recursive: true });
    const { path } = await e.openNic(vmId(1));
    const base = JSON.parse(readFileSync(join(image, 'base.json'), 'utf8')) as { append: string };
    const qemu = w.host.spawn([
      ...['qemu-system-x86_64', '-machine', 'q35', '-accel', 'tcg', '-cpu', 'max', '-smp', '2', '-m', '256', '-nodefaults', '-display', 'none'],
      ...['-drive', `file=${image}/disk.qcow2,if=virtio,format=qcow2`, '-kernel', `${image}/vmlinuz`, '-initrd', `${image}/initrd.img`, '-append', base.append],
      ...['-netdev', `stream,id=n,server=on,addr.type=unix,addr.path=${path}`, '-device', `virtio-net-pci,netdev=n,mac=${macText(1)}`],
    ]);
    pid = qemu.pid as number;
    await until('QEMU listens', () => w.host.attempt(`chmod 666 ${path}`) !== null);
    ip = await until('it has an address', async () => (await e.observe()).nics.find((n) => n.id === vmId(1))?.ip);
    ssh = `ssh -i ${image}/id_ed25519 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -p 2222 anka@127.0.0.1`;
    await until('ssh answers', async () => (await w.host.ask(`${ssh} true`)) !== null);
  });

  afterAll(async () => {
    if (!w) return;
    await e.reset();
    w.close();
  });

  test.each([64, 530, 1514])(
    'B91: frames of %i bytes, as many as the network accepts: the guest is reachable, reaches outside, and QEMU’s memory does not grow',
    async (size) => {
      const before = memoryOf(pid);
      const had = await received();
      const program = compiled(new URL('../../bench/frames.c', import.meta.url));
      const source = [(await e.openNic(vmId(SOURCE))).path, macText(SOURCE), `192.168.64.10${SOURCE}`, '-', macText(1), formatIpv4(ip), String(size), '600'];
      const flood = w.host.spawn([program, ...source]);
      try {
        await until('the flood arrives', async () => (await received()) > had + 20_000);
        await sleep(3000);
        const inside = 'ping -c 3 192.168.64.1 | grep -c from; nc -w 20 198.51.100.1 8080 </dev/null | head -c 7';
        const began = performance.now();
        // on a busy machine three pings and a connection may take longer than their programs wait
        await until('the guest reaches outside', async () => /^[1-3]\noutside/.test((await w.host.ask(`${ssh} '${inside}'`)) ?? ''));
        console.info(
          `${size}: ${(await received()) - had} frames, ssh with three pings and a connection took ${(performance.now() - began).toFixed(0)} ms, QEMU has ${(memoryOf(pid) - before) >> 20} MB more`,
        );
        // if QEMU queued them, 64-byte frames would take hundreds of MB by now
        expect(memoryOf(pid) - before).toBeLessThan(64 << 20);
      } finally {
        flood.kill();
      }
      await until('it responds again', async () => (await w.host.ask(`${ssh} true`)) !== null);
    },
  );
});
