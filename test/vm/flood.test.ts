/**
 * A real guest whose neighbour sends it more than it can take, on the user engine: QEMU would keep any number of frames
 * for it. The neighbour is a source of frames that takes no time (bench/frames.c); QEMU is run by hand, as the engine's
 * cards are all that is needed.
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

describe.skipIf(why !== null)(`a real guest that is flooded${why === null ? '' : ` (${why})`}`, () => {
  let w: World;
  let e: RemoteEngine;
  let ssh: string;
  /** QEMU's. */
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
    'B91: frames of %i bytes, as many as the network takes: it is reached, reaches outside, and QEMU keeps no more than before',
    async (size) => {
      const before = memoryOf(pid);
      const had = await received();
      const program = compiled(new URL('../../bench/frames.c', import.meta.url));
      const source = [(await e.openNic(vmId(SOURCE))).path, macText(SOURCE), `192.168.64.10${SOURCE}`, '-', macText(1), formatIpv4(ip), String(size), '600'];
      const flood = w.host.spawn([program, ...source]);
      try {
        await until('it is at it', async () => (await received()) > had + 20_000);
        await sleep(3000);
        const inside = 'ping -c 3 192.168.64.1 | grep -c from; nc -w 20 198.51.100.1 8080 </dev/null | head -c 7';
        const began = performance.now();
        expect(await w.host.ask(`${ssh} '${inside}'`)).toMatch(/^[1-3]\noutside/);
        console.info(
          `${size}: ${(await received()) - had} frames, ssh with three pings and a connection took ${(performance.now() - began).toFixed(0)} ms, QEMU has ${(memoryOf(pid) - before) >> 20} MB more`,
        );
        // where it keeps them, 64-byte frames make hundreds of MB of this by now
        expect(memoryOf(pid) - before).toBeLessThan(64 << 20);
      } finally {
        flood.kill();
      }
      await until('it is itself again', async () => (await w.host.ask(`${ssh} true`)) !== null);
    },
  );
});
