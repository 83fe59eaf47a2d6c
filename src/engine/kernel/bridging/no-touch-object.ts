/** The constant of bpf/no-touch-bridge.bpf.c: which interfaces, and whose addresses. Pure. */
import { AnkaError } from '../../../lib/errors.ts';

/** Most VMs of one interface: the size of the program's table. */
const TABLE_SIZE = 256;
const IS_VM = 1;
const IS_PARTED = 2;

export interface NoTouchTable {
  /** Interface indices of the host's card and of the port. */
  nic: number;
  port: number;
  /** The host's own address on the card. */
  hostMac: number;
  vms: readonly { mac: number; parted: boolean }[];
}

/** An address as the program reads it: the first byte of the frame is the lowest of the number. */
function littleEndian(mac: number): bigint {
  const b = Buffer.alloc(8);
  b.writeUIntBE(mac, 0, 6);
  return b.readBigUInt64LE();
}

/** The bytes after the marker. */
export function noTouchConstant(t: NoTouchTable): Buffer {
  if (t.vms.length > TABLE_SIZE) throw new AnkaError('network', `one interface carries at most ${TABLE_SIZE} VMs; bridge the others to another`);
  const b = Buffer.alloc(16 + TABLE_SIZE * 8);
  b.writeUInt32LE(t.nic, 0);
  b.writeUInt32LE(t.port, 4);
  b.writeBigUInt64LE(littleEndian(t.hostMac), 8);
  const rows = t.vms.map((v) => ({ key: littleEndian(v.mac), flags: v.parted ? IS_VM | IS_PARTED : IS_VM })).sort((x, y) => (x.key < y.key ? -1 : 1));
  for (let i = 0; i < TABLE_SIZE; i++) {
    const row = rows[i];
    b.writeBigUInt64LE(row ? row.key | (BigInt(row.flags) << 48n) : 0xffffffffffffn, 16 + i * 8);
  }
  return b;
}
