/**
 * The NoCloud seed: a FAT image labelled `CIDATA` that configures user anka, its password and its key by cloud-init.
 */
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../host/exec.ts';
import { wrap } from '../lib/errors.ts';

/** cloud-init's user-data. Password login is enabled. */
function userData(name: string, publicKey: string): string {
  return `#cloud-config
hostname: ${name.replaceAll(/[^A-Za-z0-9-]/g, '-')}
ssh_pwauth: true
users:
  - name: anka
    gecos: Anka
    groups: [sudo, wheel, adm]
    sudo: 'ALL=(ALL) NOPASSWD:ALL'
    shell: /bin/bash
    lock_passwd: false
    plain_text_passwd: admin
    ssh_authorized_keys:
      - ${publicKey}
chpasswd:
  expire: false
`;
}

/** Writes the seed image to `path`. Requires mkfs.vfat and mcopy (Debian: dosfstools, mtools). */
export async function writeSeed(path: string, uuid: string, name: string, publicKey: string): Promise<void> {
  const work = await mkdtemp(`${path}.`);
  try {
    await writeFile(join(work, 'user-data'), userData(name, publicKey));
    await writeFile(join(work, 'meta-data'), `instance-id: ${uuid}\nlocal-hostname: ${name}\n`);
    const image = join(work, 'seed.img');
    await run('mkfs.vfat', ['-C', '-n', 'CIDATA', image, '1024']);
    await run('mcopy', ['-i', image, join(work, 'user-data'), join(work, 'meta-data'), '::']);
    await rename(image, path);
  } catch (cause) {
    throw wrap(`creating the cloud-init seed of ${name}`, cause);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
