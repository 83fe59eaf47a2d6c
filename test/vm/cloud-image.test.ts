/**
 * B1: `--app` boots a disk with its own boot loader, and the guest takes its name and key from the NoCloud seed. The
 * test makes the image: the tiny guest behind syslinux, with an init that reads the seed's files from the second disk,
 * where they lie uncompressed, as cloud-init would.
 */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Anka } from '../world/anka.ts';
import { tinyGuest } from '../world/images.ts';
import { missing, World } from '../world/world.ts';

const why = missing('root', 'netns', 'tun', 'qemu');
const INIT = fileURLToPath(new URL('tiny/init.sh', import.meta.url));
const READ_SEED = `grep -ao "ssh-ed25519 [A-Za-z0-9+/=]*" /dev/vdb >/home/anka/.ssh/authorized_keys
hostname "$(grep -ao "local-hostname: .*" /dev/vdb | cut -d" " -f2)"`;

/** A raw disk with a boot loader. */
function makeImage(dir: string): string {
  const sh = (line: string): void =>
    void execFileSync('sh', ['-ec', line], { cwd: dir, env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  const init = readFileSync(INIT, 'utf8').replace('hostname anka-vm', READ_SEED);
  expect(init).toContain(READ_SEED);
  writeFileSync(join(dir, 'init'), init);
  chmodSync(join(dir, 'init'), 0o755);
  writeFileSync(
    join(dir, 'syslinux.cfg'),
    'DEFAULT tiny\nLABEL tiny\n KERNEL vmlinuz\n INITRD initrd.img\n APPEND console=ttyS0 quiet loglevel=3 net.ifnames=0\n',
  );
  // files of a later archive replace those of an earlier one
  sh(`echo init | cpio -o -H newc -R 0:0 --quiet | gzip | cat ${tinyGuest()}/initrd.img - >initrd.img`);
  sh(`mkfs.vfat -C disk.raw 65536 >/dev/null; syslinux --install disk.raw; mcopy -i disk.raw ${tinyGuest()}/vmlinuz initrd.img syslinux.cfg ::`);
  sh('qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2');
  return dir;
}

describe.skipIf(why !== null)(`images with a boot loader${why ? ` (${why})` : ''}`, () => {
  let w: World;
  let anka: Anka;
  let dir: string;

  beforeAll(() => {
    w = new World('vc-');
    anka = new Anka(w, tinyGuest());
    dir = join(w.dir, 'image');
    mkdirSync(dir);
    makeImage(dir);
  });

  afterAll(async () => {
    if (!w) return;
    await anka.end();
    w.close();
  });

  test.each(['raw', 'qcow2'])('B1, B14: a %s image boots, takes name and key from the seed, and is reachable', async (format) => {
    const vm = `my-${format}`;
    await anka.ok(`create -m 256M -c 1 -d 1G --app ${join(dir, `disk.${format}`)} ${vm}`);
    await anka.ok(`start ${vm}`);
    expect(await anka.address(vm)).toMatch(/^192\.168\.64\./);
    expect(await anka.ok(`run ${vm} hostname`)).toBe(`${vm}\n`);
    await anka.ok(`stop -f ${vm}`);
  });

  test('B1: the seed contains user, password and key, and enables password login', async () => {
    const uuid = (await anka.ok('show my-raw uuid')).trim();
    const seed = join(anka.home, 'vms', uuid, 'seed.img');
    const { uid, mode } = statSync(seed);
    expect([uid, mode & 0o777], 'QEMU gets it as a descriptor').toEqual([process.getuid?.(), 0o600]);
    const text = (name: string): string => execFileSync('mtype', ['-i', seed, `::${name}`]).toString();
    const key = readFileSync(join(anka.home, 'id_ed25519.pub'), 'utf8').trim();
    expect(text('user-data')).toMatch(/^#cloud-config\n/);
    for (const line of ['ssh_pwauth: true', 'name: anka', 'plain_text_passwd: admin', 'NOPASSWD:ALL', `- ${key}`]) expect(text('user-data')).toContain(line);
    expect(text('meta-data')).toBe(`instance-id: ${uuid}\nlocal-hostname: my-raw\n`);
  });

  test('B3, B43: cloud-init sees a clone as a new machine', async () => {
    await anka.ok('clone my-qcow2 other');
    await anka.ok('start other');
    expect(await anka.ok('run other hostname')).toBe('other\n');
  });
});
