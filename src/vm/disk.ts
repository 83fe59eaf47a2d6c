/** Disks: thin overlays of an image, and what may be such an image. */
import { open, rename, rm, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { run } from '../host/exec.ts';
import { AnkaError, wrap } from '../lib/errors.ts';

export interface ImageInfo {
  format: 'qcow2' | 'raw';
  /** Size that the guest sees, bytes. */
  virtualSize: number;
  /** Bytes on the host. */
  actualSize: number;
}

/** Bytes that must be free before a disk is made; an overlay takes 200 kB, and a guest needs room to boot. */
const ROOM_NEEDED = 64 << 20;
const ACCEPTED = 'accepted are qcow2 and raw disk images, cloud images included';

/**
 * What a file is. Throws `badImage` for anything that is neither qcow2 nor a raw disk with a partition table or a file
 * system.
 */
export async function inspectImage(path: string): Promise<ImageInfo> {
  const head = Buffer.alloc(4096);
  let size = 0;
  try {
    const file = await open(path);
    try {
      const stat = await file.stat();
      if (!stat.isFile() && !stat.isBlockDevice()) throw new AnkaError('badImage', `'${path}' is no disk image but a folder or device; ${ACCEPTED}`);
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
  const qcow = head.readUInt32BE(0) === 0x514649fb;
  const partitioned = size >= 512 && head.readUInt16LE(510) === 0xaa55;
  const ext = size >= 2048 && head.readUInt16LE(1080) === 0xef53;
  if (!qcow && !partitioned && !ext) throw new AnkaError('badImage', `'${path}' is no disk image; ${ACCEPTED}`);
  try {
    const info = JSON.parse(await run('qemu-img', ['info', '--output=json', '-f', qcow ? 'qcow2' : 'raw', path])) as Record<string, unknown>;
    const refers = info['backing-filename'] ?? (info['format-specific'] as { data?: Record<string, unknown> } | undefined)?.data?.['data-file'];
    if (refers !== undefined)
      throw new AnkaError(
        'badImage',
        `'${path}' refers to another file (${String(refers)}), which a guest must not reach; 'qemu-img convert -O qcow2 ${path} whole.qcow2' makes it stand alone`,
      );
    return { format: qcow ? 'qcow2' : 'raw', virtualSize: Number(info['virtual-size']), actualSize: Number(info['actual-size']) };
  } catch (cause) {
    if (cause instanceof AnkaError && (cause.kind === 'missingProgram' || cause.kind === 'badImage')) throw cause;
    throw new AnkaError('badImage', `'${path}' is damaged: ${(cause as Error).message}; ${ACCEPTED}`);
  }
}

/**
 * Makes `path` a qcow2 of `size` bytes that reads through to `backing`; written beside and renamed. A size below the
 * backing's is refused.
 */
export async function createOverlay(path: string, backing: string, size: number): Promise<void> {
  const info = await inspectImage(backing);
  if (size < info.virtualSize)
    throw new AnkaError('badValue', `a disk of ${size} bytes is smaller than its image, which has ${info.virtualSize}; give a larger --disk-size`);
  const room = await statfs(dirname(path));
  if (room.bavail * room.bsize < ROOM_NEEDED)
    throw new AnkaError(
      'diskFull',
      `no room for a disk in ${dirname(path)}: ${Math.floor((room.bavail * room.bsize) / 1048576)} MiB are free; delete a VM or free some space`,
    );
  const part = `${path}.part`;
  try {
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', info.format, '-b', backing, part, String(size)]);
    await rename(part, path);
  } catch (cause) {
    await rm(part, { force: true });
    if (/No space left/.test(String((cause as Error).message))) throw new AnkaError('diskFull', `no space left in ${dirname(path)}`);
    throw wrap(`making the disk ${path}`, cause);
  }
}
