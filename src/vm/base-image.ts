/**
 * The built-in Debian guest, built once per host (B2).
 *
 * Theory of operation: mmdebstrap creates a root file system as a tar, without root, in a user namespace. The tar is
 * unpacked in a user namespace and converted to ext4 (`mke2fs -d`), then to qcow2. There is no loop device and no boot
 * loader: QEMU loads the image's kernel and an initrd of 1 MB that loads the virtio modules and mounts the disk. The
 * package sources are those of the host's apt. The image is built in another directory and renamed when complete, so an
 * interrupted build is never used.
 *
 * Limits: Debian hosts only (apt must have a Debian suite), amd64 kernel only. `ANKA_BASE_IMAGE` names a directory with
 * the `base.json` of another image to use instead; tests boot a tiny guest this way.
 */

import { chmod, copyFile, mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { execa } from 'execa';
import { runLong } from '../host/exec.ts';
import { isAlive } from '../host/process.ts';
import { AnkaError, wrap } from '../lib/errors.ts';
import { PACKAGE_ROOT } from '../lib/package-root.ts';
import type { BaseImage, Progress } from './machine.ts';

const ASSETS = fileURLToPath(new URL('assets/guest/', PACKAGE_ROOT));
const PACKAGES = [
  'systemd-sysv',
  'systemd-resolved',
  'dbus',
  'udev',
  'openssh-server',
  'sshfs',
  'sudo',
  'iproute2',
  'iputils-ping',
  'linux-image-cloud-amd64',
  'tiny-initramfs',
  'ca-certificates',
  'netbase',
  'kmod',
  'curl',
];
/** Kernel modules for the root disk and the card; their dependencies are added. */
const BOOT_MODULES = ['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio_rng', 'ext4'];
const VERSION = 1;
/** A lock file without a pid is taken over after this time. */
const LOCK_WITHOUT_PID_MS = 5000;
/** Size of the image's file system; the guest enlarges it to the VM's disk size. */
const IMAGE_SIZE = '3G';
/** Fraction of the build that is complete when each step begins, as measured. */
const STEP_FRACTIONS = { packages: 0.02, unpack: 0.7, disk: 0.8, compress: 0.92 } as const;

const PROGRAMS: [program: string, pkg: string][] = [
  ['mmdebstrap', 'mmdebstrap'],
  ['mke2fs', 'e2fsprogs'],
  ['qemu-img', 'qemu-utils'],
  ['ssh-keygen', 'openssh-client'],
  ['cpio', 'cpio'],
  ['depmod', 'kmod'],
  ['busybox', 'busybox-static'],
];

/** Progress texts for mmdebstrap's messages. */
const MMDEBSTRAP_STEPS: [start: string, text: string][] = [
  ['running --customize-hook', 'configuring user, ssh and network'],
  ['chroot architecture', 'fetching Debian packages'],
  ['finding correct signed-by', 'fetching Debian packages'],
  ['using ', 'fetching Debian packages'],
  ['creating tarball', 'packing'],
  ['removing tempdir', 'packing'],
  ['success in', 'packing'],
  ['done', 'packing'],
];

interface BaseManifest {
  version: number;
  disk: string;
  kernel: string;
  initrd: string;
  append: string;
  identityFile: string;
}

/** The complete image in this directory, or null. */
export async function findBaseImage(dir: string): Promise<BaseImage | null> {
  const base = process.env['ANKA_BASE_IMAGE'] || dir;
  const text = await readFile(join(base, 'base.json'), 'utf8').catch(() => null);
  if (text === null) {
    if (base !== dir) throw new AnkaError('badImage', `ANKA_BASE_IMAGE is '${base}', which has no base.json`);
    return null;
  }
  const m = JSON.parse(text) as BaseManifest;
  if (m.version !== VERSION) return null;
  return {
    disk: join(base, m.disk),
    kernel: join(base, m.kernel),
    initrd: join(base, m.initrd),
    append: m.append,
    identityFile: join(base, m.identityFile),
  };
}

/** The image in this directory, built if it is missing. Concurrent callers, in any process, build it once. */
export async function ensureBaseImage(dir: string, progress: Progress = () => {}): Promise<BaseImage> {
  for (;;) {
    const found = await findBaseImage(dir);
    if (found) return found;
    const release = await takeLock(`${dir}.lock`);
    if (!release) {
      progress('waiting for another process to build the base image');
      await new Promise((resolve) => setTimeout(resolve, 500));
      continue;
    }
    try {
      if (!(await findBaseImage(dir))) await build(dir, progress);
    } finally {
      await release();
    }
  }
}

/**
 * Takes a lock file, which holds its owner's pid. Null if another process holds it; that of an exited process is
 * removed.
 */
async function takeLock(path: string): Promise<(() => Promise<void>) | null> {
  try {
    const file = await open(path, 'wx', 0o600);
    await file.writeFile(String(process.pid));
    await file.close();
    return () => rm(path, { force: true });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw wrap(`locking ${path}`, cause);
  }
  const owner = Number(await readFile(path, 'utf8').catch(() => '0'));
  // its owner has created it and not yet written its pid
  if (owner === 0 && Date.now() - ((await stat(path).catch(() => null))?.mtimeMs ?? 0) < LOCK_WITHOUT_PID_MS) return null;
  if (owner <= 0 || !isAlive(owner)) await rm(path, { force: true });
  return null;
}

async function checkPrograms(): Promise<void> {
  const missing: string[] = [];
  for (const [program, pkg] of PROGRAMS) {
    const there = await runLong('sh', ['-c', 'command -v "$1"', 'sh', program]).then(
      () => true,
      () => false,
    );
    if (!there) missing.push(pkg);
  }
  if (missing.length > 0)
    throw new AnkaError('missingProgram', `building the base image requires ${missing.join(', ')}: run 'apt-get install ${missing.join(' ')}'`);
}

async function build(dir: string, progress: Progress): Promise<void> {
  await checkPrograms();
  const parent = join(dir, '..');
  const interrupted = (await readdir(parent)).filter((f) => f.startsWith(`${basename(dir)}.build-`));
  for (const old of interrupted) await rm(join(parent, old), { recursive: true, force: true });
  const work = `${dir}.build-${process.pid}`;
  await mkdir(join(work, 'out'), { recursive: true, mode: 0o755 });
  try {
    await buildIn(work, progress);
    await rm(dir, { recursive: true, force: true });
    await rename(join(work, 'out'), dir);
  } catch (cause) {
    const log = await readFile(join(work, 'mmdebstrap.log'), 'utf8').catch(() => '');
    if (/No space left/.test(log) || /No space left/.test(String((cause as Error).message)))
      throw new AnkaError('diskFull', `building the base image: no space left in ${parent}; free some space`);
    throw wrap('building the base image', cause, 'badImage');
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Creates an ssh key pair at this path, unless it exists. */
export async function ensureKey(path: string): Promise<void> {
  if (
    await readFile(path).then(
      () => true,
      () => false,
    )
  )
    return;
  await rm(`${path}.pub`, { force: true });
  await runLong('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-C', 'anka', '-f', path]);
}

async function buildIn(work: string, progress: Progress): Promise<void> {
  const out = join(work, 'out');
  const key = join(out, 'id_ed25519');
  progress('creating the ssh key', 0);
  await ensureKey(key);
  const publicKey = (await readFile(`${key}.pub`, 'utf8')).trim();
  await fetchPackages(work, publicKey, progress);
  progress('unpacking', STEP_FRACTIONS.unpack);
  await makeBootFiles(work);
  await makeDisk(work, progress);
  const manifest: BaseManifest = {
    version: VERSION,
    disk: 'disk.qcow2',
    kernel: 'vmlinuz',
    initrd: 'initrd.img',
    append: 'root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 random.trust_cpu=on',
    identityFile: 'id_ed25519',
  };
  await chmod(out, 0o755);
  await writeFile(join(out, 'base.json'), JSON.stringify(manifest, null, 2));
  progress('base image built', 1);
}

/** Runs mmdebstrap with the host's package sources. */
async function fetchPackages(work: string, publicKey: string, progress: Progress): Promise<void> {
  progress('fetching Debian packages', STEP_FRACTIONS.packages);
  const { suite, sources } = await hostSources();
  const list = join(work, 'sources.list');
  await writeFile(list, `${sources.join('\n')}\n`);
  await copyFile(join(ASSETS, 'customize.sh'), join(work, 'customize.sh'));
  await chmod(join(work, 'customize.sh'), 0o755);
  const root = process.getuid?.() === 0;
  const args = [
    `--mode=${root ? 'root' : 'unshare'}`,
    '--variant=apt',
    '--format=tar',
    `--include=${PACKAGES.join(',')}`,
    '--aptopt=APT::Install-Recommends "false"',
    ...['man', 'doc', 'locale'].map((d) => `--dpkgopt=path-exclude=/usr/share/${d}/*`),
    `--customize-hook=sh '${join(work, 'customize.sh')}' "$1" '${publicKey}'`,
    suite,
    join(work, 'root.tar'),
    list,
  ];
  const child = execa('mmdebstrap', args, { stdin: 'ignore', all: true, reject: false, env: { PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } });
  const log = await open(join(work, 'mmdebstrap.log'), 'w');
  let fraction: number = STEP_FRACTIONS.packages;
  for await (const line of child.iterable({ from: 'all' })) {
    await log.write(`${line}\n`);
    const step = /^I: (.*?)\.*$/.exec(line)?.[1];
    if (!step) continue;
    fraction = Math.min(STEP_FRACTIONS.unpack - 0.02, fraction + 0.06);
    progress(MMDEBSTRAP_STEPS.find(([start]) => step.startsWith(start))?.[1] ?? step, fraction);
  }
  await log.close();
  const result = await child;
  if (result.failed) {
    const lines = (await readFile(join(work, 'mmdebstrap.log'), 'utf8')).trim().split('\n');
    throw new Error(lines.filter((l) => l.startsWith('E:')).at(-1) ?? lines.at(-1) ?? 'mmdebstrap failed');
  }
}

/** The host's Debian suite, and its sources as lines of sources.list, with security updates. */
async function hostSources(): Promise<{ suite: string; sources: string[] }> {
  const text = await runLong('apt-get', ['indextargets', '--format', '$(CREATED_BY)|$(REPO_URI)|$(CODENAME)|$(SUITE)|$(COMPONENT)|$(SIGNED_BY)']);
  const lines = new Set<string>();
  let suite = '';
  for (const line of text.split('\n')) {
    const [kind, uri, codename, , component, signedBy] = line.split('|');
    if (kind !== 'Packages' || !uri || !codename || component !== 'main') continue;
    if (!/[-/]/.test(codename) && !suite) suite = codename;
    const keyring = signedBy?.startsWith('/') ? `[signed-by=${signedBy}] ` : '';
    lines.add(`deb ${keyring}${uri} ${codename} main`);
  }
  if (!suite) throw new Error("apt has no Debian suite on this host; run 'apt-get update' first");
  return { suite, sources: [...lines].filter((s) => s.split(' ').some((w) => w === suite || w.startsWith(`${suite}-`))) };
}

/** Extracts the kernel, and builds an initrd with the modules in loading order. */
async function makeBootFiles(work: string): Promise<void> {
  const tree = join(work, 'boot');
  const ramdisk = join(work, 'initrd');
  await mkdir(tree);
  await mkdir(join(ramdisk, 'lib/mods'), { recursive: true });
  for (const d of ['bin', 'proc', 'sys', 'dev', 'mnt']) await mkdir(join(ramdisk, d));
  await runLong('tar', ['-C', tree, '--no-same-owner', '--wildcards', '-xf', join(work, 'root.tar'), './boot/vmlinuz*', './usr/lib/modules/*']).catch(() =>
    runLong('tar', ['-C', tree, '--no-same-owner', '--wildcards', '-xf', join(work, 'root.tar'), './boot/vmlinuz*', './lib/modules/*']),
  );
  const kernel = (await readdir(join(tree, 'boot'))).find((f) => f.startsWith('vmlinuz-'));
  if (!kernel) throw new Error('no kernel in the image');
  await copyFile(join(tree, 'boot', kernel), join(work, 'out', 'vmlinuz'));
  await chmod(join(work, 'out', 'vmlinuz'), 0o644);
  await runLong('sh', ['-c', '[ -e "$1/lib" ] || ln -s usr/lib "$1/lib"', 'sh', tree]);
  const version = kernel.slice('vmlinuz-'.length);
  await runLong('depmod', ['-b', tree, version]);
  await packInitrd(tree, version, ramdisk, join(work, 'out', 'initrd.img'));
}

/** Packs busybox, `init` and the boot modules with their dependencies into an initrd. */
async function packInitrd(tree: string, version: string, ramdisk: string, out: string): Promise<void> {
  const order: string[] = [];
  for (const module of BOOT_MODULES) {
    const text = await runLong('modprobe', ['-d', tree, '-S', version, '--show-depends', module]);
    for (const line of text.split('\n')) {
      const file = /^insmod (\S+)/.exec(line)?.[1];
      if (!file || order.includes(basename(file))) continue;
      order.push(basename(file));
      await copyFile(file, join(ramdisk, 'lib/mods', basename(file)));
    }
  }
  await writeFile(join(ramdisk, 'lib/mods/order'), `${order.join('\n')}\n`);
  await copyFile((await runLong('sh', ['-c', 'command -v busybox'])).trim(), join(ramdisk, 'bin/busybox'));
  await chmod(join(ramdisk, 'bin/busybox'), 0o755);
  await copyFile(join(ASSETS, 'initrd-init.sh'), join(ramdisk, 'init'));
  await chmod(join(ramdisk, 'init'), 0o755);
  await runLong('sh', ['-c', '(find . | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet | gzip -9) >"$1"', 'sh', out], { cwd: ramdisk });
  await chmod(out, 0o644);
}

async function makeDisk(work: string, progress: Progress): Promise<void> {
  progress('creating the disk', STEP_FRACTIONS.disk);
  const script = [
    'set -e',
    'mkdir "$1/tree"',
    // device nodes cannot be created in a user namespace; the guest's /dev is a devtmpfs
    'tar -C "$1/tree" --numeric-owner --exclude="./dev/*" --xattrs --xattrs-include="*" -xpf "$1/root.tar"',
    'ln -sfn ../run/systemd/resolve/stub-resolv.conf "$1/tree/etc/resolv.conf"',
    'mke2fs -q -t ext4 -L anka-root -E lazy_itable_init=1 -d "$1/tree" "$1/root.img" "$2"',
    'rm -rf "$1/tree" "$1/root.tar"',
  ].join('\n');
  const shell = ['sh', '-c', script, 'sh', work, IMAGE_SIZE];
  if (process.getuid?.() === 0) await runLong(shell[0] as string, shell.slice(1));
  else await runLong('unshare', ['--user', '--map-auto', '--map-root-user', '--setuid', '0', '--setgid', '0', '--mount', ...shell]);
  progress('writing the disk', STEP_FRACTIONS.compress);
  const disk = join(work, 'out', 'disk.qcow2');
  await runLong('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', join(work, 'root.img'), disk]);
  await chmod(disk, 0o644);
}
