/**
 * The header of a qcow2 image: what it must say for QEMU to open the image and nothing else.
 *
 * Format: docs/interop/qcow2.txt of QEMU; numbers are big-endian. Limits: the tables' positions are checked, not their
 * contents. QEMU checks these when it opens the image, as the user that it runs as.
 */
const MAGIC = 0x514649fb;
/** Offsets of the fields. */
const FIELD = {
  version: 4,
  backingOffset: 8,
  backingLength: 16,
  clusterBits: 20,
  size: 24,
  encryption: 32,
  l1Entries: 36,
  l1Offset: 40,
  refcountOffset: 48,
  refcountClusters: 56,
  incompatible: 72,
} as const;
/** Bytes of the header, by version. */
const HEADER_BYTES: Record<number, number> = { 2: 72, 3: 104 };
const CLUSTER_BITS = { least: 9, most: 21 } as const;
/** Incompatible features: an external data file, and all that QEMU 7.2 knows. */
const EXTERNAL_DATA = 4n;
const KNOWN_FEATURES = 31n;
/** QEMU's limits of the two tables that it reads at once, bytes. */
const L1_BYTES = 32 << 20;
const REFCOUNT_BYTES = 8 << 20;

export type Qcow2 =
  | { kind: 'whole'; virtualSize: number }
  /** It names another file: a backing file or an external data file. `name` is empty if it is not in `head`. */
  | { kind: 'refers'; name: string }
  | { kind: 'damaged'; why: string };

export const isQcow2 = (head: Buffer): boolean => head.length >= 4 && head.readUInt32BE(0) === MAGIC;

/** `head`: the image's first bytes, as many as there are up to 4096. `fileSize` in bytes. */
export function examineQcow2(head: Buffer, fileSize: number): Qcow2 {
  const damaged = (why: string): Qcow2 => ({ kind: 'damaged', why });
  if (head.length < FIELD.version + 4) return damaged('its header is incomplete');
  const version = head.readUInt32BE(FIELD.version);
  const needed = HEADER_BYTES[version];
  if (needed === undefined) return damaged(`its version is ${version}`);
  if (head.length < needed) return damaged('its header is incomplete');
  const features = version === 2 ? 0n : head.readBigUInt64BE(FIELD.incompatible);
  const backing = head.readBigUInt64BE(FIELD.backingOffset);
  if (backing !== 0n || (features & EXTERNAL_DATA) !== 0n) return { kind: 'refers', name: backingName(head, Number(backing)) };
  if ((features & ~KNOWN_FEATURES) !== 0n) return damaged('it has unknown features');
  if (head.readUInt32BE(FIELD.encryption) !== 0) return damaged('it is encrypted');
  const bits = head.readUInt32BE(FIELD.clusterBits);
  if (bits < CLUSTER_BITS.least || bits > CLUSTER_BITS.most) return damaged(`its cluster size is 2^${bits}`);
  const virtualSize = Number(head.readBigUInt64BE(FIELD.size));
  const outside = tableOutside(head, { cluster: 2 ** bits, fileSize, virtualSize });
  return outside === null ? { kind: 'whole', virtualSize } : damaged(outside);
}

function backingName(head: Buffer, at: number): string {
  const length = head.readUInt32BE(FIELD.backingLength);
  return at === 0 || at + length > head.length ? '' : head.toString('utf8', at, at + length);
}

/** Why QEMU could not read one of the tables; null if it can. */
function tableOutside(head: Buffer, image: { cluster: number; fileSize: number; virtualSize: number }): string | null {
  const { cluster, fileSize, virtualSize } = image;
  const entries = head.readUInt32BE(FIELD.l1Entries);
  // an L2 table is one cluster of entries of 8 bytes, or of 16 with extended entries
  if (entries * 8 > L1_BYTES || entries < Math.ceil(virtualSize / (cluster * (cluster / 8)))) return `its first table has ${entries} entries`;
  const tables: [name: string, offset: number, bytes: number, most: number][] = [
    ['first table', Number(head.readBigUInt64BE(FIELD.l1Offset)), entries * 8, L1_BYTES],
    ['reference counts', Number(head.readBigUInt64BE(FIELD.refcountOffset)), head.readUInt32BE(FIELD.refcountClusters) * cluster, REFCOUNT_BYTES],
  ];
  for (const [name, offset, bytes, most] of tables) {
    if (bytes > most || offset % cluster !== 0) return `its ${name} cannot be read`;
    if (bytes > 0 && offset + bytes > fileSize) return `its ${name} is beyond the end of the file`;
  }
  return null;
}
