/**
 * Disks: thin overlays of disk images, and checks of such images.
 *
 * Theory of operation: qemu-img opens no image. Somebody else has made it, and its header can name any file as its
 * backing file, which qemu-img would open with our rights. We read the header ourselves; QEMU is the only program that
 * opens the image, as the VM's user.
 */
import { constants, type FileHandle, open, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { run } from '../host/exec.ts';
import { AnkaError, wrap } from '../lib/errors.ts';
import { examineQcow2, isQcow2 } from './qcow2.ts';

export interface ImageInfo {
  format: 'qcow2' | 'raw';
  /** Size that the guest sees, bytes. */
  virtualSize: number;
}

/** Free space required for a new disk, bytes: an overlay takes 200 kB, and the guest writes while it boots. */
const FREE_SPACE_NEEDED = 64 << 20;
/** Bytes of an image that are read. */
const HEAD_BYTES = 4096;
const SECTOR = 512;
const ACCEPTED = 'use a qcow2 or raw disk image, such as a cloud image';
/** A fifo that replaces the image meanwhile is not waited for. */
const OPEN = constants.O_RDONLY | constants.O_NONBLOCK;

/**
 * Format and size of a disk image. Throws `badImage` for a file that is neither qcow2 nor a raw disk with a partition
 * table or an ext file system, for one that refers to another file, and for one that QEMU could not open.
 */
export async function inspectImage(path: string): Promise<ImageInfo> {
  const { head, size } = await readHead(path);
  if (!isQcow2(head)) {
    const hasPartitionTable = head.length >= 512 && head.readUInt16LE(510) === 0xaa55;
    const isExt = head.length >= 2048 && head.readUInt16LE(1080) === 0xef53;
    if (!hasPartitionTable && !isExt) throw new AnkaError('badImage', `'${path}' is not a disk image; ${ACCEPTED}`);
    return { format: 'raw', virtualSize: Math.ceil(size / SECTOR) * SECTOR };
  }
  const found = examineQcow2(head, size);
  if (found.kind === 'damaged') throw new AnkaError('badImage', `'${path}' cannot be used: ${found.why}; ${ACCEPTED}`);
  if (found.kind === 'refers') {
    const name = found.name === '' ? '' : ` (${found.name.replace(/[^\x20-\x7e]/g, '?')})`;
    throw new AnkaError(
      'badImage',
      `'${path}' refers to another file${name}, which a guest must not read; if you trust it, run 'qemu-img convert -O qcow2 ${path} whole.qcow2' and use whole.qcow2`,
    );
  }
  return { format: 'qcow2', virtualSize: found.virtualSize };
}

/** The first bytes of a file, and its size. Throws `badImage`. */
async function readHead(path: string): Promise<{ head: Buffer; size: number }> {
  const demandImage = (s: Awaited<ReturnType<FileHandle['stat']>>): void => {
    if (!s.isFile() && !s.isBlockDevice()) throw new AnkaError('badImage', `'${path}' is a directory or device, not a disk image; ${ACCEPTED}`);
  };
  try {
    demandImage(await stat(path)); // opening some devices has effects
    const file = await open(path, OPEN);
    try {
      const now = await file.stat();
      demandImage(now);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(HEAD_BYTES), 0, HEAD_BYTES, 0);
      return { head: buffer.subarray(0, bytesRead), size: Number(now.size) };
    } finally {
      await file.close();
    }
  } catch (cause) {
    if (cause instanceof AnkaError) throw cause;
    const code = (cause as NodeJS.ErrnoException).code;
    throw new AnkaError('badImage', code === 'ENOENT' ? `'${path}' does not exist; ${ACCEPTED}` : `'${path}' cannot be read: ${(cause as Error).message}`);
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
    // -u: the image is not opened
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-F', info.format, '-b', backing, part, String(size)]);
    await rename(part, path);
  } catch (cause) {
    await rm(part, { force: true });
    if (/No space left/.test(String((cause as Error).message)))
      throw new AnkaError('diskFull', `no space left in ${dirname(path)}; delete a VM or free some space`);
    throw wrap(`creating the disk ${path}`, cause);
  }
}
