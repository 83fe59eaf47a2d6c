/** Disks: thin overlays of disk images, and checks of such images. */
import { open, rename, rm, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { run } from '../host/exec.ts';
import { AnkaError, wrap } from '../lib/errors.ts';

export interface ImageInfo {
  format: 'qcow2' | 'raw';
  /** Size that the guest sees, bytes. */
  virtualSize: number;
}

/** Free space required for a new disk, bytes: an overlay takes 200 kB, and the guest writes while it boots. */
const FREE_SPACE_NEEDED = 64 << 20;
const ACCEPTED = 'use a qcow2 or raw disk image, such as a cloud image';

/**
 * Format and size of a disk image. Throws `badImage` for a file that is neither qcow2 nor a raw disk with a partition
 * table or an ext file system, and for one that refers to another file.
 */
export async function inspectImage(path: string): Promise<ImageInfo> {
  const head = Buffer.alloc(4096);
  let size = 0;
  try {
    const file = await open(path);
    try {
      const stat = await file.stat();
      if (!stat.isFile() && !stat.isBlockDevice()) throw new AnkaError('badImage', `'${path}' is a directory or device, not a disk image; ${ACCEPTED}`);
      size = stat.size;
      await file.read(head, 0, head.length, 0);
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof AnkaError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code;
    throw new AnkaError('badImage', code === 'ENOENT' ? `'${path}' does not exist; ${ACCEPTED}` : `'${path}' cannot be read: ${(cause as Error).message}`);
  }
  const isQcow2 = head.readUInt32BE(0) === 0x514649fb;
  const hasPartitionTable = size >= 512 && head.readUInt16LE(510) === 0xaa55;
  const isExt = size >= 2048 && head.readUInt16LE(1080) === 0xef53;
  if (!isQcow2 && !hasPartitionTable && !isExt) throw new AnkaError('badImage', `'${path}' is not a disk image; ${ACCEPTED}`);
  try {
    const info = JSON.parse(await run('qemu-img', ['info', '--output=json', '-f', isQcow2 ? 'qcow2' : 'raw', path])) as Record<string, unknown>;
    const reference = info['backing-filename'] ?? (info['format-specific'] as { data?: Record<string, unknown> } | undefined)?.data?.['data-file'];
    if (reference !== undefined)
      throw new AnkaError(
        'badImage',
        `'${path}' refers to another file (${String(reference)}), which a guest must not read; run 'qemu-img convert -O qcow2 ${path} whole.qcow2' and use whole.qcow2`,
      );
    return { format: isQcow2 ? 'qcow2' : 'raw', virtualSize: Number(info['virtual-size']) };
  } catch (cause) {
    if (cause instanceof AnkaError && (cause.kind === 'missingProgram' || cause.kind === 'badImage')) throw cause;
    throw new AnkaError('badImage', `'${path}' is damaged: ${(cause as Error).message}; ${ACCEPTED}`);
  }
}

/**
 * Creates a qcow2 overlay of `size` bytes on `backing`, under another name first. Throws `badValue` for a size below
 * the backing image's.
 */
export async function createOverlay(path: string, backing: string, size: number): Promise<void> {
  const info = await inspectImage(backing);
  if (size < info.virtualSize)
    throw new AnkaError('badValue', `a disk of ${size} bytes is smaller than its image of ${info.virtualSize}; use a larger --disk-size`);
  const space = await statfs(dirname(path));
  if (space.bavail * space.bsize < FREE_SPACE_NEEDED)
    throw new AnkaError(
      'diskFull',
      `not enough space for a disk in ${dirname(path)}: ${Math.floor((space.bavail * space.bsize) / 1048576)} MiB free; delete a VM or free some space`,
    );
  const part = `${path}.part`;
  try {
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', info.format, '-b', backing, part, String(size)]);
    await rename(part, path);
  } catch (cause) {
    await rm(part, { force: true });
    if (/No space left/.test(String((cause as Error).message)))
      throw new AnkaError('diskFull', `no space left in ${dirname(path)}; delete a VM or free some space`);
    throw wrap(`creating the disk ${path}`, cause);
  }
}
